#pragma once
// The gRPC door: our two services, health and reflection.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "base/clock.h"
#include "server/connection_budget.h"
#include "server/grpc_call.h"
#include "server/grpc_generation.h"

namespace millrace::server {

struct GrpcServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8001;  // 0: any free one
  bool reflection = true;
  int message_bytes_max = 8 << 20;  // of a request
  // The library's own limit. Above ours (Limits), because 1.51 may drop the connection when it
  // refuses: it loses its place in the peer's HPACK table.
  int metadata_bytes_max = 16 << 10;
  int streams_per_connection_max = 1024;
  size_t connections_max = 4096;
  ConnectionBudgetLimits budget;  // who is over it is disconnected
  // Memory that all connections' buffers may take together.
  size_t memory_bytes_max = size_t{1} << 30;
  // Of one connection in one turn. gRPC 1.51 makes every call that stands in a read before it drops
  // one that was reset in the same read, and a call of 20 KiB takes 200 bytes on the wire: with the
  // library's 4 MiB, 100,000 resets took 2 GiB and 15 s of everybody's time.
  int read_bytes_max = 32 << 10;
  // A silent peer is found dead after keepalive_time + keepalive_timeout.
  int keepalive_time_ms = 30'000;
  int keepalive_timeout_ms = 10'000;
  int idle_ms = 15 * 60 * 1000;  // a connection without calls is closed after this
  GrpcStreamLimits stream;
};

// Thread: the owner's.
class GrpcServer {
 public:
  // `deps` outlive the server; the server must be gone before the front end is.
  GrpcServer(GrpcServerOptions options, const DoorDeps& deps);
  ~GrpcServer();  // Stop with no patience.
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  // Unavailable: the address could not be bound. FailedPrecondition: a public address without keys.
  absl::Status Start();
  uint16_t port() const;

  // Whoever watches the health learns at once that it changed. New generations are refused by the
  // front end.
  void BeginDrain();
  // No new calls; waits for the running ones until `deadline` (monotonic), then cuts them.
  void Stop(MonoNanos deadline);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace millrace::server
