#pragma once
// Accepts the connections of the gRPC door, hands them to the library, and watches what they cost.
// gRPC 1.51 has no limit on connections and none on streams that are reset at once; it gives a
// server no way to end one connection either. So the sockets are ours until they are handed over,
// and afterwards we look at them from outside: bytes from the kernel (TCP_INFO), streams and
// messages from the library's channelz counters. Who is over the budget is disconnected.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "server/connection_budget.h"

namespace millrace::server {

struct GrpcListenOptions {
  std::string host = "127.0.0.1";  // an address, or "localhost"
  uint16_t port = 0;               // 0: any free one
  size_t connections_max = 4096;   // more are closed at once
  int user_timeout_ms = 10'000;    // a peer whose kernel acknowledges nothing for so long is dead
  ConnectionBudgetLimits budget;
};

// Thread: the owner's. Accepting and watching happen on a thread of its own, between Start and
// Stop.
class GrpcListener {
 public:
  // `metrics` and `clock` outlive it.
  GrpcListener(GrpcListenOptions options, MetricsRegistry& metrics, const Clock& clock);
  ~GrpcListener();  // Stop
  GrpcListener(const GrpcListener&) = delete;
  GrpcListener& operator=(const GrpcListener&) = delete;

  // Takes the port. Unavailable names the address and why.
  absl::Status Bind();
  uint16_t port() const;
  // As many connections may be on their way into the library at once as there are acceptors.
  // Unavailable: no thread is left. REQUIRES: they are of a server that was started just now and
  // runs until Stop.
  using Acceptor = grpc::experimental::ExternalConnectionAcceptor;
  absl::Status Start(std::vector<std::unique_ptr<Acceptor>> acceptors);
  // No more connections. Those that there are still watched: while the server shuts down, a flood
  // would keep its threads busy for ever. From `cut_at` (monotonic) on, all are disconnected.
  void Drain(MonoNanos cut_at);
  // No more watching. Those that were handed over live on.
  void Stop();

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace millrace::server
