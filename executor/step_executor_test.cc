// The executor on small random models: exact mode gives the same logit bytes and the same seeded
// samples alone, batched, chunked, elsewhere in memory and after a second prefill; broken plans are
// refused; scores, penalties and failures go where they belong.

#include "executor/step_executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "executor/step_driver.h"
#include "model/gguf_model.h"
#include "model/load_model.h"
#include "tests/support/gguf_writer.h"

namespace millrace::executor {
namespace {

using kernels::ComputeMode;
using kernels::WeightType;
using testing::LlamaShape;

// A model made in memory, with the bytes that its description points to.
struct Model {
  std::string bytes;
  std::unique_ptr<model::Transformer> transformer;
};

std::unique_ptr<Model> MakeModel(const LlamaShape& shape, uint64_t seed, ThreadPool& pool) {
  auto out = std::make_unique<Model>();
  out->bytes = testing::RandomLlama(shape, seed).Build();
  const auto contents = model::ParseGguf(std::as_bytes(std::span(out->bytes)), "random.gguf");
  EXPECT_TRUE(contents.ok()) << contents.status();
  const auto description = model::DescribeGguf(*contents);
  EXPECT_TRUE(description.ok()) << description.status();
  kernels::Stream stream(pool, ComputeMode::kExact);
  model::PackArgs args;
  args.stream = &stream;
  auto made = model::FindArchitecture("llama")->make(*description, args);
  EXPECT_TRUE(made.ok()) << made.status();
  out->transformer = *std::move(made);
  return out;
}

LlamaShape ShapeOf(int kind) {
  LlamaShape shape;
  constexpr WeightType kTypes[] = {WeightType::kQ4_1, WeightType::kF32,  WeightType::kQ8_0,
                                   WeightType::kQ4_0, WeightType::kBF16, WeightType::kF16};
  shape.type = kTypes[kind % 6];
  shape.tied = kind % 2 == 0;
  if (kind % 3 ==
      1) {  // odd heads: 5 over 1, of 24; sizes that are no multiple of 16 where allowed
    shape.heads = 5, shape.kv_heads = 1, shape.head_dim = 32, shape.vocab = 113;
  } else if (kind % 3 == 2) {
    shape.heads = 6, shape.kv_heads = 2, shape.head_dim = 16, shape.vocab = 97;
  }
  return shape;
}

// Logit bytes by (sequence, position), and the final texts.
struct Trace {
  std::map<std::pair<uint64_t, int32_t>, std::vector<float>> logits;
  std::vector<std::vector<TokenId>> texts;
  std::vector<std::vector<TokenLogprobs>> logprobs;  // of the sampled tokens, when asked for
  int64_t guesses = 0, right = 0;
};

struct Job {
  std::vector<TokenId> prompt;
  SlotInstall install;
  int32_t output = 0;
};

struct Mix {
  int32_t chunk = 1000;
  int together = 1;         // sequences that run at once
  uint64_t block_seed = 0;  // placement of blocks
  double preempt = 0;       // chance a step
  double move = 0;          // chance a step that a block is copied elsewhere
  int workers = 1;
  kernels::IsaTier tier = kernels::IsaTier::kScalar;
  ComputeMode mode = ComputeMode::kExact;
  const std::vector<std::vector<TokenId>>* texts = nullptr;  // to guess from
};

StepExecutorOptions OptionsOf(const Mix& mix) {
  StepExecutorOptions options;
  options.mode = mix.mode;
  options.tier = mix.tier;
  options.kv_blocks = 200;
  options.max_num_seqs = 8;
  options.max_model_len = 256;
  options.tokens_per_step = 512;
  options.logits_rows = 7;  // several groups a step
  options.poison_kv = true;
  return options;
}

// Up to six of the tokens that will follow, some of them spoilt; too few to go past the end.
std::vector<TokenId> Guess(const std::vector<TokenId>& text, size_t known,
                           std::mt19937_64& random) {
  std::vector<TokenId> out;
  const size_t most = std::min<size_t>(random() % 7, text.size() - known - 1);
  for (size_t i = 0; i < most; ++i) {
    out.push_back(random() % 5 == 0 ? static_cast<TokenId>(random() % 90) : text[known + i]);
  }
  return out;
}

Trace RunMix(const model::Transformer& transformer, const std::vector<Job>& requests,
             const Mix& mix, uint64_t seed) {
  ThreadPool pool({.workers = mix.workers, .pin = false});
  Trace run;
  StepExecutorOptions options = OptionsOf(mix);
  uint64_t first = 0;  // sequence ids count from 1 in the driver
  options.observer = [&](const LogitsRow& row) {
    run.logits[{row.sequence.value() - 1 + first, row.position}].assign(row.logits.begin(),
                                                                        row.logits.end());
  };
  auto executor = StepExecutor::Create(transformer, pool, options);
  EXPECT_TRUE(executor.ok()) << executor.status();
  StepDriver driver(**executor, {.block_seed = mix.block_seed});
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<int> running;
  size_t next = 0;
  run.logprobs.resize(requests.size());
  while (next < requests.size() || !running.empty()) {
    while (next < requests.size() && running.size() < static_cast<size_t>(mix.together)) {
      running.push_back(driver.Add(requests[next].prompt, requests[next].install));
      ++next;
    }
    std::vector<DriverWork> works;
    std::vector<std::vector<TokenId>> guesses(running.size());
    for (int sequence : running) {
      if (uniform(random) < mix.preempt) driver.Preempt(sequence);
      DriverWork work;
      work.sequence = sequence;
      work.tokens = std::min(mix.chunk, driver.pending(sequence));
      work.sample = work.tokens == driver.pending(sequence);
      work.score = true;
      if (uniform(random) < mix.move && driver.tokens(sequence).size() > 40 &&
          driver.pending(sequence) == 1) {
        driver.MoveBlock(sequence, 0);
      }
      if (mix.texts != nullptr && work.sample && work.tokens == 1) {
        const std::vector<TokenId>& text = (*mix.texts)[static_cast<size_t>(sequence)];
        std::vector<TokenId>& mine = guesses[works.size()];
        mine = Guess(text, driver.tokens(sequence).size(), random);
        work.drafts = mine;
        work.score = mine.empty();
        run.guesses += static_cast<int64_t>(mine.size());
      }
      works.push_back(work);
    }
    const auto result = driver.Step(works);
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return run;
    for (size_t i = 0; i < running.size(); ++i) {
      const RowResult& row = result->rows[i];
      const auto from = result->logprobs.begin() + row.logprobs.begin;
      auto& logprobs = run.logprobs[static_cast<size_t>(running[i])];
      logprobs.insert(logprobs.end(), from, from + row.logprobs.count);
      if (!works[i].drafts.empty()) run.right += row.tokens.count - 1;
    }
    std::vector<int> still;
    for (int sequence : running) {
      const Job& request = requests[static_cast<size_t>(sequence)];
      const size_t wanted = request.prompt.size() + static_cast<size_t>(request.output);
      if (driver.tokens(sequence).size() < wanted) {
        still.push_back(sequence);
      } else {
        driver.Remove(sequence);
      }
    }
    running = still;
  }
  for (size_t i = 0; i < requests.size(); ++i) run.texts.push_back(driver.tokens(int(i)));
  return run;
}

std::vector<Job> RandomRequests(int count, int64_t vocab, std::mt19937_64& random) {
  std::vector<Job> out(static_cast<size_t>(count));
  for (Job& request : out) {
    const size_t length = 1 + random() % 100;
    for (size_t i = 0; i < length; ++i) {
      request.prompt.push_back(static_cast<TokenId>(random() % static_cast<uint64_t>(vocab)));
    }
    request.output = 1 + static_cast<int32_t>(random() % 12);
    SamplingParams& params = request.install.sampling;
    params.seed = random();
    if (random() % 3 == 0) params.temperature = 0;
    if (random() % 3 == 0) params.top_k = 10;
    if (random() % 3 == 0) params.top_p = 0.8f;
    if (random() % 3 == 0) params.presence_penalty = 0.7f;
    if (random() % 4 == 0) params.repetition_penalty = 1.3f;
    request.install.choice = static_cast<int32_t>(random() % 3);
  }
  return out;
}

bool SameBytes(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void ExpectSame(const Trace& alone, const Trace& mixed, int mix) {
  EXPECT_EQ(alone.texts, mixed.texts) << "mix " << mix;
  ASSERT_EQ(alone.logits.size(), mixed.logits.size()) << "mix " << mix;
  for (const auto& [where, logits] : alone.logits) {
    const auto it = mixed.logits.find(where);
    ASSERT_NE(it, mixed.logits.end());
    ASSERT_TRUE(SameBytes(logits, it->second))
        << "mix " << mix << " sequence " << where.first << " position " << where.second;
  }
}

TEST(StepExecutor, ExactModeDoesNotDependOnTheCompany) {
  ThreadPool pool({.workers = 2, .pin = false});
  std::vector<std::unique_ptr<Model>> models;
  for (int kind = 0; kind < 6; ++kind) models.push_back(MakeModel(ShapeOf(kind), 7, pool));
  const kernels::IsaTier best = kernels::DetectIsaTier();
  for (int i = 0; i < 50; ++i) {
    std::mt19937_64 random(static_cast<uint64_t>(i));
    const Model& model = *models[static_cast<size_t>(i % 6)];
    const auto requests = RandomRequests(4, model.transformer->config().vocab_size, random);
    const Trace alone = RunMix(*model.transformer, requests, {}, 1);
    constexpr int32_t kChunks[] = {1, 7, 64, 1000};
    Mix mix;
    mix.chunk = kChunks[i % 4];
    mix.together = 1 + static_cast<int>(random() % 4);
    mix.block_seed = random() | 1;
    mix.preempt = i % 3 == 0 ? 0.02 : 0;
    mix.move = i % 3 == 1 ? 0.3 : 0;
    mix.workers = 1 + static_cast<int>(random() % 3);
    mix.tier = i / 6 % 2 == 0 ? best : kernels::IsaTier::kScalar;  // each model in both
    ExpectSame(alone, RunMix(*model.transformer, requests, mix, uint64_t(i)), i);
  }
}

// Tokens, logits and log-probabilities of rows with guesses are those of one token after another,
// whatever the guesses: with penalties, with end tokens banned for a while, in any company.
TEST(StepExecutor, DraftRowsYieldWhatSingleStepsYield) {
  ThreadPool pool({.workers = 2, .pin = false});
  std::vector<std::unique_ptr<Model>> models;
  for (int kind = 0; kind < 6; ++kind) models.push_back(MakeModel(ShapeOf(kind), 7, pool));
  int64_t guesses = 0;
  int64_t right = 0;
  for (int i = 0; i < 24; ++i) {
    std::mt19937_64 random(static_cast<uint64_t>(i) + 100);
    const Model& model = *models[static_cast<size_t>(i % 6)];
    auto requests = RandomRequests(4, model.transformer->config().vocab_size, random);
    for (Job& request : requests) {
      request.output += 20;
      request.install.sampling.logprobs = static_cast<int32_t>(random() % 4) - 1;
      request.install.min_tokens = static_cast<int32_t>(random() % 12);
      for (TokenId t = 0; t < 60; ++t) request.install.banned_until_min.push_back(t);
    }
    const Trace alone = RunMix(*model.transformer, requests, {}, 1);
    Mix mix;
    mix.texts = &alone.texts;
    mix.together = 1 + static_cast<int>(random() % 4);
    mix.block_seed = random() | 1;
    mix.preempt = i % 3 == 0 ? 0.02 : 0;
    mix.move = i % 3 == 1 ? 0.3 : 0;
    mix.workers = 1 + static_cast<int>(random() % 3);
    mix.tier = i % 2 == 0 ? kernels::DetectIsaTier() : kernels::IsaTier::kScalar;
    const Trace drafted = RunMix(*model.transformer, requests, mix, uint64_t(i));
    ExpectSame(alone, drafted, i);
    for (size_t s = 0; s < requests.size(); ++s) {
      ASSERT_EQ(alone.logprobs[s].size(), drafted.logprobs[s].size()) << "mix " << i;
      for (size_t t = 0; t < alone.logprobs[s].size(); ++t) {
        EXPECT_EQ(alone.logprobs[s][t].logprob, drafted.logprobs[s][t].logprob) << "mix " << i;
        EXPECT_EQ(alone.logprobs[s][t].rank, drafted.logprobs[s][t].rank) << "mix " << i;
      }
    }
    guesses += drafted.guesses;
    right += drafted.right;
  }
  EXPECT_GT(right, 1000);
  EXPECT_GT(guesses - right, 300);
}

TEST(StepExecutor, ScoresAreThoseOfTheSamplesTheyPredict) {
  ThreadPool pool({.workers = 2, .pin = false});
  const auto model = MakeModel(ShapeOf(0), 3, pool);
  auto executor = StepExecutor::Create(*model->transformer, pool, OptionsOf({}));
  ASSERT_TRUE(executor.ok()) << executor.status();
  StepDriver driver(**executor);
  SlotInstall install;
  install.sampling.logprobs = 3;
  const int one = driver.Add({5, 6, 7}, install);
  std::vector<TokenLogprobs> sampled;
  for (int i = 0; i < 6; ++i) {
    const DriverWork work{one, driver.pending(one), true};
    const auto result = driver.Step({&work, 1});
    ASSERT_TRUE(result.ok());
    ASSERT_EQ(result->rows[0].logprobs.count, 1u);
    sampled.push_back(result->logprobs[0]);
  }
  // The same text as a prompt: its scores are the log-probabilities that sampling reported.
  const int two = driver.Add(driver.tokens(one));
  const DriverWork work{two, driver.pending(two), false, true, 3};
  const auto result = driver.Step({&work, 1});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->rows[0].tokens.count, 0u);
  ASSERT_EQ(result->rows[0].scores.count, 8u);
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(result->scores[2 + i].logprob, sampled[i].logprob);
    EXPECT_EQ(result->scores[2 + i].rank, sampled[i].rank);
    ASSERT_EQ(result->scores[2 + i].top.size(), 3u);
    EXPECT_EQ(result->scores[2 + i].top[2].token, sampled[i].top[2].token);
  }
}

TEST(StepExecutor, BannedUntilMinAndTokenOnDevice) {
  ThreadPool pool({.workers = 1, .pin = false});
  const auto model = MakeModel(ShapeOf(1), 3, pool);
  auto executor = StepExecutor::Create(*model->transformer, pool, OptionsOf({}));
  ASSERT_TRUE(executor.ok());
  const auto plan_of = [](uint64_t step, int32_t position, TokenId token, int32_t index) {
    StepPlan plan;
    plan.step = StepId(step);
    PlanRow row;
    row.sequence = SequenceId(1);
    row.output = RowOutput::kSample;
    row.position = position;
    row.tokens = {0, 1};
    row.sample_index = index;
    plan.rows.push_back(row);
    plan.tokens = {token};
    return plan;
  };
  const auto run = [&](const StepPlan& plan) {
    EXPECT_TRUE((*executor)->Submit(plan).ok());
    const auto result = (*executor)->Wait(plan.step);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() && !result->tokens.empty() ? result->tokens[0] : -2;
  };
  StepPlan plan = plan_of(1, 0, 9, 0);
  SlotInstall install;
  install.sequence = SequenceId(1);
  install.sampling.temperature = 0;
  install.min_tokens = 1;
  for (TokenId t = 0; t < 113; ++t) {
    if (t != 4) install.banned_until_min.push_back(t);
  }
  plan.installs.push_back(install);
  plan.table_deltas.push_back({SlotId(0), 0, 0, {0, 1}});
  plan.blocks = {BlockId(3)};
  EXPECT_EQ(run(plan), 4);  // all others are banned at index 0
  const TokenId by_device = run(plan_of(2, 1, kTokenOnDevice, 1));
  EXPECT_NE(by_device, 4);  // nothing is banned any more, and this model does not repeat itself
  EXPECT_EQ(run(plan_of(3, 1, 4, 1)), by_device);
}

TEST(StepExecutor, NonFiniteLogitsEndOneRow) {
  ThreadPool pool({.workers = 2, .pin = false});
  // Token 3's embedding is infinite: a row that reads it is not a number, its neighbours are.
  Model model;
  LlamaShape shape;
  shape.tied = false;
  model.bytes = testing::RandomLlama(shape, 1).Build();
  const auto contents = model::ParseGguf(std::as_bytes(std::span(model.bytes)), "x");
  ASSERT_TRUE(contents.ok());
  const std::byte* table = static_cast<const std::byte*>(contents->tensors[0].matrix.data);
  const float infinity = std::numeric_limits<float>::infinity();
  std::memcpy(const_cast<std::byte*>(table) + 3 * 64 * sizeof(float), &infinity, sizeof(float));
  const auto description = model::DescribeGguf(*contents);
  kernels::Stream stream(pool, ComputeMode::kExact);
  model::PackArgs args;
  args.stream = &stream;
  auto transformer = model::FindArchitecture("llama")->make(*description, args);
  ASSERT_TRUE(transformer.ok());
  auto executor = StepExecutor::Create(**transformer, pool, OptionsOf({}));
  ASSERT_TRUE(executor.ok());
  StepDriver driver(**executor);
  const int good = driver.Add({1, 2});
  const int bad = driver.Add({1, 3});
  const DriverWork works[] = {{bad, 2, true, true}, {good, 2, true, true}};
  const auto result = driver.Step(works);
  ASSERT_TRUE(result.ok());
  EXPECT_TRUE(result->rows[0].failed);
  EXPECT_EQ(result->rows[0].tokens.count, 0u);
  EXPECT_FALSE(result->rows[1].failed);
  EXPECT_EQ(result->rows[1].tokens.count, 1u);
  EXPECT_EQ(result->tokens.size(), 1u);
  // The blocks that held the bad row's numbers serve others, who see nothing of it.
  driver.Remove(bad);
  const DriverWork again[] = {{good, 1, true}};
  EXPECT_FALSE(driver.Step(again)->rows[0].failed);
  // A wrong guess of it fails nobody; a right one ends the row after the tokens before it.
  SlotInstall wants3;
  wants3.sampling.temperature = 0;
  wants3.sampling.logit_bias = {{3, 1000.0f}};
  const int doomed = driver.Add({1}, wants3);
  const TokenId guess[] = {3, 3};
  const DriverWork guessed[] = {{good, 1, true, false, 0, guess},
                                {doomed, 1, true, false, 0, guess}};
  const auto verified = driver.Step(guessed);
  ASSERT_TRUE(verified.ok());
  EXPECT_FALSE(verified->rows[0].failed);
  EXPECT_EQ(verified->rows[0].tokens.count, 1u);
  EXPECT_TRUE(verified->rows[1].failed);
  ASSERT_EQ(verified->rows[1].tokens.count, 1u);
  EXPECT_EQ(verified->tokens[verified->rows[1].tokens.begin], 3);
}

// What benches build their batches with: a copy goes on exactly as the original does, and the two
// share no memory.
TEST(StepExecutor, AForkedSequenceGoesOnAsTheOriginal) {
  ThreadPool pool({.workers = 2});
  const auto model = MakeModel(ShapeOf(0), 1, pool);
  std::map<uint64_t, std::vector<float>> logits;  // of the last step, by sequence
  StepExecutorOptions options;
  options.mode = ComputeMode::kExact;
  options.kv_blocks = 16;
  options.max_num_seqs = 3;
  options.max_model_len = 128;
  options.observer = [&](const LogitsRow& row) {
    logits[row.sequence.value()].assign(row.logits.begin(), row.logits.end());
  };
  auto executor = StepExecutor::Create(*model->transformer, pool, options);
  ASSERT_TRUE(executor.ok()) << executor.status();
  StepDriver driver(**executor);
  std::vector<TokenId> prompt;
  for (TokenId t = 0; t < 45; ++t) prompt.push_back(t * 7 % 90);
  const int first = driver.Add(prompt);
  const DriverWork feed{first, 45, true};
  ASSERT_TRUE(driver.Step({&feed, 1}).ok());

  const int fork = driver.Fork(first);
  EXPECT_EQ(driver.tokens(fork), driver.tokens(first));
  const DriverWork both[] = {{first, 1, true}, {fork, 1, true}};
  ASSERT_TRUE(driver.Step(both).ok());
  EXPECT_EQ(logits[1], logits[2]);
  for (size_t b = 0; b < driver.table(first, 0).size(); ++b) {
    EXPECT_NE(driver.table(first, 0)[b], driver.table(fork, 0)[b]);
  }
  // The original ends; a copy of the copy, made before the copy goes on, does as it did.
  driver.Remove(first);
  const DriverWork alone{fork, 1, true};
  const int other = driver.Fork(fork);
  ASSERT_TRUE(driver.Step({&alone, 1}).ok());
  const DriverWork late{other, 1, true};
  ASSERT_TRUE(driver.Step({&late, 1}).ok());
  EXPECT_EQ(logits[2], logits[3]);
  EXPECT_EQ(driver.tokens(other), driver.tokens(fork));
}

// A plan that breaks a rule is refused before memory is touched, and the executor says so for good.
TEST(StepExecutor, BrokenPlansAreRefused) {
  ThreadPool pool({.workers = 1, .pin = false});
  const auto model = MakeModel(ShapeOf(1), 3, pool);
  const auto good = [] {
    StepPlan plan;
    plan.step = StepId(1);
    SlotInstall install;
    install.sequence = SequenceId(1);
    plan.installs.push_back(install);
    plan.table_deltas.push_back({SlotId(0), 0, 0, {0, 2}});
    plan.blocks = {BlockId(1), BlockId(2)};
    PlanRow row;
    row.sequence = SequenceId(1);
    row.output = RowOutput::kSample;
    row.tokens = {0, 3};
    plan.rows.push_back(row);
    plan.tokens = {1, 2, 3};
    return plan;
  };
  const auto run = [&](const StepPlan& plan) {
    auto executor = StepExecutor::Create(*model->transformer, pool, OptionsOf({}));
    EXPECT_TRUE(executor.ok());
    if (const absl::Status submitted = (*executor)->Submit(plan); !submitted.ok()) return submitted;
    const absl::Status status = (*executor)->Wait(plan.step).status();
    StepPlan next;
    next.step = StepId(2);
    EXPECT_EQ((*executor)->Submit(next).ok(), status.ok());  // sticky
    return status;
  };
  EXPECT_TRUE(run(good()).ok());
  const std::vector<std::function<void(StepPlan&)>> breaks = {
      [](StepPlan& p) { p.step = StepId(7); },
      [](StepPlan& p) { p.installs[0].slot = SlotId(8); },
      [](StepPlan& p) { p.installs.push_back(p.installs[0]); },
      [](StepPlan& p) { p.installs[0].adapter = 1; },
      [](StepPlan& p) { p.installs[0].constraint = 1; },
      [](StepPlan& p) {
        p.installs[0].history = {0, 9};
      },
      [](StepPlan& p) {
        p.installs[0].sampling.logit_bias = {{113, 1.0f}};
      },
      [](StepPlan& p) { p.installs[0].banned_until_min = {-1}; },
      [](StepPlan& p) { p.removes = {SlotId(3)}; },
      [](StepPlan& p) { p.table_deltas[0].first = 8; },
      [](StepPlan& p) { p.table_deltas[0].kv_group = 1; },
      [](StepPlan& p) {
        p.table_deltas[0].blocks = {1, 2};
      },
      [](StepPlan& p) { p.blocks[0] = BlockId(201); },
      [](StepPlan& p) { p.blocks[0] = kNullBlock; },
      [](StepPlan& p) {
        p.copies.push_back({0, BlockId(1), BlockId(201)});
      },
      [](StepPlan& p) {
        p.copies.push_back({0, BlockId(0), BlockId(1)});
      },
      [](StepPlan& p) { p.rows[0].sequence = SequenceId(2); },
      [](StepPlan& p) { p.rows[0].slot = SlotId(1); },
      [](StepPlan& p) { p.rows[0].position = 255; },
      [](StepPlan& p) { p.rows[0].position = -1; },
      [](StepPlan& p) { p.rows[0].position = 62; },  // needs a third block
      [](StepPlan& p) { p.rows[0].first_needed = 1; },
      [](StepPlan& p) {
        p.rows[0].tokens = {1, 3};
      },
      [](StepPlan& p) {
        p.rows[0].tokens = {0, 0};
      },
      [](StepPlan& p) {
        p.rows[0].score_targets = {0, 1};
      },
      [](StepPlan& p) { p.rows[0].kind = RowKind::kDraft, p.rows[0].output = RowOutput::kNone; },
      [](StepPlan& p) {
        p.rows[0].kind = RowKind::kDraft, p.rows[0].output = RowOutput::kSample;
        p.rows[0].score_targets = {0, 1}, p.score_targets = {1};
      },
      [](StepPlan& p) { p.rows[0].output = RowOutput::kHidden; },
      [](StepPlan& p) { p.rows[0].mask = 0; },
      [](StepPlan& p) { p.tokens[1] = 113; },
      [](StepPlan& p) { p.tokens[1] = -1; },  // no sample of a step before
  };
  for (size_t i = 0; i < breaks.size(); ++i) {
    StepPlan plan = good();
    breaks[i](plan);
    EXPECT_FALSE(run(plan).ok()) << "break " << i;
  }
}

TEST(StepExecutor, FastModeIsCloseAndOptionsAreChecked) {
  ThreadPool pool({.workers = 2, .pin = false});
  const auto model = MakeModel(ShapeOf(0), 3, pool);
  std::mt19937_64 random(1);
  auto requests = RandomRequests(2, 100, random);
  for (Job& request : requests) request.output = 1;
  Mix fast;
  fast.mode = ComputeMode::kFast;
  fast.tier = kernels::DetectIsaTier();
  const Trace exact = RunMix(*model->transformer, requests, {}, 1);
  const Trace quick = RunMix(*model->transformer, requests, fast, 1);
  double dot = 0, norm_a = 0, norm_b = 0;
  for (const auto& [where, logits] : exact.logits) {
    for (size_t i = 0; i < logits.size(); ++i) {
      const double a = logits[i];
      const double b = quick.logits.at(where)[i];
      dot += a * b, norm_a += a * a, norm_b += b * b;
    }
  }
  EXPECT_GT(dot / std::sqrt(norm_a * norm_b), 0.99);
  StepExecutorOptions options = OptionsOf({});
  options.max_model_len = 257;  // beyond the model's context
  EXPECT_FALSE(StepExecutor::Create(*model->transformer, pool, options).ok());
  options = OptionsOf({});
  options.kv_blocks = 0;
  EXPECT_FALSE(StepExecutor::Create(*model->transformer, pool, options).ok());
  options.kv_group_blocks = {200};
  EXPECT_TRUE(StepExecutor::Create(*model->transformer, pool, options).ok());
  options.kv_group_blocks = {200, 200};  // the model has one group
  EXPECT_FALSE(StepExecutor::Create(*model->transformer, pool, options).ok());
}

}  // namespace
}  // namespace millrace::executor
