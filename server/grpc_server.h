#pragma once
// The gRPC door: our two services, health and reflection on one or more addresses.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/grpc_call.h"
#include "server/grpc_generation.h"

namespace millrace::server {

struct GrpcOptions {
  // "127.0.0.1:8001", "[::1]:8001", "unix:/path"; port 0 takes a free one.
  std::vector<std::string> listen = {"127.0.0.1:8001"};
  bool reflection = true;
  int message_bytes_max = 8 << 20;  // of a request
  int metadata_bytes_max = 8 << 10;
  int streams_per_connection_max = 1024;
  // Memory that all connections' buffers may take together.
  size_t memory_bytes_max = size_t{1} << 30;
  // A silent peer is found dead after keepalive_time + keepalive_timeout.
  int keepalive_time_ms = 30'000;
  int keepalive_timeout_ms = 10'000;
  int idle_ms = 15 * 60 * 1000;  // a connection without calls is closed after this
  GrpcStreamLimits stream;
};

// Thread: any but the destructor. The front end outlives it.
class GrpcServer {
 public:
  // Opens the ports and serves. Unavailable names the address that cannot be had.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const GrpcOptions& options,
                                                           const GrpcDeps& deps);
  ~GrpcServer();  // Shutdown with no patience.

  // Of the listening addresses, in order.
  const std::vector<int>& ports() const;
  // No new calls; waits for the running ones until `patience` has passed, then cuts them. Once.
  void Shutdown(MonoNanos patience);

 private:
  struct State;
  explicit GrpcServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace millrace::server
