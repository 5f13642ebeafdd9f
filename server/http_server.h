#pragma once
// The HTTP door: the main listener and the one for health and metrics, on one io thread (or more,
// each with its own connections).

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "server/http_connection.h"
#include "server/http_service.h"

namespace millrace::server {

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;  // 0: any free one
  bool ops_listener = true;
  std::string ops_host = "127.0.0.1";
  uint16_t ops_port = 8002;
  size_t connections_max = 4096;
  int send_buffer_bytes = 128 << 10;
  HttpTimeouts timeouts;
  HttpParserLimits limits;
  HttpServiceOptions service;
};

// Thread: the owner's.
class HttpServer {
 public:
  // `deps` outlive the server; the server must be gone before the front end is.
  HttpServer(HttpServerOptions options, const DoorDeps& deps);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Unavailable: an address could not be bound. FailedPrecondition: a public address without keys.
  absl::Status Start();
  uint16_t port() const;
  uint16_t ops_port() const;

  // From now on answers close their connections. New generations are refused by the front end.
  void BeginDrain();
  // Waits until every connection has sent its last answer, at most until `deadline` (monotonic),
  // then closes the rest.
  void Stop(MonoNanos deadline);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace millrace::server
