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
  EXPECT_TRUE(CheckResult(AllRowsFailed(TwoRows()), 10, result).ok());
  EXPECT_FALSE(result.rows[0].failed);
}

TEST(StepCheckTest, RefusesWrongShapes) {
  const StepResult expected = AllRowsFailed(TwoRows());
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
    ASSERT_TRUE(CheckResult(AllRowsFailed(TwoRows()), 10, result).ok());
    EXPECT_FALSE(result.rows[0].failed);
    EXPECT_TRUE(result.rows[1].failed);
  }
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
