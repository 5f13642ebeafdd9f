#include "tests/support/fake_executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/make_request.h"

namespace millrace::testing {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int32_t kBlock = 4;

// One slot, one prefill row and decodes, as a scheduler would plan them.
class Planner {
 public:
  StepPlan Prefill(uint32_t slot, uint64_t sequence, const std::vector<TokenId>& prompt,
                   const std::vector<uint32_t>& table) {
    StepPlan plan = Next();
    SlotInstall install;
    install.slot = SlotId(slot);
    install.sequence = SequenceId(sequence);
    install.sampling.temperature = 0;
    install.prompt_tokens = static_cast<int32_t>(prompt.size());
    plan.installs.push_back(install);
    AddTable(plan, slot, 0, table);
    AddRow(plan, slot, sequence, 0, prompt);
    plan.rows.back().kind = RowKind::kPrefill;
    return plan;
  }
  StepPlan Decode(uint32_t slot, uint64_t sequence, int32_t position, int32_t index,
                  TokenId token) {
    StepPlan plan = Next();
    AddRow(plan, slot, sequence, position, {token});
    plan.rows.back().sample_index = index;
    return plan;
  }
  StepPlan Next() {
    StepPlan plan;
    plan.step = StepId(++step_);
    return plan;
  }
  static void AddTable(StepPlan& plan, uint32_t slot, uint32_t first,
                       const std::vector<uint32_t>& table) {
    TableDelta delta;
    delta.slot = SlotId(slot);
    delta.first = first;
    delta.blocks = {static_cast<uint32_t>(plan.blocks.size()), static_cast<uint32_t>(table.size())};
    for (const uint32_t block : table) plan.blocks.push_back(BlockId(block));
    plan.table_deltas.push_back(delta);
  }
  static void AddRow(StepPlan& plan, uint32_t slot, uint64_t sequence, int32_t position,
                     const std::vector<TokenId>& tokens) {
    PlanRow row;
    row.slot = SlotId(slot);
    row.sequence = SequenceId(sequence);
    row.output = RowOutput::kSample;
    row.position = position;
    row.tokens = {static_cast<uint32_t>(plan.tokens.size()), static_cast<uint32_t>(tokens.size())};
    plan.tokens.insert(plan.tokens.end(), tokens.begin(), tokens.end());
    plan.rows.push_back(row);
  }

 private:
  uint64_t step_ = 0;
};

StepResult RunPlan(FakeExecutor& device, StepPlan plan) {
  const StepId step = plan.step;
  EXPECT_TRUE(device.Submit(std::move(plan)).ok());
  absl::StatusOr<StepResult> result = device.Wait(step);
  EXPECT_TRUE(result.ok());
  return *std::move(result);
}

TEST(FakeExecutorTest, DecodesWhatTheModelSays) {
  FakeExecutor device({});
  Planner planner;
  const Request request = MakeRequest(1, Prompt(5), 4);
  const Expected expected = ExpectedChoice(request, 0, {97, 100, {}}, {});
  std::vector<TokenId> tokens = RunPlan(device, planner.Prefill(0, 1, Prompt(5), {7, 3})).tokens;
  for (int32_t i = 1; i < 4; ++i) {
    const TokenId last = tokens.back();
    StepPlan plan = planner.Decode(0, 1, 4 + i, i, i == 2 ? kTokenOnDevice : last);
    tokens.push_back(RunPlan(device, std::move(plan)).tokens.at(0));
  }
  EXPECT_EQ(tokens, expected.tokens);
  EXPECT_THAT(device.violations(), IsEmpty());
}

TEST(FakeExecutorTest, SeesACellThatWasNeverWritten) {
  FakeExecutor device({});
  Planner planner;
  StepPlan plan = planner.Prefill(0, 1, Prompt(5), {7, 3});
  plan.rows[0].position = 1;
  RunPlan(device, std::move(plan));
  EXPECT_THAT(device.violations(), Contains(HasSubstr("never written")));
}

TEST(FakeExecutorTest, SeesAnotherSequencesCells) {
  FakeExecutor device({});
  Planner planner;
  RunPlan(device, planner.Prefill(0, 1, Prompt(kBlock), {7, 3}));
  StepPlan plan = planner.Prefill(1, 2, Prompt(kBlock, 50), {4, 9});
  plan.removes = {SlotId(0)};
  RunPlan(device, std::move(plan));
  // A table that takes the wrong block: sequence 2 now reads sequence 1's.
  plan = planner.Decode(1, 2, kBlock, 1, 5);
  Planner::AddTable(plan, 1, 0, {7});
  const TokenId wrong = RunPlan(device, std::move(plan)).tokens.at(0);
  // The same tokens in it, but in another namespace, are caught by `domain` (simulated in
  // tests/sim).
  EXPECT_THAT(device.violations(), IsEmpty());
  Request request = MakeRequest(2, Prompt(kBlock, 50), 8);
  EXPECT_NE(wrong, ExpectedChoice(request, 0, {97, 100, {}}, {}).tokens.at(1));
}

// Two groups, the second sees three positions. A block that its window has left may be null; one
// that it has not left may not.
TEST(FakeExecutorTest, SeesANullBlockInsideAWindow) {
  for (const int32_t nulls : {1, 2}) {
    FakeExecutor device({.kv_groups = {{kBlock, 64, 0}, {kBlock, 64, 3}}});
    Planner planner;
    StepPlan plan = planner.Prefill(0, 1, Prompt(9), {7, 3, 5});
    Planner::AddTable(plan, 0, 0, {9, 2, 4});
    plan.table_deltas.back().kv_group = 1;
    const TokenId token = RunPlan(device, std::move(plan)).tokens.at(0);
    plan = planner.Decode(0, 1, 9, 1, token);  // sees 7, 8 and itself: blocks 1 and 2
    Planner::AddTable(plan, 0, 0, std::vector<uint32_t>(static_cast<size_t>(nulls), 0));
    plan.table_deltas.back().kv_group = 1;
    const TokenId next = RunPlan(device, std::move(plan)).tokens.at(0);
    if (nulls == 1) {
      EXPECT_THAT(device.violations(), IsEmpty());
      const Request request = MakeRequest(1, Prompt(9), 4);
      EXPECT_EQ(next, ExpectedChoice(request, 0, {97, 100, {}}, {}).tokens.at(1));
    } else {
      EXPECT_THAT(device.violations(), Contains(HasSubstr("no block")));
    }
  }
}

// The same tokens in one group, others in the other.
TEST(FakeExecutorTest, SeesAForeignCellInsideAWindow) {
  FakeExecutor device({.kv_groups = {{kBlock, 64, 0}, {kBlock, 64, 3}}});
  Planner planner;
  const auto add = [&](uint32_t slot, int32_t first_token, const std::vector<uint32_t>& global,
                       const std::vector<uint32_t>& local) {
    StepPlan plan = planner.Prefill(slot, slot + 1, Prompt(7, first_token), global);
    Planner::AddTable(plan, slot, 0, local);
    plan.table_deltas.back().kv_group = 1;
    RunPlan(device, std::move(plan));
  };
  add(0, 1, {7, 3}, {9, 2});
  add(1, 50, {8, 4}, {5, 6});
  EXPECT_THAT(device.violations(), IsEmpty());
  StepPlan plan = planner.Decode(0, 1, 7, 1, 3);
  Planner::AddTable(plan, 0, 1, {6});
  plan.table_deltas.back().kv_group = 1;
  RunPlan(device, std::move(plan));
  EXPECT_THAT(device.violations(), Contains(HasSubstr("groups differ")));
}

TEST(FakeExecutorTest, SeesAWriteToASharedBlock) {
  FakeExecutor device({});
  Planner planner;
  RunPlan(device, planner.Prefill(0, 1, Prompt(3), {7}));
  RunPlan(device, planner.Prefill(1, 2, Prompt(3), {7}));
  EXPECT_THAT(device.violations(), Contains(HasSubstr("holds too (S3)")));
}

TEST(FakeExecutorTest, SeesABlockHandedOutBeforeItsStepHasEnded) {
  FakeExecutor device({.max_in_flight = 2});
  Planner planner;
  ASSERT_TRUE(device.Submit(planner.Prefill(0, 1, Prompt(3), {7})).ok());
  StepPlan plan = planner.Prefill(1, 2, Prompt(3, 9), {7});
  plan.removes = {SlotId(0)};
  ASSERT_TRUE(device.Submit(std::move(plan)).ok());
  EXPECT_THAT(device.violations(), Contains(HasSubstr("(S4)")));
}

TEST(FakeExecutorTest, SeesRowsOfRemovedSequencesAndJumps) {
  FakeExecutor device({});
  Planner planner;
  RunPlan(device, planner.Prefill(0, 1, Prompt(3), {7}));
  RunPlan(device, planner.Decode(0, 1, 4, 1, 5));
  EXPECT_THAT(device.violations(), Contains(HasSubstr("jumps from position 3 to 4")));
  StepPlan plan = planner.Decode(0, 1, 5, 2, 5);
  plan.removes = {SlotId(0)};
  RunPlan(device, std::move(plan));
  EXPECT_THAT(device.violations(), Contains(HasSubstr("is not installed there")));
}

TEST(FakeExecutorTest, CopiesBeforeRows) {
  FakeExecutor device({});
  Planner planner;
  RunPlan(device, planner.Prefill(0, 1, Prompt(3), {7}));
  StepPlan plan = planner.Prefill(1, 2, Prompt(3), {8});
  plan.copies.push_back({0, BlockId(7), BlockId(8)});
  plan.rows[0].position = 2;
  plan.tokens = {Prompt(3).back()};
  plan.rows[0].tokens = {0, 1};
  const StepResult result = RunPlan(device, std::move(plan));
  EXPECT_THAT(device.violations(), IsEmpty());
  const Request request = MakeRequest(2, Prompt(3), 1);
  EXPECT_EQ(result.tokens, ExpectedChoice(request, 0, {97, 100, {}}, {}).tokens);
}

TEST(FakeExecutorTest, AcceptsDraftsUpToTheFirstWrongOne) {
  FakeExecutor device({});
  Planner planner;
  const Request request = MakeRequest(1, Prompt(3), 8);
  const std::vector<TokenId> truth = ExpectedChoice(request, 0, {97, 100, {}}, {}).tokens;
  RunPlan(device, planner.Prefill(0, 1, Prompt(3), {7, 8, 9}));
  StepPlan plan = planner.Next();
  Planner::AddRow(plan, 0, 1, 3, {truth[0], truth[1], truth[2], truth[3] + 1, truth[4]});
  plan.rows[0].kind = RowKind::kDraft;
  plan.rows[0].sample_index = 1;
  const StepResult result = RunPlan(device, std::move(plan));
  EXPECT_EQ(result.tokens, std::vector<TokenId>(truth.begin() + 1, truth.begin() + 4));
  // The next row starts after the accepted ones and writes over the rejected.
  plan = planner.Decode(0, 1, 6, 4, truth[3]);
  EXPECT_EQ(RunPlan(device, std::move(plan)).tokens.at(0), truth[4]);
  EXPECT_THAT(device.violations(), IsEmpty());
}

TEST(FakeExecutorTest, ScoresPromptTokens) {
  FakeExecutor device({});
  Planner planner;
  Request request = MakeRequest(1, Prompt(5), 0);
  request.prompt_logprobs = 2;
  StepPlan plan = planner.Prefill(0, 1, Prompt(5), {7, 8});
  plan.rows[0].output = RowOutput::kNone;
  plan.score_targets = Prompt(4, 2);
  plan.rows[0].score_targets = {0, 4};
  plan.rows[0].score_top = 2;
  const StepResult result = RunPlan(device, std::move(plan));
  const auto expected = ExpectedPromptLogprobs(request, 97);
  ASSERT_EQ(result.scores.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(result.scores[i].logprob, expected[i].logprob);
    EXPECT_EQ(result.scores[i].top.size(), 2u);
  }
}

TEST(FakeExecutorTest, FailsForGoodFromTheScriptedStep) {
  FakeExecutor device({.fail_at_step = StepId(2)});
  Planner planner;
  RunPlan(device, planner.Prefill(0, 1, Prompt(3), {7}));
  StepPlan plan = planner.Decode(0, 1, 3, 1, 5);
  ASSERT_TRUE(device.Submit(std::move(plan)).ok());
  EXPECT_FALSE(device.Wait(StepId(2)).ok());
  EXPECT_FALSE(device.Wait(StepId(3)).ok());
}

}  // namespace
}  // namespace millrace::testing
