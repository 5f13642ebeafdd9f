// Examples, one for each promise of scheduler.h. The random ones are in scheduler_property_test.cc.

#include "scheduler/scheduler.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "scheduler/test_device.h"

namespace millrace::scheduler {
namespace {

constexpr TokenId kEnd = 7;

SchedulerConfig SmallConfig() {
  SchedulerConfig config;
  config.block_tokens = 4;
  config.blocks = 32;
  config.slots = 8;
  config.tokens_per_step = 16;
  config.prefill_chunk_max = 16;
  config.max_model_len = 64;
  config.end_tokens = {kEnd};
  config.model_identity = "test";
  return config;
}

// One scheduler on one test device, stepped by hand. Any broken rule fails the test at once.
class Bench {
 public:
  explicit Bench(const SchedulerConfig& config, SampleFn sample = HashSampler(1000))
      : config_(config), sample_(sample), scheduler_(config), device_(config, sample) {}

  Request MakeRequest(std::vector<TokenId> prompt, int32_t max_tokens) {
    Request request;
    request.id = RequestId(next_id_++);
    request.prompt = std::move(prompt);
    request.stop.max_tokens = max_tokens;
    request.sampling.seed = request.id.value();
    return request;
  }
  AddResult Add(const Request& request) { return scheduler_.Add(request, ++now_); }

  // Plans and submits. False when the plan was empty.
  bool Plan() {
    plan_ = scheduler_.Plan(++now_);
    Check();
    if (plan_.empty()) return false;
    EXPECT_EQ(device_.Submit(plan_), "");
    return true;
  }
  void Apply() {
    scheduler_.Apply(device_.Take(), ++now_);
    Check();
  }
  bool Step() {
    const bool planned = Plan();
    if (planned) Apply();
    return planned;
  }
  // Runs until nothing is left; at full overlap depth.
  void Run(int steps_max = 1000) {
    int steps = 0;
    while (scheduler_.HasWork() && ++steps < steps_max) {
      bool planned = true;
      while (planned && device_.in_flight() < static_cast<size_t>(config_.max_in_flight)) {
        planned = Plan();
      }
      if (device_.in_flight() > 0) Apply();
    }
    EXPECT_LT(steps, steps_max) << "stuck";
    EXPECT_EQ(device_.slots_in_use(), 0);
    const EngineStats stats = scheduler_.Stats();
    EXPECT_EQ(stats.blocks_free + stats.blocks_cached, stats.blocks_total);
    EXPECT_EQ(stats.sequences_running + stats.sequences_waiting + stats.sequences_retiring, 0);
  }
  void Check() {
    EXPECT_EQ(scheduler_.CheckInvariants(), "");
    for (TokenEvent& event : scheduler_.TakeEvents()) {
      const auto key = std::pair(event.request.value(), event.choice);
      Ending& ending = endings_[key];
      EXPECT_FALSE(ending.last.finish != FinishReason::kNone) << "an event after the end";
      ending.tokens.insert(ending.tokens.end(), event.tokens.begin(), event.tokens.end());
      if (!event.prompt_logprobs.empty()) ending.prompt_logprobs = event.prompt_logprobs;
      done_[event.request.value()] += event.request_done;
      ending.last = std::move(event);
    }
  }

  struct Ending {
    std::vector<TokenId> tokens;
    std::vector<TokenLogprobs> prompt_logprobs;
    TokenEvent last;
  };
  const Ending& Of(const Request& request, int32_t choice = 0) {
    return endings_[{request.id.value(), choice}];
  }
  // The answer is what the request gives alone, and it ended once.
  void ExpectAnswer(const Request& request) {
    for (int32_t choice = 0; choice < request.n; ++choice) {
      const Answer answer = Reference(request, choice, config_, sample_);
      const Ending& ending = Of(request, choice);
      EXPECT_EQ(ending.tokens, answer.tokens);
      EXPECT_EQ(ending.last.finish, answer.finish);
      EXPECT_EQ(ending.last.stop_token, answer.stop_token);
      EXPECT_EQ(ending.last.prompt_tokens, static_cast<int32_t>(request.prompt.size()));
      EXPECT_EQ(ending.last.completion_tokens,
                static_cast<int32_t>(answer.tokens.size()) + (answer.stop_token >= 0));
    }
    EXPECT_EQ(done_[request.id.value()], 1);
  }

  SchedulerConfig config_;
  SampleFn sample_;
  Scheduler scheduler_;
  TestDevice device_;
  StepPlan plan_;
  MonoNanos now_ = 0;
  uint64_t next_id_ = 1;
  std::map<std::pair<uint64_t, int32_t>, Ending> endings_;
  std::map<uint64_t, int> done_;
};

std::vector<TokenId> Tokens(int32_t count, TokenId first = 100) {
  std::vector<TokenId> tokens;
  for (int32_t i = 0; i < count; ++i) tokens.push_back(first + i);
  return tokens;
}

// Both overlap depths.
class SchedulerTest : public ::testing::TestWithParam<int> {
 protected:
  SchedulerConfig Config() {
    SchedulerConfig config = SmallConfig();
    config.max_in_flight = GetParam();
    return config;
  }
};
INSTANTIATE_TEST_SUITE_P(Depth, SchedulerTest, ::testing::Values(1, 2, 3));

TEST_P(SchedulerTest, AnswersAsAlone) {
  Bench bench(Config());
  std::vector<Request> requests;
  for (int32_t length = 1; length <= 12; ++length) {
    requests.push_back(bench.MakeRequest(Tokens(length, 100 * length), 13 - length));
    EXPECT_EQ(bench.Add(requests.back()), AddResult::kAccepted);
  }
  bench.Run();
  for (const Request& request : requests) bench.ExpectAnswer(request);
  EXPECT_EQ(bench.device_.rows_on_device() > 0, GetParam() > 1);
}

TEST_P(SchedulerTest, PrefillIsChunkedAndDecodesComeFirst) {
  Bench bench(Config());
  const Request small = bench.MakeRequest(Tokens(2), 20);
  const Request large = bench.MakeRequest(Tokens(40, 300), 2);
  bench.Add(small);
  bench.Step();
  bench.Add(large);
  bench.Step();
  ASSERT_EQ(bench.plan_.rows.size(), 2u);
  EXPECT_EQ(bench.plan_.rows[0].kind, RowKind::kDecode);
  EXPECT_EQ(bench.plan_.rows[1].kind, RowKind::kPrefill);
  EXPECT_EQ(bench.plan_.rows[1].tokens.count, 15u);  // 16 less one decode
  EXPECT_EQ(bench.plan_.rows[1].output, RowOutput::kNone);
  bench.Run();
  bench.ExpectAnswer(small);
  bench.ExpectAnswer(large);
}

TEST_P(SchedulerTest, EndTokenFirstIsAnEmptyAnswer) {
  Bench bench(Config(), [](uint64_t, uint64_t, int32_t, int32_t) { return kEnd; });
  const Request request = bench.MakeRequest(Tokens(3), 10);
  bench.Add(request);
  bench.Run();
  const TokenEvent& last = bench.Of(request).last;
  EXPECT_EQ(last.finish, FinishReason::kStop);
  EXPECT_EQ(last.stop_token, kEnd);
  EXPECT_EQ(last.completion_tokens, 1);
  EXPECT_TRUE(bench.Of(request).tokens.empty());
  EXPECT_TRUE(last.request_done);
}

TEST_P(SchedulerTest, StopTokensMinTokensAndIgnoreEos) {
  // Ends at once when it may.
  Bench bench(Config(), [](uint64_t, uint64_t, int32_t, int32_t) { return kEnd; });
  Request banned = bench.MakeRequest(Tokens(3), 10);
  banned.stop.min_tokens = 4;
  Request ignoring = bench.MakeRequest(Tokens(4), 5);
  ignoring.stop.ignore_eos = true;
  Request stopping = bench.MakeRequest(Tokens(5), 5);
  stopping.stop.ignore_eos = true;
  stopping.stop.stop_token_ids = {3, kEnd};
  for (const Request& request : {banned, ignoring, stopping}) bench.Add(request);
  bench.Run();
  for (const Request& request : {banned, ignoring, stopping}) bench.ExpectAnswer(request);
  EXPECT_EQ(bench.Of(banned).tokens, (std::vector<TokenId>{8, 8, 8, 8}));
  EXPECT_EQ(bench.Of(ignoring).tokens.size(), 5u);
  EXPECT_EQ(bench.Of(ignoring).last.finish, FinishReason::kLength);
  EXPECT_EQ(bench.Of(stopping).last.stop_token, kEnd);
}

TEST_P(SchedulerTest, ModelLengthEndsWithLength) {
  Bench bench(Config());
  const Request request = bench.MakeRequest(Tokens(60), 50);
  bench.Add(request);
  bench.Run();
  bench.ExpectAnswer(request);
  EXPECT_EQ(bench.Of(request).tokens.size(), 4u);
}

TEST_P(SchedulerTest, PrefixHitSkipsWholeBlocksButNotTheLastToken) {
  Bench bench(Config());
  const Request first = bench.MakeRequest(Tokens(12), 1);
  bench.Add(first);
  bench.Run();
  EXPECT_EQ(bench.Of(first).last.cached_tokens, 0);
  const Request second = bench.MakeRequest(Tokens(12), 6);  // 3 blocks; at most 2 may be hit
  bench.Add(second);
  bench.Plan();
  ASSERT_EQ(bench.plan_.rows.size(), 1u);
  EXPECT_EQ(bench.plan_.rows[0].position, 8);
  bench.Apply();
  bench.Run();
  bench.ExpectAnswer(second);
  EXPECT_EQ(bench.Of(second).last.cached_tokens, 8);
  const EngineStats stats = bench.scheduler_.Stats();
  EXPECT_EQ(stats.prefix_queries, 24);
  EXPECT_EQ(stats.prefix_hits, 8);
  EXPECT_EQ(stats.prompt_tokens, 24);
  EXPECT_EQ(stats.prompt_tokens_cached, 8);
}

TEST_P(SchedulerTest, NextTurnHitsPromptAndAnswer) {
  Bench bench(Config());
  const Request first = bench.MakeRequest(Tokens(6), 11);
  bench.Add(first);
  bench.Run();
  std::vector<TokenId> chat = first.prompt;
  const std::vector<TokenId>& said = bench.Of(first).tokens;
  ASSERT_EQ(said.size(), 11u);
  chat.insert(chat.end(), said.begin(), said.end());
  chat.push_back(500);
  const Request second = bench.MakeRequest(chat, 3);
  bench.Add(second);
  bench.Run();
  bench.ExpectAnswer(second);
  // 16 of 17 tokens have KV (the last sampled one never gets any): four whole blocks.
  EXPECT_EQ(bench.Of(second).last.cached_tokens, 16);
}

TEST_P(SchedulerTest, NamespacesDoNotShare) {
  Bench bench(Config());
  Request first = bench.MakeRequest(Tokens(12), 1);
  bench.Add(first);
  bench.Run();
  Request salted = bench.MakeRequest(Tokens(12), 1);
  salted.cache_salt = "a";
  Request other = bench.MakeRequest(Tokens(12), 1);
  other.tenant = TenantId(3);
  bench.Add(salted);
  bench.Add(other);
  bench.Run();
  EXPECT_EQ(bench.Of(salted).last.cached_tokens, 0);
  EXPECT_EQ(bench.Of(other).last.cached_tokens, 0);
}

TEST_P(SchedulerTest, ChoicesForkFromOnePrompt) {
  for (const int32_t length : {1, 3, 4, 5, 8, 9, 20}) {
    for (const bool cache : {false, true}) {
      SchedulerConfig config = Config();
      config.prefix_cache = cache;
      Bench bench(config);
      Request request = bench.MakeRequest(Tokens(length), 7);
      request.n = 5;
      bench.Add(request);
      bench.Run();
      bench.ExpectAnswer(request);
      // The prompt once, then its last token for each other choice; 6 inputs of 7 outputs each.
      // An overlapping step may run one row in vain for none: nothing stops early here.
      EXPECT_EQ(bench.device_.tokens_run(), length + 4 + 5 * 6) << length;
      const bool partial = (length - 1) % config.block_tokens != 0;
      EXPECT_EQ(bench.device_.copies(), partial ? 4 : 0);
      EXPECT_EQ(bench.scheduler_.Stats().prompt_tokens, length);
    }
  }
}

TEST_P(SchedulerTest, ForkSurvivesTheEndOfTheFirstChoice) {
  Bench bench(Config());
  Request request = bench.MakeRequest(Tokens(7), 1);  // choice 0 ends with its first token
  request.n = 4;
  bench.Add(request);
  bench.Run();
  bench.ExpectAnswer(request);
  EXPECT_EQ(bench.device_.copies(), 3);
}

TEST_P(SchedulerTest, CancelledLeaderIsReplaced) {
  Bench bench(Config());
  Request request = bench.MakeRequest(Tokens(30), 5);
  request.n = 3;
  bench.Add(request);
  bench.Plan();
  bench.scheduler_.Finish(request.id, 0, FinishReason::kStop, 0, bench.now_);
  bench.Apply();
  bench.Run();
  for (const int32_t choice : {1, 2}) {
    EXPECT_EQ(bench.Of(request, choice).tokens,
              Reference(request, choice, bench.config_, bench.sample_).tokens);
  }
  EXPECT_EQ(bench.done_[request.id.value()], 1);
}

TEST_P(SchedulerTest, PromptScoresAreNotSkippedByAHit) {
  SchedulerConfig config = Config();
  config.prefill_chunk_max = 5;
  Bench bench(config);
  const Request warm = bench.MakeRequest(Tokens(18), 1);
  bench.Add(warm);
  bench.Run();
  Request request = bench.MakeRequest(Tokens(18), 0);
  request.prompt_logprobs = 2;
  request.n = 2;
  bench.Add(request);
  bench.Run();
  const auto& scores = bench.Of(request).prompt_logprobs;
  ASSERT_EQ(scores.size(), 17u);
  uint64_t chain = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    chain = Chain(chain, request.prompt[i]);
    EXPECT_EQ(scores[i].logprob, ScoreOf(chain, request.prompt[i + 1]).logprob);
  }
  EXPECT_EQ(bench.Of(request).last.finish, FinishReason::kLength);
  EXPECT_EQ(bench.Of(request).last.completion_tokens, 0);
  EXPECT_TRUE(bench.Of(request, 1).prompt_logprobs.empty());
  EXPECT_EQ(bench.done_[request.id.value()], 1);
}

TEST_P(SchedulerTest, PromptsBesideDecodesComeInSmallSteps) {
  SchedulerConfig config = Config();
  config.tokens_per_step = 32;
  config.prefill_chunk_max = 32;
  config.mixed_prefill_tokens = 6;
  config.prefix_cache = false;
  Bench bench(config);
  const Request first = bench.MakeRequest(Tokens(20), 30);
  bench.Add(first);
  ASSERT_TRUE(bench.Step());
  EXPECT_EQ(bench.plan_.tokens.size(), 20u) << "nobody waits for this step";
  const Request second = bench.MakeRequest(Tokens(20), 30);
  const Request third = bench.MakeRequest(Tokens(3), 30);
  bench.Add(second);
  bench.Add(third);
  std::vector<size_t> steps;
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(bench.Step());
    steps.push_back(bench.plan_.tokens.size());
  }
  EXPECT_EQ(steps, (std::vector<size_t>{1 + 6, 1 + 6, 1 + 6, 1 + 2 + 3, 3}));
  bench.Run();
  for (const Request& request : {first, second, third}) {
    EXPECT_EQ(bench.Of(request).tokens, Reference(request, 0, config, bench.sample_).tokens);
  }
}

TEST_P(SchedulerTest, NeverFitsAtTheDoorAndOnGrowth) {
  SchedulerConfig config = Config();
  config.blocks = 4;
  Bench bench(config);
  EXPECT_EQ(bench.Add(bench.MakeRequest(Tokens(17), 1)), AddResult::kNeverFits);
  const Request tall = bench.MakeRequest(Tokens(15), 20);
  const Request next = bench.MakeRequest(Tokens(5), 3);
  bench.Add(tall);
  bench.Add(next);
  bench.Run();
  const TokenEvent& last = bench.Of(tall).last;
  EXPECT_EQ(last.finish, FinishReason::kNeverFits);
  // 16 positions give KV to 15 prompt tokens and one output; the second output needs none.
  EXPECT_EQ(last.completion_tokens, 2);
  bench.ExpectAnswer(next);
}

TEST_P(SchedulerTest, PreemptsTheYoungestAndAnswersAreTheSame) {
  SchedulerConfig config = Config();
  config.blocks = 8;
  Bench bench(config);
  std::vector<Request> requests;
  for (int i = 0; i < 4; ++i) {
    requests.push_back(bench.MakeRequest(Tokens(5, 100 * (i + 1)), 20));
    bench.Add(requests.back());
  }
  bench.Run();
  for (const Request& request : requests) bench.ExpectAnswer(request);
  EXPECT_GT(bench.scheduler_.Stats().preemptions, 0);
  EXPECT_GT(bench.scheduler_.Stats().recomputed_tokens, 0);
  EXPECT_EQ(bench.Of(requests[0]).last.preemptions, 0) << "the oldest";
  for (const Request& request : requests) {
    EXPECT_LE(bench.Of(request).last.preemptions, 2) << "then its worst case is reserved (L3)";
  }
}

TEST_P(SchedulerTest, PreemptionStopsWhenEnoughIsOnItsWay) {
  if (GetParam() == 1) return;  // nothing is ever on its way
  SchedulerConfig config = Config();
  config.block_tokens = 1;
  config.blocks = 9;
  Bench bench(config);
  std::vector<Request> requests;
  for (int i = 0; i < 3; ++i) {
    requests.push_back(bench.MakeRequest(Tokens(2, 100 * (i + 1)), 6));
    bench.Add(requests.back());
  }
  while (bench.scheduler_.Stats().preemptions == 0 && bench.Plan()) {
    if (bench.device_.in_flight() == 2) bench.Apply();
  }
  EXPECT_EQ(bench.scheduler_.Stats().preemptions, 1);
  bench.Run();
  for (const Request& request : requests) bench.ExpectAnswer(request);
}

TEST_P(SchedulerTest, CancelReleasesWithinTwoSteps) {
  Bench bench(Config());
  const Request request = bench.MakeRequest(Tokens(10), 20);
  bench.Add(request);
  for (int i = 0; i < GetParam(); ++i) bench.Plan();
  bench.scheduler_.Cancel(request.id, FinishReason::kCancelled, bench.now_);
  bench.scheduler_.Cancel(request.id, FinishReason::kShutdown, bench.now_);  // nothing more
  EXPECT_EQ(bench.scheduler_.Stats().sequences_retiring, 1);
  EXPECT_GT(bench.scheduler_.Stats().blocks_pending, 0);
  while (bench.device_.in_flight() > 0) bench.Apply();
  EXPECT_EQ(bench.scheduler_.Stats().blocks_pending, 0);
  EXPECT_EQ(bench.scheduler_.Stats().sequences_retiring, 0);
  EXPECT_EQ(bench.Of(request).last.finish, FinishReason::kCancelled);
  bench.Run();
  EXPECT_EQ(bench.done_[request.id.value()], 1);
}

TEST_P(SchedulerTest, FinishCountsOnlyWhatItIsTold) {
  Bench bench(Config());
  const Request request = bench.MakeRequest(Tokens(4), 30);
  bench.Add(request);
  for (int i = 0; i < 8; ++i) bench.Step();
  bench.scheduler_.Finish(request.id, 0, FinishReason::kStop, 5, bench.now_);
  bench.scheduler_.Finish(request.id, 0, FinishReason::kStop, 1, bench.now_);
  bench.scheduler_.Finish(request.id, 9, FinishReason::kStop, 1, bench.now_);
  bench.Run();
  EXPECT_EQ(bench.Of(request).last.completion_tokens, 5);
  EXPECT_EQ(bench.Of(request).last.finish, FinishReason::kStop);
  EXPECT_EQ(bench.done_[request.id.value()], 1);
}

TEST_P(SchedulerTest, DeadlinesInQueueAndWhileRunning) {
  SchedulerConfig config = Config();
  config.slots = 1;
  Bench bench(config);
  Request running = bench.MakeRequest(Tokens(4), 30);
  running.deadline = 50;
  Request queued = bench.MakeRequest(Tokens(4), 30);
  queued.deadline = 40;
  bench.Add(running);
  bench.Add(queued);
  EXPECT_EQ(bench.scheduler_.NextDeadline(), 40);
  bench.Step();
  bench.now_ = 40;
  bench.Step();
  EXPECT_EQ(bench.Of(queued).last.finish, FinishReason::kDeadline);
  EXPECT_EQ(bench.scheduler_.NextDeadline(), 50);
  bench.now_ = 50;
  bench.Run();
  EXPECT_EQ(bench.Of(running).last.finish, FinishReason::kDeadline);
  EXPECT_EQ(bench.scheduler_.NextDeadline(), kNever);
}

TEST_P(SchedulerTest, PausedGetNoRowsKeepBlocksAndGoFirst) {
  SchedulerConfig config = Config();
  config.blocks = 6;
  Bench bench(config);
  const Request slow = bench.MakeRequest(Tokens(9), 8);
  const Request quick = bench.MakeRequest(Tokens(6, 300), 12);
  bench.Add(slow);
  bench.Step();
  bench.scheduler_.Pause(slow.id);
  bench.Step();
  EXPECT_TRUE(bench.plan_.rows.empty());
  EXPECT_EQ(bench.scheduler_.Stats().sequences_paused, 1);
  EXPECT_GE(bench.scheduler_.Stats().blocks_active, 3);
  bench.Add(quick);
  // `quick` cannot end beside the paused one: that one must go.
  for (int i = 0; i < 40; ++i) bench.Step();
  bench.ExpectAnswer(quick);
  EXPECT_EQ(bench.Of(slow).last.finish, FinishReason::kNone);
  bench.scheduler_.Resume(slow.id);
  bench.Run();
  bench.ExpectAnswer(slow);
  EXPECT_EQ(bench.scheduler_.Stats().pauses, 1);
}

TEST_P(SchedulerTest, AFailedRowEndsOnlyItsSequence) {
  Bench bench(Config());
  const Request good = bench.MakeRequest(Tokens(12), 9);
  Request bad = bench.MakeRequest(Tokens(12, 300), 9);
  bench.Add(bad);
  bench.Add(good);
  bench.Plan();
  bench.device_.Poison(bench.plan_.installs[0].sequence);
  bench.Apply();
  bench.Run();
  bench.ExpectAnswer(good);
  bench.Step();
  EXPECT_EQ(bench.scheduler_.Stats().finished[static_cast<size_t>(FinishReason::kError)],
            bench.Of(bad).last.finish == FinishReason::kError ? 1 : 0);
}

TEST_P(SchedulerTest, FailedKvIsNeverPublished) {
  Bench bench(Config());
  bench.device_.Poison(SequenceId(1));
  const Request bad = bench.MakeRequest(Tokens(16), 4);
  bench.Add(bad);
  bench.Run();
  EXPECT_EQ(bench.Of(bad).last.finish, FinishReason::kError);
  EXPECT_FALSE(bench.Of(bad).last.error.empty());
  const Request good = bench.MakeRequest(Tokens(16), 4);
  bench.Add(good);
  bench.Run();
  bench.ExpectAnswer(good);
  EXPECT_EQ(bench.Of(good).last.cached_tokens, 0);
}

TEST_P(SchedulerTest, QueueIsFirstComeFirstServed) {
  SchedulerConfig config = Config();
  config.blocks = 8;
  Bench bench(config);
  const Request first = bench.MakeRequest(Tokens(17), 8);
  const Request large = bench.MakeRequest(Tokens(20, 300), 2);
  const Request small = bench.MakeRequest(Tokens(2, 400), 2);
  for (const Request& request : {first, large, small}) bench.Add(request);
  bench.Run();
  EXPECT_LE(bench.Of(large).last.times.first_scheduled, bench.Of(small).last.times.first_scheduled);
}

TEST_P(SchedulerTest, SameCallsSamePlans) {
  std::string bytes[2];
  uint64_t prints[2];
  for (int run = 0; run < 2; ++run) {
    Bench bench(Config());
    std::vector<std::string> ballast(static_cast<size_t>(run) * 1000, "moves the heap");
    for (int i = 0; i < 6; ++i) {
      Request request = bench.MakeRequest(Tokens(5 + i), 10);
      request.n = 1 + i % 3;
      bench.Add(request);
    }
    for (int i = 0; i < 12; ++i) {
      bench.Step();
      Serialize(bench.plan_, bytes[run]);
    }
    prints[run] = bench.scheduler_.Fingerprint();
  }
  EXPECT_EQ(bytes[0], bytes[1]);
  EXPECT_EQ(prints[0], prints[1]);
}

}  // namespace
}  // namespace millrace::scheduler
