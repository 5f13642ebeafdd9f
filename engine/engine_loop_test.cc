// The loop stepped by hand: races that threads would only meet by luck.

#include "engine/engine_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "tests/support/fake_executor.h"
#include "tests/support/make_request.h"
#include "tests/support/recording_sink.h"

namespace millrace::engine {
namespace {

using ::millrace::testing::FakeExecutor;
using ::millrace::testing::FakeExecutorOptions;
using ::millrace::testing::MakeRequest;
using ::millrace::testing::Prompt;
using ::millrace::testing::RecordingSink;

class EngineLoopTest : public ::testing::Test {
 protected:
  EngineLoopTest() {
    device_options_.clock = &clock_;
    device_options_.before_wait = [this](StepId step) {
      if (during_wait_) during_wait_(step);
    };
    options_.scheduler.block_tokens = 4;
    options_.scheduler.blocks = 64;
    options_.scheduler.slots = 8;
    options_.scheduler.tokens_per_step = 64;
    options_.scheduler.prefill_chunk_max = 64;
    options_.scheduler.max_model_len = 64;
  }

  void Start() {
    device_ = std::make_unique<FakeExecutor>(device_options_);
    loop_ = std::make_unique<EngineLoop>(options_, *device_, clock_);
    ASSERT_TRUE(loop_->WarmUp().ok());
  }
  void RunUntilIdle() {
    while (loop_->Step()) {
    }
  }

  FakeClock clock_;
  FakeExecutorOptions device_options_;
  EngineOptions options_;
  std::function<void(StepId)> during_wait_;
  std::unique_ptr<FakeExecutor> device_;
  std::unique_ptr<EngineLoop> loop_;
};

TEST_F(EngineLoopTest, ASubmissionReadAfterTheDrainWasCutStillEnds) {
  Start();
  loop_->inbox().Post(DrainLetter{.deadline = clock_.Now()});
  RecordingSink sink;  // it passed the door just before that was closed
  ASSERT_TRUE(loop_->inbox().Submit({MakeRequest(1, Prompt(4), 4), &sink}).ok());
  RunUntilIdle();
  EXPECT_EQ(sink.done(), 1);
  EXPECT_EQ(sink.finish(), FinishReason::kShutdown);
  EXPECT_EQ(loop_->inbox().admission().requests(), 0);
}

TEST_F(EngineLoopTest, ASubmissionReadAfterTheDeviceDiedStillEnds) {
  device_options_.fail_at_step = StepId(3);
  Start();
  RecordingSink first;
  RecordingSink second;
  during_wait_ = [&](StepId step) {
    if (step != StepId(3)) return;
    ASSERT_TRUE(loop_->inbox().Submit({MakeRequest(2, Prompt(4), 4), &second}).ok());
  };
  ASSERT_TRUE(loop_->inbox().Submit({MakeRequest(1, Prompt(4), 4), &first}).ok());
  RunUntilIdle();
  EXPECT_EQ(first.finish(), FinishReason::kError);
  EXPECT_EQ(second.finish(), FinishReason::kError);
  EXPECT_EQ(second.done(), 1);
  EXPECT_FALSE(loop_->Stats().healthy);
}

TEST_F(EngineLoopTest, CancelsPassAFullInbox) {
  options_.inbox_capacity = 2;
  Start();
  RecordingSink sinks[3];
  for (uint64_t i = 0; i < 2; ++i) {
    ASSERT_TRUE(loop_->inbox().Submit({MakeRequest(i + 1, Prompt(4), 4), &sinks[i]}).ok());
  }
  EXPECT_EQ(loop_->inbox().Submit({MakeRequest(3, Prompt(4), 4), &sinks[2]}).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(loop_->inbox().admission().requests(), 2);  // the refused one is not counted
  loop_->inbox().Post(CancelLetter{RequestId(1), FinishReason::kCancelled});
  RunUntilIdle();
  EXPECT_EQ(sinks[0].finish(), FinishReason::kCancelled);
  EXPECT_EQ(sinks[1].finish(), FinishReason::kLength);
}

TEST_F(EngineLoopTest, ACancelIsAnsweredBeforeTheDeviceIsWaitedFor) {
  Start();
  RecordingSink cancelled;
  RecordingSink other;
  ASSERT_TRUE(loop_->inbox().Submit({MakeRequest(1, Prompt(4), 40), &cancelled}).ok());
  ASSERT_TRUE(loop_->inbox().Submit({MakeRequest(2, Prompt(4), 40), &other}).ok());
  loop_->Step();
  loop_->inbox().Post(CancelLetter{RequestId(1), FinishReason::kCancelled});
  int done_in_wait = -1;
  during_wait_ = [&](StepId) { done_in_wait = cancelled.done(); };
  loop_->Step();
  EXPECT_EQ(done_in_wait, 1);
}

TEST_F(EngineLoopTest, APromptLongerThanTheQueueEntersAnEmptyOne) {
  options_.queued_tokens_max = 10;
  Start();
  RecordingSink sinks[2];
  EXPECT_TRUE(loop_->inbox().Submit({MakeRequest(1, Prompt(20), 2), &sinks[0]}).ok());
  EXPECT_FALSE(loop_->inbox().Submit({MakeRequest(2, Prompt(1), 2), &sinks[1]}).ok());
  RunUntilIdle();
  EXPECT_TRUE(loop_->inbox().Submit({MakeRequest(3, Prompt(1), 2), &sinks[1]}).ok());
  RunUntilIdle();
  EXPECT_EQ(sinks[1].done(), 1);
}

TEST_F(EngineLoopTest, AResultOfTheWrongShapeIsADeviceError) {
  class Liar final : public executor::Executor {
   public:
    explicit Liar(executor::Executor& honest) : honest_(honest) {}
    executor::ExecutorCapacity Capacity() const override { return honest_.Capacity(); }
    absl::Status Submit(StepPlan plan) override { return honest_.Submit(std::move(plan)); }
    absl::StatusOr<StepResult> Wait(StepId step) override {
      absl::StatusOr<StepResult> result = honest_.Wait(step);
      if (step == StepId(3)) result->rows.clear();
      return result;
    }
    int max_in_flight() const override { return 1; }

   private:
    executor::Executor& honest_;
  };
  FakeExecutor honest(device_options_);
  Liar liar(honest);
  int fatal = 0;
  options_.on_fatal = [&](const absl::Status&) { ++fatal; };
  EngineLoop loop(options_, liar, clock_);
  ASSERT_TRUE(loop.WarmUp().ok());
  RecordingSink sink;
  ASSERT_TRUE(loop.inbox().Submit({MakeRequest(1, Prompt(4), 4), &sink}).ok());
  while (loop.Step()) {
  }
  EXPECT_EQ(sink.finish(), FinishReason::kError);
  EXPECT_EQ(fatal, 1);
}

}  // namespace
}  // namespace millrace::engine
