#pragma once
// What the HTTP door answers: routing, authorization, and the body of each route. No sockets here.

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/metrics.h"
#include "server/auth.h"
#include "server/door_deps.h"
#include "server/frontend.h"
#include "server/health.h"
#include "server/http_exchange.h"
#include "server/http_parser.h"
#include "server/http_routes.h"

namespace millrace::server {

struct HttpServiceOptions {
  std::string version = "0.1.0";
  // Without keys the node is for this machine only: other Host names are DNS rebinding.
  bool loopback_hosts_only = true;
};

// A request with a body, between the io thread and the prepare thread.
struct PostedRequest {
  RouteId route{};
  std::string body;
  RequestOrigin origin;
  MonoNanos deadline = kNever;
};

// Thread: any.
class HttpService : public std::enable_shared_from_this<HttpService> {
 public:
  HttpService(const DoorDeps& deps, HttpServiceOptions options);

  // The request's id: the client's when it is plain and short, else a new one.
  std::string RequestIdFor(const HttpRequest& request);

  // Answers through `exchange`, now or later. `ops`: the second listener.
  void Handle(HttpRequest request, bool ops, const std::shared_ptr<HttpExchange>& exchange);

  // One finished answer, for the metrics. `target` of an unknown route counts as "none".
  void Count(const std::string& method, const std::string& target, int status, double seconds);

  size_t body_bytes_max() const { return frontend_.limits().body_bytes_max; }

 private:
  std::optional<ApiError> Enter(const HttpRequest& request, const Route* route,
                                std::string& key_name) const;
  std::optional<ApiError> CheckBody(const HttpRequest& request) const;
  HttpReply Answer(const Route& route, const HttpRequest& request) const;
  void RunPost(const PostedRequest& posted, const std::shared_ptr<HttpExchange>& exchange);
  HttpReply Tokenize(const std::string& body) const;
  HttpReply Detokenize(const std::string& body) const;
  std::string ModelObject() const;

  struct RouteMetrics {
    std::array<Counter, 4> by_status;  // 2xx, 4xx, 5xx, none (the client went away)
    Histogram seconds;
  };

  Frontend& frontend_;
  const ApiKeys& keys_;
  const Health& health_;
  const Clock& clock_;
  const HttpServiceOptions options_;
  std::atomic<uint64_t> next_id_;
  std::map<std::string, RouteMetrics, std::less<>> route_metrics_;
};

}  // namespace millrace::server
