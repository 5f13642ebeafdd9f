// The front end over the real engine and scheduler, with the fake device: answers are the model's,
// ends are typed, and nothing is left behind.
#include "server/real_engine.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/check.h"
#include "server/testing.h"
#include "tests/support/fake_executor.h"
#include "tests/support/fake_model.h"

namespace millrace::server::testing {
namespace {

using millrace::testing::ExpectedChoice;
using millrace::testing::FakeExecutor;
using millrace::testing::FakeExecutorOptions;

struct Node {
  explicit Node(FakeExecutorOptions options = {}, MonoNanos pause_max = 30 * kNanosPerSecond)
      : executor(Sized(options)),
        engine(EngineConfig(tokenizer, executor, pause_max), executor, clock),
        port(engine),
        health(port, clock) {
    QuietLogs();
    CHECK(engine.Start().ok());
    FrontendDeps deps;
    deps.engine = &port;
    deps.clock = &clock;
    deps.metrics = &metrics;
    deps.health = &health;
    FrontendOptions front;
    front.stream_bytes_max = 8 << 10;
    frontend = std::make_unique<Frontend>(Bench::MakeModel(tokenizer, nullptr), front, deps);
    health.SetServing();
  }
  static FakeExecutorOptions Sized(FakeExecutorOptions options) {
    options.vocab_size = TinyTokenizer().vocab_size();
    options.kv = {.block_tokens = 16, .blocks = 4096};
    options.slots = 64;
    return options;
  }
  static engine::EngineOptions EngineConfig(const TinyTokenizer& tokenizer,
                                            const FakeExecutor& executor, MonoNanos pause_max) {
    engine::EngineOptions options;
    options.scheduler.block_tokens = executor.Capacity().kv_groups[0].block_tokens;
    options.scheduler.blocks = executor.Capacity().kv_groups[0].blocks;
    options.scheduler.slots = 64;
    options.scheduler.tokens_per_step = 64;
    options.scheduler.max_model_len = 4096;
    options.scheduler.end_tokens = {tokenizer.end()};
    options.pause_max = pause_max;
    options.scheduler.speculation.guesses_max = 8;
    return options;
  }
  GenerationRequest Completion(const std::string& prompt, int64_t max_tokens) const {
    GenerationRequest request;
    request.model = "m";
    PromptInput input;
    input.text = prompt;
    request.prompt.prompts.push_back(input);
    request.stop.max_tokens = max_tokens;
    request.sampling.seed = 7;
    return request;
  }
  // All that was ever taken is given back.
  bool Quiet() const {
    for (int i = 0; i < 10'000; ++i) {
      const EngineStats stats = engine.Stats();
      if (stats.sequences_running + stats.sequences_waiting + stats.sequences_retiring == 0 &&
          stats.blocks_active + stats.blocks_pending == 0) {
        return stats.healthy;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  TinyTokenizer tokenizer;
  RealClock clock;
  FakeExecutor executor;
  engine::Engine engine;
  RealEngine port;
  MetricsRegistry metrics;
  Health health;
  std::unique_ptr<Frontend> frontend;
};

TEST(RealEngine, AnswersAreTheModels) {
  Node node;
  for (const int n : {1, 3}) {
    GenerationRequest request = node.Completion("Hello world", 40);
    request.n = n;
    Request expected;
    expected.prompt = node.tokenizer.Encode("Hello world", {});
    expected.sampling.seed = 7;
    expected.stop.max_tokens = 40;
    expected.n = n;
    auto sink = std::make_shared<RecordingSink>();
    auto generation = node.frontend->Start(std::move(request), sink);
    ASSERT_TRUE(sink->WaitForEnd());
    ASSERT_TRUE(sink->done);
    const millrace::testing::ModelSpec spec{
        node.tokenizer.vocab_size(), 4096, {node.tokenizer.end()}};
    int64_t tokens = 0;
    for (int choice = 0; choice < n; ++choice) {
      const auto want = ExpectedChoice(expected, choice, spec, {});
      EXPECT_EQ(sink->Text(choice), text::Decode(node.tokenizer, want.tokens, true));
      tokens += static_cast<int64_t>(want.tokens.size()) + (want.stop_token >= 0 ? 1 : 0);
    }
    EXPECT_EQ(sink->done->completion_tokens, tokens);
    EXPECT_EQ(sink->done->prompt_tokens, 2);
  }
  EXPECT_TRUE(node.Quiet());
  EXPECT_TRUE(node.executor.violations().empty());
}

TEST(RealEngine, StopStringsEndWithTheSameUsageEveryTime) {
  FakeExecutorOptions options;
  for (const char c : std::string("one two END three ")) options.fast_tokens.push_back(c);
  for (int round = 0; round < 20; ++round) {
    Node node(options);
    auto sink = std::make_shared<RecordingSink>();
    GenerationRequest request = node.Completion("x", 4000);
    request.stop.strings = {"END"};
    auto generation = node.frontend->Start(std::move(request), sink);
    ASSERT_TRUE(sink->WaitForEnd());
    ASSERT_TRUE(sink->done);
    // The engine's own first step takes one token of the script.
    EXPECT_EQ(sink->Text(0), "ne two ");
    EXPECT_EQ(sink->done->completion_tokens, 10);
    EXPECT_TRUE(node.Quiet());
  }
}

// The same where most of the answer is guessed from the prompt: several tokens an event, a stop
// string in the midst of one, and what comes after it neither said nor counted.
TEST(RealEngine, StopStringsAmongGuessedTokens) {
  const std::string text = "one two END three four five six ";
  FakeExecutorOptions options;
  for (const char c : text) options.fast_tokens.push_back(c);
  Node node(options);
  auto sink = std::make_shared<RecordingSink>();
  GenerationRequest request = node.Completion(text + text, 4000);
  request.stop.strings = {"END"};
  auto generation = node.frontend->Start(std::move(request), sink);
  ASSERT_TRUE(sink->WaitForEnd());
  ASSERT_TRUE(sink->done);
  EXPECT_EQ(sink->Text(0), "ne two ");
  EXPECT_EQ(sink->done->completion_tokens, 10);
  EXPECT_TRUE(node.Quiet());
  const EngineStats stats = node.engine.Stats();
  EXPECT_GT(stats.draft_tokens_accepted, 4);
  EXPECT_EQ(stats.accepted_at[0], stats.drafts);
  const std::string metrics = node.frontend->MetricsText();
  const auto has = [&](const std::string& name, int64_t value) {
    size_t at = metrics.find("\nvllm:spec_decode_" + name + "{");
    if (name.find("per_pos") != std::string::npos) at = metrics.find("position=\"0\"", at);
    ASSERT_NE(at, std::string::npos) << name;
    const size_t space = metrics.find("} ", at);
    EXPECT_EQ(std::stoll(metrics.substr(space + 2)), value) << name;
  };
  has("num_drafts_total", stats.drafts);
  has("num_draft_tokens_total", stats.draft_tokens);
  has("num_accepted_tokens_total", stats.draft_tokens_accepted);
  has("num_accepted_tokens_per_pos_total", stats.accepted_at[0]);
}

TEST(RealEngine, ASlowDoorIsPausedAndThenEnded) {
  FakeExecutorOptions options;
  options.fast_tokens = {'x'};
  Node node(options, 200 * kNanosPerMilli);
  auto slow = std::make_shared<RecordingSink>();
  slow->set_full(true);
  auto generation = node.frontend->Start(node.Completion("x", 4000), slow);
  auto quick = std::make_shared<RecordingSink>();
  auto other = node.frontend->Start(node.Completion("y", 4000), quick);
  ASSERT_TRUE(quick->WaitForEnd());
  EXPECT_EQ(quick->Text(0).size(), 4000u);
  ASSERT_TRUE(slow->WaitForEnd());
  ASSERT_TRUE(slow->error);
  EXPECT_EQ(slow->error->kind, ErrorKind::kSlowConsumer);
  EXPECT_GT(node.engine.Stats().pauses, 0);
  EXPECT_TRUE(node.Quiet());
}

TEST(RealEngine, CancelsGiveEverythingBack) {
  FakeExecutorOptions options;
  options.fast_tokens = {'x'};
  Node node(options);
  for (int i = 0; i < 100; ++i) {
    auto sink = std::make_shared<RecordingSink>();
    auto generation = node.frontend->Start(node.Completion("x", 4000), sink);
    if (i % 3 != 0) {
      ASSERT_TRUE(sink->WaitForDeltas(1));
    }
    generation->Cancel();
  }
  EXPECT_TRUE(node.Quiet());
}

TEST(RealEngine, DrainCutsWithATypedEnd) {
  FakeExecutorOptions options;
  options.fast_tokens = {'x'};
  options.before_wait = [](StepId) { std::this_thread::sleep_for(std::chrono::milliseconds(2)); };
  Node node(options);
  auto sink = std::make_shared<RecordingSink>();
  auto generation = node.frontend->Start(node.Completion("x", 4000), sink);
  ASSERT_TRUE(sink->WaitForDeltas(1));
  node.health.SetDraining();
  node.engine.Drain(node.clock.Now());
  ASSERT_TRUE(sink->WaitForEnd());
  ASSERT_TRUE(sink->error);
  EXPECT_EQ(sink->error->kind, ErrorKind::kShutdown);
}

TEST(RealEngine, ADeadDeviceFailsWhatRunsAndReadiness) {
  FakeExecutorOptions options;
  options.fast_tokens = {'x'};
  options.fail_at_step = StepId(50);
  Node node(options);
  auto sink = std::make_shared<RecordingSink>();
  auto generation = node.frontend->Start(node.Completion("x", 4000), sink);
  ASSERT_TRUE(sink->WaitForEnd());
  ASSERT_TRUE(sink->error);
  EXPECT_EQ(sink->error->kind, ErrorKind::kEngineFault);
  EXPECT_EQ(node.health.Ready(), Readiness::kFailed);
}

}  // namespace
}  // namespace millrace::server::testing
