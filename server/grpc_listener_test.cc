// The listener of the gRPC door beside peers that never stop sending: others come in, and it ends.
#include "server/grpc_listener.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "server/grpc_testing.h"
#include "server/http_client.h"

namespace millrace::server::testing {
namespace {

// No budget for bytes ends them.
GrpcServerOptions Patient() {
  GrpcServerOptions options;
  options.budget.bytes_max = 1e18;
  options.budget.stalled_bytes = 1e18;
  return options;
}

// HTTP/2 by hand: a frame of 16,000 bytes.
std::string LongFrame(char type, char stream) {
  return std::string("\0\x3e\x80", 3) + type + std::string(4, '\0') + stream +
         std::string(16'000, 'x');
}

// Peers whose sockets are never empty: each sends one header that never ends, which the library
// copies whole at each frame, so that it reads more slowly than they send. Thread: the owner's.
class Floods {
 public:
  Floods(uint16_t port, int count) {
    for (int i = 0; i < count; ++i) threads_.emplace_back([this, port] { Send(port); });
  }
  ~Floods() { Stop(); }
  void Stop() {
    stop_ = true;
    Join();
  }
  void Join() {  // returns when all were cut
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  int begun() const { return begun_; }
  size_t bytes_sent() const { return bytes_sent_; }

 private:
  void Send(uint16_t port) {
    // Preface, SETTINGS, HEADERS with a literal of 2 GiB (RFC 7541, 5.1: 127 + the rest in sevens).
    const std::string head = std::string("\0\3x-a\x7f\x80\xff\xff\xff\x07", 11);
    std::string bytes = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + std::string("\0\0\0\4\0\0\0\0\0", 9) +
                        std::string("\0\0\x0b\1\0\0\0\0\1", 9) + head;
    std::string more;
    for (int k = 0; k < 16; ++k) more += LongFrame(9, 1);
    // What comes first is there before the library sees the connection.
    RawClient client(port);
    bool open = client.Send(bytes + more);
    ++begun_;
    while (open && !stop_) {
      open = client.Send(more);
      bytes_sent_ += more.size();
    }
  }

  std::atomic<bool> stop_{false};
  std::atomic<int> begun_{0};
  std::atomic<size_t> bytes_sent_{0};
  std::vector<std::thread> threads_;
};

bool Answers(GrpcBench& node) {
  const auto channel = node.Connect({});
  v1::ListModelsResponse models;
  Context context(std::chrono::seconds(10));
  return v1::ModelService::NewStub(channel)->ListModels(&context, {}, &models).ok();
}

// What reads a flood (it may be the thread that handed it over, or gRPC's only executor) is free
// again once the flood is cut; the thread that cuts it is never one of them.
TEST(GrpcListenerTest, OthersComeInBesideAFlood) {
  GrpcServerOptions options = Patient();
  options.budget.stalled_bytes = 1 << 20;
  options.budget.stalled_max = kNanosPerSecond / 5;
  for (int round = 0; round < 5; ++round) {
    GrpcBench node(Says("x"), options);
    Floods floods(static_cast<uint16_t>(node.server->port()), 1);
    ASSERT_TRUE(Eventually([&] { return floods.bytes_sent() > (size_t{1} << 20); }));
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(Answers(node)) << round;
    floods.Join();
  }
}

// Every thread of the library reads a flood, the one that shuts it down among them: only the
// listener's is left to end that.
TEST(GrpcListenerTest, EndsBesideFloods) {
  GrpcBench node(Says("x"), Patient());
  Floods floods(static_cast<uint16_t>(node.server->port()), 8);
  ASSERT_TRUE(Eventually([&] { return floods.begun() == 8; }));
  ASSERT_TRUE(Eventually([&] { return floods.bytes_sent() > (size_t{24} << 20); }));
  auto ended = std::async(std::launch::async, [&] { node.server->Stop(node.bench.clock.Now()); });
  EXPECT_EQ(ended.wait_for(std::chrono::seconds(10)), std::future_status::ready);
  floods.Stop();
}

}  // namespace
}  // namespace millrace::server::testing
