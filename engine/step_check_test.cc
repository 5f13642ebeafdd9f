#include "engine/step_check.h"

#include <gtest/gtest.h>

#include <utility>

namespace millrace::engine {
namespace {

StepPlan TwoRows() {
  StepPlan plan;
  plan.step = StepId(7);
  for (uint32_t i = 0; i < 2; ++i) {
    PlanRow row;
    row.sequence = SequenceId(i + 1);
    row.slot = SlotId(i);
    row.output = RowOutput::kSample;
    row.tokens = {i, 1};
    plan.rows.push_back(row);
  }
  return plan;
}

StepResult Good() {
  StepResult result = AllRowsFailed(TwoRows());
  for (RowResult& row : result.rows) row.failed = false;
  result.tokens = {3, 4};
  result.rows[0].tokens = {0, 1};
  result.rows[1].tokens = {1, 1};
  return result;
}

TEST(StepCheckTest, TakesAResultOfTheRightShape) {
  StepResult result = Good();
  EXPECT_TRUE(CheckResult(Expect(TwoRows()), 10, result).ok());
  EXPECT_FALSE(result.rows[0].failed);
}

TEST(StepCheckTest, RefusesWrongShapes) {
  const ExpectedResult expected = Expect(TwoRows());
  StepResult result = Good();
  result.step = StepId(8);
  EXPECT_FALSE(CheckResult(expected, 10, result).ok());
  result = Good();
  result.rows.pop_back();
  EXPECT_FALSE(CheckResult(expected, 10, result).ok());
  result = Good();
  std::swap(result.rows[0], result.rows[1]);
  EXPECT_FALSE(CheckResult(expected, 10, result).ok());
  result = Good();
  result.rows[1].tokens = {1, 2};
  EXPECT_FALSE(CheckResult(expected, 10, result).ok());
  result = Good();
  result.rows[1].scores = {UINT32_MAX, 2};
  EXPECT_FALSE(CheckResult(expected, 10, result).ok());
}

TEST(StepCheckTest, ATokenOutsideTheVocabularyFailsItsRowOnly) {
  for (const TokenId bad : {10, -1}) {
    StepResult result = Good();
    result.tokens[1] = bad;
    ASSERT_TRUE(CheckResult(Expect(TwoRows()), 10, result).ok());
    EXPECT_FALSE(result.rows[0].failed);
    EXPECT_TRUE(result.rows[1].failed);
  }
}

TEST(StepCheckTest, RowsHaveAsManyTokensAsTheySample) {
  StepPlan plan = TwoRows();
  plan.rows[1].kind = RowKind::kDraft;
  plan.rows[1].tokens = {1, 3};
  const ExpectedResult expected = Expect(plan);
  const auto with = [](uint32_t first, uint32_t second) {
    StepResult result = Good();
    result.tokens = {3, 4, 5, 6, 7, 8};
    result.rows[0].tokens = {0, first};
    result.rows[1].tokens = {2, second};
    return result;
  };
  for (const uint32_t drafted : {1, 2, 3}) {
    StepResult result = with(1, drafted);
    EXPECT_TRUE(CheckResult(expected, 10, result).ok());
  }
  for (const auto& [first, second] : {std::pair(1, 0), {1, 4}, {0, 1}, {2, 1}}) {
    StepResult result = with(static_cast<uint32_t>(first), static_cast<uint32_t>(second));
    EXPECT_FALSE(CheckResult(expected, 10, result).ok()) << first << " " << second;
  }
  // What failed may have less; and a foreign token fails the row after those before it.
  StepResult failed = with(1, 2);
  failed.rows[0].failed = true;
  failed.rows[0].tokens.count = 0;
  failed.tokens[3] = 10;
  ASSERT_TRUE(CheckResult(expected, 10, failed).ok());
  EXPECT_TRUE(failed.rows[1].failed);
  EXPECT_EQ(failed.rows[1].tokens.count, 1u);
  plan.rows[0].output = RowOutput::kNone;
  StepResult none = with(1, 1);
  EXPECT_FALSE(CheckResult(Expect(plan), 10, none).ok());
  none = with(1, 1);
  none.rows[1].logprobs = {0, 2};
  none.logprobs.resize(2);
  EXPECT_FALSE(CheckResult(expected, 10, none).ok());
}

TEST(StepCheckTest, CountsBlocks) {
  EngineStats stats;
  stats.blocks_total = 10;
  stats.blocks_free = 4;
  stats.blocks_active = 3;
  stats.blocks_cached = 2;
  EXPECT_FALSE(BlocksAreConserved(stats));
  stats.blocks_pending = 1;
  EXPECT_TRUE(BlocksAreConserved(stats));
}

TEST(StepCheckTest, NeverFitsIsAboutThePromptAlone) {
  scheduler::SchedulerConfig config;
  config.block_tokens = 4;
  config.blocks = 3;
  Request request;
  request.stop.max_tokens = 100;
  request.prompt.resize(12);
  EXPECT_FALSE(NeverFits(config, request));
  request.prompt.resize(13);
  EXPECT_TRUE(NeverFits(config, request));
}

}  // namespace
}  // namespace millrace::engine
