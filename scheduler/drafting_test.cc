// Guesses: what they may take, whom they must not disturb, and what is left of them.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/scheduler.h"
#include "scheduler/test_device.h"

namespace millrace::scheduler {
namespace {

constexpr TokenId kEnd = 7;
constexpr TokenId kWrong = 99'999;

SchedulerConfig Config() {
  SchedulerConfig config;
  config.block_tokens = 4;
  config.blocks = 64;
  config.slots = 8;
  config.tokens_per_step = 64;
  config.prefill_chunk_max = 64;
  config.max_model_len = 128;
  config.end_tokens = {kEnd};
  config.model_identity = "test";
  config.speculation.guesses_max = 4;
  return config;
}

// One scheduler and one device; by default every guess is the truth.
class Bench {
 public:
  explicit Bench(SchedulerConfig config, bool right = true)
      : sample_(HashSampler(1000)), device_(config, sample_) {
    config.speculation.guess = [this, right](const GuessQuery& query, std::vector<TokenId>& out) {
      if (query.request.value() == silent_) return;
      const Request& request = requests_.at(query.request.value());
      const Answer& answer = answers_.at({query.request.value(), query.choice});
      // The stop token too: it may well be guessed.
      std::vector<TokenId> truth = answer.tokens;
      if (answer.stop_token >= 0) truth.push_back(answer.stop_token);
      for (size_t at = query.tokens.size() - request.prompt.size();
           at < truth.size() && out.size() < static_cast<size_t>(query.most); ++at) {
        out.push_back(right ? truth[at] : kWrong);
      }
      while (out.size() < static_cast<size_t>(query.most)) out.push_back(kWrong);
    };
    config_ = config;
    scheduler_.emplace(config);
  }

  Request& Add(int32_t prompt, int32_t max_tokens, int32_t n = 1) {
    std::vector<TokenId> tokens(static_cast<size_t>(prompt));
    std::iota(tokens.begin(), tokens.end(), 100);
    return Add(std::move(tokens), max_tokens, n);
  }
  Request& Add(std::vector<TokenId> prompt, int32_t max_tokens, int32_t n = 1) {
    Request request;
    const uint64_t id = requests_.size() + 1;
    request.id = RequestId(id);
    request.prompt = std::move(prompt);
    request.stop.max_tokens = max_tokens;
    request.sampling.seed = id;
    request.n = n;
    for (int32_t choice = 0; choice < n; ++choice) {
      answers_[{id, choice}] = Reference(request, choice, config_, sample_);
    }
    Request& kept = requests_[id] = request;
    EXPECT_EQ(scheduler_->Add(kept, ++now_), AddResult::kAccepted);
    return kept;
  }
  const StepPlan& Plan() {
    plan_ = scheduler_->Plan(++now_);
    Check();
    if (!plan_.empty()) {
      EXPECT_EQ(device_.Submit(plan_), "");
    }
    return plan_;
  }
  void Apply() {
    scheduler_->Apply(device_.Take(), ++now_);
    Check();
  }
  const StepPlan& Step() {
    Plan();
    if (!plan_.empty()) Apply();
    return plan_;
  }
  int Run() {
    int steps = 0;
    for (; scheduler_->HasWork() && steps < 1000; ++steps) Step();
    for (const auto& [key, answer] : answers_) {
      EXPECT_EQ(tokens_[key], answer.tokens);
      EXPECT_EQ(last_[key].finish, answer.finish);
      EXPECT_EQ(last_[key].completion_tokens,
                static_cast<int32_t>(answer.tokens.size()) + (answer.stop_token >= 0));
    }
    EXPECT_EQ(Stats().blocks_free + Stats().blocks_cached, Stats().blocks_total);
    return steps;
  }
  EngineStats Stats() { return scheduler_->Stats(); }
  void Cancel(const Request& request) {
    scheduler_->Cancel(request.id, FinishReason::kCancelled, ++now_);
  }
  int64_t Guesses() const {
    int64_t sum = 0;
    for (const PlanRow& row : plan_.rows) {
      sum += row.kind == RowKind::kDraft ? row.tokens.count - 1 : 0;
    }
    return sum;
  }
  std::map<std::pair<uint64_t, int32_t>, Answer> answers_;
  uint64_t silent_ = 0;  // no guesses for this request

 private:
  void Check() {
    EXPECT_EQ(scheduler_->CheckInvariants(), "");
    for (TokenEvent& event : scheduler_->TakeEvents()) {
      const std::pair<uint64_t, int32_t> key(event.request.value(), event.choice);
      auto& tokens = tokens_[key];
      tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
      last_[key] = std::move(event);
    }
  }
  SampleFn sample_;
  TestDevice device_;
  SchedulerConfig config_;
  std::optional<Scheduler> scheduler_;
  std::map<uint64_t, Request> requests_;
  std::map<std::pair<uint64_t, int32_t>, std::vector<TokenId>> tokens_;
  std::map<std::pair<uint64_t, int32_t>, TokenEvent> last_;
  StepPlan plan_;
  MonoNanos now_ = 0;
};

TEST(DraftingTest, RightGuessesSaveStepsAndWrongOnesCostNone) {
  Bench right(Config());
  right.Add(10, 40);
  const auto length = static_cast<int>(right.answers_.begin()->second.tokens.size());
  ASSERT_GT(length, 30);
  EXPECT_LE(right.Run(), 3 + length / 4);  // five tokens a step while the blocks allow
  EXPECT_EQ(right.Stats().draft_tokens_accepted, right.Stats().draft_tokens);
  EXPECT_EQ(right.Stats().generation_tokens, length);

  Bench wrong(Config(), false);
  wrong.Add(10, 40);
  EXPECT_EQ(wrong.Run(), length + 1);  // the last one removes the slot
  EXPECT_GT(wrong.Stats().draft_tokens, 50);
  EXPECT_EQ(wrong.Stats().draft_tokens_accepted, 0);
}

TEST(DraftingTest, NoneAreMadeUnlessAskedFor) {
  SchedulerConfig config = Config();
  config.speculation.guesses_max = 0;
  Bench bench(config);
  bench.Add(10, 40);
  bench.Run();
  EXPECT_EQ(bench.Stats().drafts, 0);
}

TEST(DraftingTest, EveryOtherDecodeHasItsTokenFirst) {
  SchedulerConfig config = Config();
  config.tokens_per_step = 6;
  config.prefill_chunk_max = 6;
  Bench bench(config);
  for (int i = 0; i < 5; ++i) bench.Add(6, 30);
  int full = 0;
  for (int i = 0; i < 40; ++i) {
    const int32_t running = bench.Stats().sequences_running;
    const StepPlan& plan = bench.Step();
    if (running < 5 || plan.rows.empty() || plan.rows[4].kind == RowKind::kPrefill) continue;
    EXPECT_EQ(plan.rows.size(), 5u);
    full += bench.Guesses() == 1;  // what five decodes leave of six
  }
  EXPECT_GT(full, 3);
  bench.Run();
}

TEST(DraftingTest, NoneWhileSomeoneCouldPrefill) {
  SchedulerConfig config = Config();
  config.tokens_per_step = 12;
  config.prefill_chunk_max = 4;
  Bench bench(config);
  bench.Add(4, 60);
  bench.Step();
  bench.Step();
  EXPECT_GT(bench.Guesses(), 0);
  bench.Add(40, 4);
  int prefills = 0;
  for (int i = 0; i < 9; ++i) {
    const StepPlan& plan = bench.Step();
    const bool prefill = std::any_of(plan.rows.begin(), plan.rows.end(), [](const PlanRow& row) {
      return row.kind == RowKind::kPrefill;
    });
    if (!prefill) continue;
    ++prefills;
    EXPECT_EQ(bench.Guesses(), 0);
  }
  EXPECT_GE(prefills, 8);
  bench.Run();
  EXPECT_GT(bench.Stats().draft_tokens_accepted, 10);
}

// In a pool that is all but full guesses live in the blocks that are there: nobody is preempted who
// would not be without them.
TEST(DraftingTest, NoBlockIsTakenFromAnyone) {
  SchedulerConfig tight = Config();
  tight.blocks = 5;
  tight.prefix_cache = false;
  Bench two(tight, false);
  two.silent_ = 1;
  // In the second step the younger could guess into the last block, which the older needs in the
  // third and gives back before the younger needs it.
  two.Add(11, 3);
  two.Add(2, 6);
  two.Run();
  EXPECT_EQ(two.Stats().preemptions, 0);
  EXPECT_GT(two.Stats().drafts, 0);
  for (const int guesses : {0, 4}) {
    SchedulerConfig config = Config();
    config.blocks = 12;
    config.prefix_cache = false;
    config.speculation.guesses_max = guesses;
    Bench bench(config);
    // Three of four blocks each at the end: just what there is.
    for (int i = 0; i < 3; ++i) bench.Add(4, 13);
    bench.Run();
    EXPECT_EQ(bench.Stats().preemptions, 0) << guesses;
    EXPECT_EQ(bench.Stats().draft_tokens > 0, guesses > 0);
  }
}

TEST(DraftingTest, GuessedTokensArePublishedAndWrongOnesNever) {
  for (const bool right : {true, false}) {
    Bench bench(Config(), right);
    bench.Add(8, 24);
    bench.Run();
    const Answer answer = bench.answers_.begin()->second;
    ASSERT_EQ(answer.finish, FinishReason::kLength);
    EXPECT_EQ(bench.Stats().blocks_cached, (8 + 23) / 4);
    // The conversation goes on: the device reads back each cell that the hit brings.
    std::vector<TokenId> prompt(8);
    std::iota(prompt.begin(), prompt.end(), 100);
    prompt.insert(prompt.end(), answer.tokens.begin(), answer.tokens.end());
    bench.Add(prompt, 5);
    bench.Run();
    EXPECT_EQ(bench.Stats().prefix_hits, 28);
  }
}

TEST(DraftingTest, NothingOfItIsPlannedUntilTheResultComes) {
  SchedulerConfig config = Config();
  config.max_in_flight = 2;
  Bench bench(config);
  Request& request = bench.Add(6, 40);
  bench.Plan();
  bench.Apply();
  ASSERT_FALSE(bench.Plan().rows.empty());
  ASSERT_GT(bench.Guesses(), 0);
  EXPECT_TRUE(bench.Plan().rows.empty());
  // A cancel in between drops all of it.
  bench.Cancel(request);
  bench.Apply();
  while (!bench.Plan().empty()) bench.Apply();
  EXPECT_EQ(bench.Stats().blocks_free + bench.Stats().blocks_cached, 64);
}

TEST(DraftingTest, StopsAndLimitsHoldInTheMidstOfARow) {
  // Every limit in turn; with the end token wherever the model puts it.
  for (int32_t max_tokens = 1; max_tokens <= 24; ++max_tokens) {
    Bench bench(Config());
    bench.Add(5, max_tokens);
    bench.Add(9, max_tokens, 3);
    bench.Run();
  }
  SchedulerConfig config = Config();
  config.max_model_len = 19;
  Bench bench(config);
  bench.Add(9, 100);
  bench.Run();
  EXPECT_EQ(bench.Stats().generation_tokens, 10);
}

// The real look-up on a text of one word: all of it is guessed after a few steps.
TEST(DraftingTest, LooksUpWhatTheTextRepeats) {
  SchedulerConfig config = Config();
  config.end_tokens = {};
  const SampleFn one = [](uint64_t, uint64_t, int32_t, int32_t index) { return 5 + index % 3; };
  Scheduler scheduler(config);
  TestDevice device(config, one);
  Request request;
  request.id = RequestId(1);
  request.prompt = {1, 2, 3};
  request.stop.max_tokens = 60;
  ASSERT_EQ(scheduler.Add(request, 1), AddResult::kAccepted);
  int steps = 0;
  while (scheduler.HasWork() && ++steps < 100) {
    const StepPlan plan = scheduler.Plan(steps);
    if (plan.empty()) continue;
    ASSERT_EQ(device.Submit(plan), "");
    scheduler.Apply(device.Take(), steps);
    ASSERT_EQ(scheduler.CheckInvariants(), "");
  }
  EXPECT_LT(steps, 22);
  EXPECT_EQ(scheduler.Stats().generation_tokens, 60);
  EXPECT_GT(scheduler.Stats().draft_tokens_accepted, 40);
}

}  // namespace
}  // namespace millrace::scheduler
