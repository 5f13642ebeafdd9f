// The gRPC door over the real engine, with a scripted device: many streams at once, some cut, and
// everything back where it began.

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "base/log.h"
#include "engine/engine.h"
#include "server/grpc_testing.h"
#include "server/real_engine.h"
#include "tests/support/fake_executor.h"

namespace millrace::server {
namespace {

using testing::Context;
using testing::Eventually;

constexpr int kBlocks = 512;

struct EngineNode {
  EngineNode() {
    LogOptions quiet;
    quiet.level = LogLevel::kError;
    static const bool once = (InitLogging(quiet), true);
    (void)once;
    ::millrace::testing::FakeExecutorOptions device;
    device.kv = {.block_tokens = 16, .blocks = kBlocks};
    device.slots = 64;
    device.tokens_per_step = 512;
    device.vocab_size = tokenizer.vocab_size();
    for (char c = 'a'; c <= 'z'; ++c) device.fast_tokens.push_back(c);
    executor = std::make_unique<::millrace::testing::FakeExecutor>(device);
    engine::EngineOptions options;
    const millrace::executor::ExecutorCapacity capacity = executor->Capacity();
    options.scheduler.block_tokens = device.kv.block_tokens;
    options.scheduler.blocks = device.kv.blocks;
    options.scheduler.tokens_per_step = capacity.tokens_per_step;
    options.scheduler.slots = capacity.slots;
    options.scheduler.max_model_len = 4096;
    options.scheduler.end_tokens = {tokenizer.end()};
    engine = std::make_unique<engine::Engine>(options, *executor, clock);
    port = std::make_unique<RealEngine>(*engine);
    health = std::make_unique<Health>(*port, clock);
    FrontendDeps deps;
    deps.engine = port.get();
    deps.clock = &clock;
    deps.metrics = &metrics;
    deps.health = health.get();
    frontend = std::make_unique<Frontend>(testing::Bench::MakeModel(tokenizer, nullptr),
                                          FrontendOptions{}, deps);
    GrpcServerOptions door;
    door.port = 0;
    server = std::make_unique<GrpcServer>(
        door, DoorDeps{frontend.get(), &keys, health.get(), &metrics, &clock});
  }
  ~EngineNode() {
    server.reset();
    frontend.reset();
  }
  std::unique_ptr<v1::InferenceService::Stub> NewStub() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 10);
    return v1::InferenceService::NewStub(
        grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server->port()),
                                  grpc::InsecureChannelCredentials(), arguments));
  }

  RealClock clock;
  MetricsRegistry metrics;
  ApiKeys keys;
  testing::TinyTokenizer tokenizer;
  std::unique_ptr<::millrace::testing::FakeExecutor> executor;
  std::unique_ptr<engine::Engine> engine;
  std::unique_ptr<RealEngine> port;
  std::unique_ptr<Health> health;
  std::unique_ptr<Frontend> frontend;
  std::unique_ptr<GrpcServer> server;
};

v1::GenerateStreamRequest StreamOf(int tokens) {
  v1::GenerateStreamRequest request;
  *request.mutable_request() = testing::TextRequest("a prompt", tokens);
  request.mutable_request()->mutable_stopping()->set_ignore_eos(true);
  return request;
}

TEST(GrpcEngineTest, ManyStreamsSomeCut) {
  EngineNode node;
  ASSERT_TRUE(node.engine->Start().ok());
  node.health->SetServing();
  ASSERT_TRUE(node.server->Start().ok());
  EXPECT_TRUE(Eventually([&] { return node.health->Ready() == Readiness::kReady; }));
  constexpr int kStreams = 48;
  constexpr int kTokens = 200;
  std::atomic<int> whole{0};
  std::atomic<int> cut{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < kStreams; ++i) {
    clients.emplace_back([&, i] {
      auto stub = node.NewStub();
      for (int round = 0; round < 3; ++round) {
        Context context;
        // gRPC 1.51's client reads errno late: one connect in thousands fails by somebody else's.
        context.set_wait_for_ready(true);
        auto reader = stub->GenerateStream(&context, StreamOf(kTokens));
        v1::GenerateStreamResponse message;
        size_t bytes = 0;
        int messages = 0;
        while (reader->Read(&message)) {
          for (const auto& output : message.outputs()) bytes += output.text().size();
          if (++messages == 5 && i % 5 == 0) context.TryCancel();
        }
        const grpc::Status status = reader->Finish();
        if (status.ok() && bytes == kTokens && message.usage().completion_tokens() == kTokens) {
          ++whole;
        }
        if (i % 5 == 0 && status.error_code() == grpc::StatusCode::CANCELLED) {
          ++cut;
        } else {
          EXPECT_TRUE(status.ok()) << status.error_code() << " " << status.error_message();
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  // A short stream may end before its cut arrives: then it is whole.
  EXPECT_EQ(whole + cut, 3 * kStreams);
  EXPECT_GE(whole, 3 * kStreams * 4 / 5);
  EXPECT_TRUE(Eventually([&] {
    const EngineStats stats = node.engine->Stats();
    return stats.sequences_running + stats.sequences_waiting == 0 && stats.blocks_active == 0 &&
           stats.blocks_free + stats.blocks_cached == stats.blocks_total;
  }));
}

// Drained while streams run: those end, new ones are told to go elsewhere.
TEST(GrpcEngineTest, Drains) {
  EngineNode node;
  ASSERT_TRUE(node.engine->Start().ok());
  node.health->SetServing();
  ASSERT_TRUE(node.server->Start().ok());
  auto stub = node.NewStub();
  Context context;
  auto reader = stub->GenerateStream(&context, StreamOf(3000));
  v1::GenerateStreamResponse message;
  ASSERT_TRUE(reader->Read(&message));
  node.health->SetDraining();
  node.server->BeginDrain();
  Context refused;
  v1::GenerateResponse response;
  const grpc::Status status = stub->Generate(&refused, testing::TextRequest(), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(testing::ReasonOf(status), "DRAINING");
  std::thread drain([&] { node.engine->Drain(node.clock.Now() + 20 * kNanosPerSecond); });
  size_t bytes = message.outputs(0).text().size();
  while (reader->Read(&message)) {
    for (const auto& output : message.outputs()) bytes += output.text().size();
  }
  drain.join();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(bytes, 3000u);
  node.server->Stop(node.clock.Now() + kNanosPerSecond);
}

}  // namespace
}  // namespace millrace::server
