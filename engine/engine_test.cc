// The engine with its thread, against many other threads. Meant for TSan and ASan as well.

#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "tests/support/fake_executor.h"
#include "tests/support/make_request.h"
#include "tests/support/recording_sink.h"

namespace millrace::engine {
namespace {

using ::millrace::testing::ExpectedChoice;
using ::millrace::testing::FakeExecutor;
using ::millrace::testing::FakeExecutorOptions;
using ::millrace::testing::MakeRequest;
using ::millrace::testing::Prompt;
using ::millrace::testing::RecordingSink;
using ::testing::IsEmpty;

constexpr int32_t kMaxLen = 128;

FakeExecutorOptions Device(int max_in_flight = 1) {
  FakeExecutorOptions options;
  options.kv = {.block_tokens = 4, .blocks = 128};
  options.max_in_flight = max_in_flight;
  return options;
}

EngineOptions Options() {
  EngineOptions options;
  options.scheduler.block_tokens = 4;
  options.scheduler.blocks = 128;
  options.scheduler.slots = 8;
  options.scheduler.tokens_per_step = 64;
  options.scheduler.prefill_chunk_max = 64;
  options.scheduler.max_model_len = kMaxLen;
  return options;
}

std::vector<TokenId> Alone(const Request& request) {
  return ExpectedChoice(request, 0, {97, kMaxLen, {}}, {}).tokens;
}

// What a caller makes of a refusal, so that every sink ends.
TokenEvent Refused() {
  TokenEvent event;
  event.finish = FinishReason::kShutdown;
  event.request_done = true;
  return event;
}

TEST(EngineTest, AnswersAndTheWarmUpDoesNotCount) {
  FakeExecutor device(Device());
  const RealClock clock;
  Engine engine(Options(), device, clock);
  ASSERT_TRUE(engine.Start().ok());
  EngineStats stats = engine.Stats();
  EXPECT_GT(stats.steps, 0);
  EXPECT_EQ(stats.requests_accepted + stats.generation_tokens + stats.prompt_tokens, 0);
  EXPECT_EQ(stats.finished[static_cast<size_t>(FinishReason::kLength)], 0);
  EXPECT_EQ(stats.blocks_free, stats.blocks_total);
  RecordingSink sink;
  const Request request = MakeRequest(1, Prompt(9), 20);
  ASSERT_TRUE(engine.Submit(request, &sink).ok());
  ASSERT_TRUE(sink.WaitDone());
  EXPECT_EQ(sink.tokens(), Alone(request));
  EXPECT_EQ(sink.finish(), FinishReason::kLength);
  EXPECT_TRUE(engine.Stats().healthy);
}

TEST(EngineTest, RefusesBeforeStartAndAfterDrainAndWhatNeverFits) {
  FakeExecutor device(Device());
  const RealClock clock;
  EngineOptions options = Options();
  options.scheduler.max_model_len = 4096;
  Engine engine(options, device, clock);
  RecordingSink sink;
  EXPECT_EQ(engine.Submit(MakeRequest(1, Prompt(4), 4), &sink).code(),
            absl::StatusCode::kUnavailable);
  ASSERT_TRUE(engine.Start().ok());
  EXPECT_EQ(engine.Submit(MakeRequest(2, Prompt(4 * 128 + 1), 4), &sink).code(),
            absl::StatusCode::kInvalidArgument);
  engine.Drain(clock.Now() + kNanosPerSecond);
  EXPECT_EQ(engine.Submit(MakeRequest(3, Prompt(4), 4), &sink).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_THAT(sink.events(), IsEmpty());
}

TEST(EngineTest, StartSaysWhatDoesNotFitTheExecutor) {
  FakeExecutor device(Device());
  const RealClock clock;
  EngineOptions options = Options();
  options.scheduler.blocks = 129;
  Engine engine(options, device, clock);
  EXPECT_EQ(engine.Start().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(engine.Stats().healthy);
}

TEST(EngineTest, StartReportsADeadDevice) {
  FakeExecutorOptions dead = Device();
  dead.fail_at_step = StepId(1);
  FakeExecutor device(dead);
  const RealClock clock;
  EngineOptions options = Options();
  std::atomic<int> fatal = 0;
  options.on_fatal = [&](const absl::Status&) { ++fatal; };
  Engine engine(options, device, clock);
  EXPECT_EQ(engine.Start().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(fatal, 0);
}

TEST(EngineTest, BoundsRequestsAndQueuedTokens) {
  // The device stops before the second step (the first was the warm-up's) until told.
  std::promise<void> go;
  std::shared_future<void> gone = go.get_future().share();
  FakeExecutorOptions slow = Device();
  slow.before_wait = [gone](StepId step) {
    if (step.value() > 2) gone.wait();
  };
  FakeExecutor device(slow);
  const RealClock clock;
  EngineOptions options = Options();
  options.requests_max = 3;
  options.queued_tokens_max = 40;
  Engine engine(options, device, clock);
  ASSERT_TRUE(engine.Start().ok());
  RecordingSink sinks[4];
  ASSERT_TRUE(engine.Submit(MakeRequest(1, Prompt(30), 2), &sinks[0]).ok());
  EXPECT_EQ(engine.Submit(MakeRequest(2, Prompt(11), 2), &sinks[1]).code(),
            absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(engine.Submit(MakeRequest(3, Prompt(5), 2), &sinks[2]).ok());
  ASSERT_TRUE(engine.Submit(MakeRequest(4, Prompt(5), 2), &sinks[1]).ok());
  EXPECT_EQ(engine.Submit(MakeRequest(5, Prompt(1), 2), &sinks[3]).code(),
            absl::StatusCode::kResourceExhausted);
  go.set_value();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(sinks[i].WaitDone());
  engine.Drain(clock.Now() + 10 * kNanosPerSecond);
  EXPECT_THAT(sinks[3].events(), IsEmpty());
}

TEST(EngineTest, ADeviceErrorEndsEverythingOnceAndForGood) {
  FakeExecutorOptions dying = Device();
  dying.fail_at_step = StepId(20);
  FakeExecutor device(dying);
  const RealClock clock;
  EngineOptions options = Options();
  std::atomic<int> fatal = 0;
  options.on_fatal = [&](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    ++fatal;
  };
  RecordingSink sinks[12];
  {
    Engine engine(options, device, clock);
    ASSERT_TRUE(engine.Start().ok());
    for (uint64_t i = 0; i < 12; ++i) {
      // The last ones may be refused already.
      if (!engine.Submit(MakeRequest(i + 1, Prompt(5), 100), &sinks[i]).ok()) {
        sinks[i].Push(Refused());
      }
    }
    for (RecordingSink& sink : sinks) {
      ASSERT_TRUE(sink.WaitDone());
      EXPECT_EQ(sink.done(), 1);
    }
    EXPECT_EQ(sinks[0].finish(), FinishReason::kError);
    EXPECT_THAT(sinks[0].events().back().error, ::testing::HasSubstr("scripted"));
    RecordingSink late;
    EXPECT_EQ(engine.Submit(MakeRequest(99, Prompt(5), 5), &late).code(),
              absl::StatusCode::kUnavailable);
    EXPECT_FALSE(engine.Stats().healthy);
  }
  EXPECT_EQ(fatal, 1);
}

TEST(EngineTest, AFailedAuditTurnsTheEngineOff) {
  FakeExecutor device(Device());
  const RealClock clock;
  EngineOptions options = Options();
  std::promise<absl::Status> fatal;
  std::atomic<bool> broken = false;
  options.on_fatal = [&](const absl::Status& status) { fatal.set_value(status); };
  options.audit = [&](const scheduler::Scheduler&) { return broken ? "a block is gone" : ""; };
  Engine engine(options, device, clock);
  ASSERT_TRUE(engine.Start().ok());
  broken = true;
  RecordingSink sink;
  ASSERT_TRUE(engine.Submit(MakeRequest(1, Prompt(5), 5), &sink).ok());
  const absl::Status status = fatal.get_future().get();
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("a block is gone"));
  EXPECT_EQ(sink.finish(), FinishReason::kLength);  // what ran was not cut
  EXPECT_FALSE(engine.Stats().healthy);
  EXPECT_EQ(engine.Submit(MakeRequest(2, Prompt(5), 5), &sink).code(),
            absl::StatusCode::kUnavailable);
}

TEST(EngineTest, ASlowReaderIsPausedAndGoesOn) {
  FakeExecutor device(Device(2));
  const RealClock clock;
  Engine engine(Options(), device, clock);
  ASSERT_TRUE(engine.Start().ok());
  RecordingSink slow(3);
  RecordingSink quick;
  const Request request = MakeRequest(1, Prompt(5), 60);
  ASSERT_TRUE(engine.Submit(request, &slow).ok());
  ASSERT_TRUE(engine.Submit(MakeRequest(2, Prompt(6), 100), &quick).ok());
  ASSERT_TRUE(quick.WaitDone());
  // Full after 3; the steps that overlap may add one each.
  EXPECT_LE(slow.events().size(), 5u);
  while (!slow.WaitDone(std::chrono::milliseconds(1))) {
    if (slow.ReadAll()) engine.Resume(request.id);
  }
  EXPECT_EQ(slow.tokens(), Alone(request));
  EXPECT_GT(engine.Stats().pauses, 5);
}

TEST(EngineTest, OneWhoNeverReadsIsCut) {
  FakeExecutor device(Device());
  const RealClock clock;
  EngineOptions options = Options();
  options.pause_max = 20 * kNanosPerMilli;
  Engine engine(options, device, clock);
  ASSERT_TRUE(engine.Start().ok());
  RecordingSink sink(2);
  ASSERT_TRUE(engine.Submit(MakeRequest(1, Prompt(5), 60), &sink).ok());
  ASSERT_TRUE(sink.WaitDone());  // the parked thread wakes by itself
  EXPECT_EQ(sink.finish(), FinishReason::kSlowConsumer);
}

TEST(EngineTest, ADeadlineWakesTheParkedThread) {
  FakeExecutor device(Device());
  const RealClock clock;
  Engine engine(Options(), device, clock);
  ASSERT_TRUE(engine.Start().ok());
  RecordingSink sink(1);  // paused after its first token
  Request request = MakeRequest(1, Prompt(5), 60);
  request.deadline = clock.Now() + 30 * kNanosPerMilli;
  ASSERT_TRUE(engine.Submit(request, &sink).ok());
  ASSERT_TRUE(sink.WaitDone());
  EXPECT_EQ(sink.finish(), FinishReason::kDeadline);
}

TEST(EngineTest, DrainCutsAtItsDeadlineAndDestructionEndsTheRest) {
  FakeExecutorOptions options = Device();
  options.fast_tokens = {5};
  FakeExecutor device(options);
  const RealClock clock;
  EngineOptions engine_options = Options();
  engine_options.scheduler.max_model_len = 512;
  RecordingSink cut(1);
  {
    Engine engine(engine_options, device, clock);
    ASSERT_TRUE(engine.Start().ok());
    ASSERT_TRUE(engine.Submit(MakeRequest(1, Prompt(5), 400), &cut).ok());
    ASSERT_TRUE(cut.WaitEvents(1));
    engine.Drain(clock.Now() + 20 * kNanosPerMilli);
    EXPECT_EQ(cut.done(), 1);  // delivered when Drain returns
  }
  EXPECT_EQ(cut.finish(), FinishReason::kShutdown);
  RecordingSink rest(1);
  {
    FakeExecutor fresh(options);
    Engine engine(engine_options, fresh, clock);
    ASSERT_TRUE(engine.Start().ok());
    ASSERT_TRUE(engine.Submit(MakeRequest(1, Prompt(5), 400), &rest).ok());
  }
  EXPECT_EQ(rest.finish(), FinishReason::kShutdown);
}

// Many threads submit, cancel, finish and read slowly while others watch, at both overlap depths;
// then a drain races the last submissions.
class EngineStormTest : public ::testing::TestWithParam<int> {};

TEST_P(EngineStormTest, EveryAcceptedRequestEndsExactlyOnce) {
  constexpr int kThreads = 6;
  constexpr int kEach = 60;
  FakeExecutor device(Device(GetParam()));
  const RealClock clock;
  EngineOptions options = Options();
  options.inbox_capacity = 16;
  options.requests_max = 40;
  options.scheduler.blocks = 60;
  std::vector<std::unique_ptr<RecordingSink>> sinks;
  for (int i = 0; i < kThreads * kEach; ++i) {
    sinks.push_back(std::make_unique<RecordingSink>(i % 5 == 0 ? 2 : 0));
  }
  std::atomic<int> accepted = 0;
  {
    Engine engine(options, device, clock);
    ASSERT_TRUE(engine.Start().ok());
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < kEach; ++i) {
          const int index = t * kEach + i;
          RecordingSink& sink = *sinks[static_cast<size_t>(index)];
          const Request request =
              MakeRequest(static_cast<uint64_t>(index) + 1, Prompt(1 + index % 30), 40);
          const absl::Status status = engine.Submit(request, &sink);
          if (!status.ok()) {
            sink.Push(Refused());
            continue;
          }
          ++accepted;
          if (i % 4 == 1) engine.Cancel(request.id);
          if (i % 4 == 2) engine.Finish(request.id, 0, FinishReason::kStop, 1);
          if (i % 4 == 3) continue;  // others wait for it at the end
          while (!sink.WaitDone(std::chrono::milliseconds(1))) {
            if (sink.ReadAll()) engine.Resume(request.id);
          }
        }
      });
    }
    threads.emplace_back([&] {
      while (accepted < kThreads * kEach / 3) {
        EXPECT_TRUE(engine.Stats().healthy);
        std::this_thread::yield();
      }
      engine.Drain(clock.Now() + 50 * kNanosPerMilli);
    });
    for (std::thread& thread : threads) thread.join();
  }
  for (const auto& sink : sinks) {
    ASSERT_EQ(sink->done(), 1);
    ASSERT_EQ(sink->after_done(), 0);
  }
  EXPECT_THAT(device.violations(), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Depths, EngineStormTest, ::testing::Values(1, 2));

}  // namespace
}  // namespace millrace::engine
