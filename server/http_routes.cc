#include "server/http_routes.h"

#include <array>

namespace millrace::server {
namespace {

constexpr AuthClass kPublic = AuthClass::kPublic;
constexpr AuthClass kKey = AuthClass::kKey;

constexpr auto kRoutes = std::to_array<Route>({
    {RouteId::kModels, "GET", "/v1/models", kKey, false, false},
    {RouteId::kModel, "GET", "/v1/models/", kKey, false, true},
    {RouteId::kChat, "POST", "/v1/chat/completions", kKey, false, false},
    {RouteId::kCompletion, "POST", "/v1/completions", kKey, false, false},
    {RouteId::kTokenize, "POST", "/tokenize", kKey, false, false},
    {RouteId::kDetokenize, "POST", "/detokenize", kKey, false, false},
    {RouteId::kVersion, "GET", "/version", kKey, false, false},
    {RouteId::kLive, "GET", "/livez", kPublic, true, false},
    {RouteId::kReady, "GET", "/readyz", kPublic, true, false},
    {RouteId::kReady, "GET", "/health", kPublic, true, false},
    {RouteId::kReady, "GET", "/ping", kPublic, true, false},
    {RouteId::kMetrics, "GET", "/metrics", kPublic, true, false},
});

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

std::span<const Route> Routes() {
  return kRoutes;
}

std::string_view PathOf(std::string_view target) {
  return target.substr(0, target.find('?'));
}

const Route* FindRoute(std::string_view path, bool ops) {
  for (const Route& route : kRoutes) {
    if (ops && !route.on_ops_port) continue;
    if (route.prefix
            ? path.size() > route.path.size() && path.substr(0, route.path.size()) == route.path
            : path == route.path) {
      return &route;
    }
  }
  return nullptr;
}

std::string ModelInPath(std::string_view path) {
  std::string name;
  for (std::string_view rest = path.substr(std::string_view("/v1/models/").size());
       !rest.empty();) {
    if (rest[0] != '%') {
      name += rest[0];
      rest.remove_prefix(1);
      continue;
    }
    const int high = rest.size() > 2 ? HexDigit(rest[1]) : -1;
    const int low = rest.size() > 2 ? HexDigit(rest[2]) : -1;
    if (high < 0 || low < 0) return "";
    name += static_cast<char>(high * 16 + low);
    rest.remove_prefix(3);
  }
  return name;
}

}  // namespace millrace::server
