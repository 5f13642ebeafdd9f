#pragma once
// Every route of the HTTP door, in one table: nothing is reachable that is not in it, and each
// entry says who may enter. Tests make the authorization matrix from it.

#include <span>
#include <string>
#include <string_view>

#include "server/auth.h"

namespace millrace::server {

enum class RouteId {
  kModels,
  kModel,  // a prefix: the rest of the path is the model's name
  kChat,
  kCompletion,
  kTokenize,
  kDetokenize,
  kVersion,
  kLive,
  kReady,
  kMetrics,
};

struct Route {
  RouteId id = RouteId::kVersion;
  std::string_view method;  // GET routes take HEAD as well
  std::string_view path;
  AuthClass auth = AuthClass::kKey;
  bool on_ops_port = false;  // also on the second listener
  bool prefix = false;
};

std::span<const Route> Routes();

// The part of a target before '?'.
std::string_view PathOf(std::string_view target);

// The route of a path, or nullptr. Only the canonical spelling matches: no dot segments, doubled
// slashes, escapes (but in a model's name) or other case. `ops`: of the second listener.
const Route* FindRoute(std::string_view path, bool ops);

// The model's name in a path of kModel, percent-decoded; "" when it cannot be decoded.
std::string ModelInPath(std::string_view path);

}  // namespace millrace::server
