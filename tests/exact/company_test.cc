// Answers do not depend on the company: the logits of a request have the same bytes alone, batched,
// chunked, preempted and resumed, or from the prefix cache, on any number of threads and any
// instruction set, and so have its sampled tokens. In exact mode, and in fast mode off AMX's tiles,
// which promises so under the name of --numerics batch-invariant: each mix runs in both.
//
// Each mix is a random set of requests and a random configuration (budget, chunk, pools, threads,
// tier). The real scheduler plans, the real executor runs; an observer hashes every row of logits.
// The same requests run alone, one after the other, on an ample pool, are the reference. Models
// with windows keep everything when alone; in company they have a KV group for each of
// model::LayerGroups, and memory of local ones for a few windows or even one.
//
//   company_test                      50 mixes each of small models, quantized or with windows
//   company_test --mixes 1000 --demo  the soak: the demo model; and without --demo
//   company_test --seed N             one mix of each again
//
// In two of three mixes the company guesses (prompt look-up), from the prompt or from what it was
// given alone; half of the requests repeat themselves, and some do it in their answers. With
// --speculation every mix does, the same company runs with guesses and without, and both must be as
// alone:
//
//   company_test --speculation [--mixes 500]
//
// Controls: the run fails unless each model had mixes with preemption, with prefix hits, with
// chunks, with guesses right and wrong and, where it has windows, blocks that these let go; and
// unless this test sees that the two modes differ.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "executor/step_executor.h"
#include "model/gguf_model.h"
#include "model/load_model.h"
#include "scheduler/scheduler.h"
#include "tests/exact/random_model.h"
#include "tests/golden/model/arch_golden.h"
#include "tests/support/gguf_writer.h"

namespace millrace {
namespace {

// (seed of the request, choice, position) -> hash of the logits there.
using Key = std::tuple<uint64_t, int32_t, int32_t>;
using Hashes = std::map<Key, uint64_t>;
using Answers = std::map<std::pair<uint64_t, int32_t>, std::vector<TokenId>>;

struct Setup {
  int32_t tokens_per_step = 256;
  int32_t chunk = 256;
  int32_t blocks = 0;
  int32_t local_blocks = 0;  // of a local group; 0: one group for all layers keeps everything
  int32_t threads = 1;
  bool prefix_cache = false;
  scheduler::SpeculationConfig speculation = {};
  kernels::ComputeMode mode = kernels::ComputeMode::kExact;
  kernels::IsaTier tier = kernels::IsaTier::kScalar;
};

struct Outcome {
  Hashes hashes;
  Answers answers;
  EngineStats stats;
  int chunks = 0;      // prefill rows that were not the whole prompt
  int64_t let_go = 0;  // table entries of running sequences that became null
};

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "company_test: %s\n", what.c_str());
  std::exit(1);
}

uint64_t HashBytes(std::span<const float> logits) {
  uint64_t hash = 0x9e3779b97f4a7c15;
  for (const float value : logits) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    hash = (hash ^ bits) * 0x100000001b3;
    hash ^= hash >> 29;
  }
  return hash;
}

// Runs `requests` together; `arrive[i]` is the step before which request i is added.
class Run {
 public:
  Run(const model::Transformer& transformer, const Setup& setup) : setup_(setup) {
    ThreadPoolOptions pool;
    pool.workers = setup.threads, pool.pin = false;
    pool_ = std::make_unique<ThreadPool>(pool);
    executor::StepExecutorOptions options;
    options.mode = setup.mode, options.tier = setup.tier;
    options.kv_blocks = setup.blocks, options.block_tokens = 16;
    for (const model::LayerGroup& group : model::LayerGroups(transformer.config())) {
      if (setup.local_blocks == 0) break;
      options.kv_group_blocks.push_back(group.window > 0 ? setup.local_blocks : setup.blocks);
    }
    options.max_num_seqs = 32;
    options.max_model_len =
        static_cast<int32_t>(std::min<int64_t>(transformer.config().context_length, 512));
    options.tokens_per_step = setup.tokens_per_step;
    options.poison_kv = true;
    options.observer = [this](const executor::LogitsRow& row) { Observe(row); };
    auto executor = executor::StepExecutor::Create(transformer, *pool_, options);
    if (!executor.ok()) Fail(executor.status().ToString());
    executor_ = std::move(executor).value();
    scheduler::SchedulerConfig config;
    config.block_tokens = 16, config.slots = 32;
    for (const executor::KvGroupCapacity& group : executor_->Capacity().kv_groups) {
      config.kv_groups.push_back({group.blocks, group.window});
    }
    config.tokens_per_step = setup.tokens_per_step, config.prefill_chunk_max = setup.chunk;
    config.max_model_len = options.max_model_len, config.prefix_cache = setup.prefix_cache;
    config.speculation = setup.speculation;
    scheduler_ = std::make_unique<scheduler::Scheduler>(config);
  }

  void Add(const Request& request) {
    seeds_[request.id] = request.sampling.seed;
    if (scheduler_->Add(request, now_) != scheduler::AddResult::kAccepted) Fail("refused");
    ++live_;
  }

  void Step() {
    StepPlan plan = scheduler_->Plan(++now_);
    if (!plan.empty()) {
      Note(plan);
      const StepId step = plan.step;
      if (!executor_->Submit(std::move(plan)).ok()) Fail("submit");
      auto result = executor_->Wait(step);
      if (!result.ok()) Fail(result.status().ToString());
      scheduler_->Apply(*result, now_);
    }
    for (TokenEvent& event : scheduler_->TakeEvents()) {
      auto& answer = outcome_.answers[{seeds_[event.request], event.choice}];
      answer.insert(answer.end(), event.tokens.begin(), event.tokens.end());
      if (event.finish != FinishReason::kNone && event.finish != FinishReason::kLength &&
          event.finish != FinishReason::kStop) {
        Fail(std::string("a request ended with ") + FinishReasonName(event.finish));
      }
      live_ -= event.request_done ? 1 : 0;
    }
    if (now_ > 100'000) Fail("does not end");
  }

  bool idle() const { return live_ == 0; }
  Outcome Take() {
    outcome_.stats = scheduler_->Stats();
    return std::move(outcome_);
  }

 private:
  struct Name {
    uint64_t seed;
    int32_t choice;
  };

  void Note(const StepPlan& plan) {
    std::set<SlotId> fresh;  // their tables may begin with nulls: a prefix hit, nothing let go
    for (const SlotInstall& install : plan.installs) {
      names_[install.sequence] = {install.sampling.seed, install.choice};
      fresh.insert(install.slot);
    }
    for (const PlanRow& row : plan.rows) {
      outcome_.chunks += row.kind == RowKind::kPrefill && row.output == RowOutput::kNone;
    }
    for (const TableDelta& delta : plan.table_deltas) {
      if (fresh.count(delta.slot) > 0) continue;
      const auto begin = plan.blocks.begin() + delta.blocks.begin;
      outcome_.let_go += std::count(begin, begin + delta.blocks.count, kNullBlock);
    }
  }

  void Observe(const executor::LogitsRow& row) {
    const Name& name = names_.at(row.sequence);
    const Key key{name.seed, name.choice, row.position};
    const uint64_t hash = HashBytes(row.logits);
    const auto [it, fresh] = outcome_.hashes.emplace(key, hash);
    if (!fresh && it->second != hash) Fail("one run gave one position two logits");
  }

  const Setup setup_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<executor::StepExecutor> executor_;
  std::unique_ptr<scheduler::Scheduler> scheduler_;
  std::map<RequestId, uint64_t> seeds_;
  std::map<SequenceId, Name> names_;
  Outcome outcome_;
  MonoNanos now_ = 0;
  int live_ = 0;
};

std::vector<Request> MakeRequests(std::mt19937_64& random, int32_t vocab, bool small) {
  const auto pick = [&](int32_t low, int32_t high) {
    return low + static_cast<int32_t>(random() % static_cast<uint64_t>(high - low + 1));
  };
  std::vector<TokenId> shared;  // a common prefix, so that the prefix cache has something to do
  for (int i = 0; i < 100; ++i) shared.push_back(pick(3, vocab - 1));
  std::vector<Request> requests(static_cast<size_t>(pick(2, small ? 10 : 6)));
  for (size_t i = 0; i < requests.size(); ++i) {
    Request& r = requests[i];
    r.id = RequestId(i + 1);
    r.prompt.assign(shared.begin(), shared.begin() + pick(0, 1) * pick(16, 96));
    for (int32_t extra = pick(1, 40); extra > 0; --extra) r.prompt.push_back(pick(3, vocab - 1));
    const bool repeats = pick(0, 1) == 1;
    for (size_t from = 0; repeats && from < 30; ++from) r.prompt.push_back(r.prompt[from]);
    r.stop.max_tokens = pick(1, small ? 40 : 12);
    r.stop.ignore_eos = true;
    r.n = pick(0, 4) == 0 ? pick(2, 3) : 1;
    r.sampling.seed = random();
    r.sampling.temperature = pick(0, 2) == 0 ? 0.0f : 1.0f;
    if (pick(0, 1) == 1) r.sampling.top_p = 0.9f, r.sampling.top_k = 40;
    if (pick(0, 3) == 0) r.sampling.repetition_penalty = 1.2f, r.sampling.presence_penalty = 0.3f;
    // Says little else than a few tokens: a text that repeats itself.
    for (int32_t few = repeats ? pick(0, 3) : 0; few > 0; --few) {
      r.sampling.logit_bias.emplace_back(few * 7, 40.0f);
    }
    if (pick(0, 3) == 0) {
      r.stop.stop_token_ids = {pick(3, vocab - 1), 7};
      r.stop.min_tokens = pick(0, r.stop.max_tokens);
    }
  }
  return requests;
}

// What each choice says alone, spoilt here and there.
scheduler::SpeculationConfig GuessesFrom(const std::vector<Request>& requests,
                                         const Answers& answers) {
  scheduler::SpeculationConfig config;
  config.guesses_max = 7;
  config.guess = [&requests, &answers](const scheduler::GuessQuery& query,
                                       std::vector<TokenId>& guesses) {
    const Request& request = requests[query.request.value() - 1];
    const auto& answer = answers.at({request.sampling.seed, query.choice});
    size_t at = query.tokens.size() - request.prompt.size();
    uint64_t dice = (request.sampling.seed ^ at) * 0x9e3779b97f4a7c15;
    for (int32_t i = 0; i < query.most && at < answer.size(); ++i, ++at) {
      dice ^= dice >> 29, dice *= 0xff51afd7ed558ccd;
      guesses.push_back(dice >> 61 == 0 ? 3 : answer[at]);
    }
  };
  return config;
}

Outcome Alone(const model::Transformer& transformer, const std::vector<Request>& requests,
              kernels::ComputeMode mode) {
  Outcome all;
  for (const Request& request : requests) {
    Setup setup;
    setup.blocks = 128, setup.mode = mode, setup.tier = kernels::DetectIsaTier();
    Run run(transformer, setup);
    run.Add(request);
    while (!run.idle()) run.Step();
    Outcome one = run.Take();
    all.hashes.merge(one.hashes);
    all.answers.merge(one.answers);
  }
  return all;
}

Outcome Together(const model::Transformer& transformer, const std::vector<Request>& requests,
                 const Setup& setup, std::mt19937_64& random) {
  Run run(transformer, setup);
  for (const Request& request : requests) {
    run.Add(request);
    for (uint64_t steps = random() % 4; steps > 0; --steps) run.Step();
  }
  while (!run.idle()) run.Step();
  return run.Take();
}

Setup RandomSetup(std::mt19937_64& random, const std::vector<Request>& requests, int64_t window) {
  Setup setup;
  const int32_t chunks[] = {1, 7, 64, 256};
  setup.chunk = chunks[random() % 4];
  const int32_t budgets[] = {8, 33, 256};
  setup.tokens_per_step = budgets[random() % 3];
  int32_t largest = 0;
  for (const Request& r : requests) {
    const int32_t tokens = static_cast<int32_t>(r.prompt.size()) + r.stop.max_tokens;
    largest = std::max(largest, (tokens + 15) / 16 * r.n);
  }
  setup.blocks = random() % 2 == 0 ? largest + static_cast<int32_t>(random() % 6) + 2 : 128;
  if (window > 0) {  // just what one token sees, or for a few sequences, or for all
    const auto seen = static_cast<uint64_t>(window + 14) / 16 + 1;
    setup.local_blocks = random() % 4 == 0 ? 128 : static_cast<int32_t>(seen + random() % 16);
  }
  setup.threads = 1 + static_cast<int32_t>(random() % 3);
  setup.prefix_cache = random() % 2 == 0;
  do {
    setup.tier = static_cast<kernels::IsaTier>(
        random() % (static_cast<uint64_t>(kernels::DetectIsaTier()) + 1));
  } while (!kernels::RunsIsaTier(setup.tier));
  return setup;
}

// A model that the mixes run, and what happened in them.
struct Subject {
  std::string name;
  std::unique_ptr<model::Transformer> transformer;
  bool small = true;      // more and longer requests
  bool all_tiers = true;  // or the best one alone, which is quicker
  int64_t preemptions = 0, hits = 0, chunks = 0, rows = 0, let_go = 0, guesses = 0, right = 0;
};

void CheckSame(const Outcome& alone, const Outcome& mixed, const std::string& replay) {
  if (alone.answers != mixed.answers) Fail("tokens differ from the request alone" + replay);
  size_t compared = 0;
  for (const auto& [key, hash] : mixed.hashes) {
    const auto it = alone.hashes.find(key);
    if (it == alone.hashes.end()) {
      // After a stop token that was itself guessed the device goes on to the end of its row.
      const auto& [seed, choice, position] = key;
      const auto next = alone.hashes.upper_bound(key);
      const bool last = next == alone.hashes.end() || std::get<0>(next->first) != seed ||
                        std::get<1>(next->first) != choice;
      if (last && mixed.stats.draft_tokens_accepted > 0) continue;
      Fail("logits at a position that has none alone" + replay);
    }
    if (it->second != hash) Fail("logits differ from the request alone" + replay);
    ++compared;
  }
  if (compared != alone.hashes.size()) Fail("positions are missing" + replay);
}

void CheckMix(uint64_t seed, kernels::ComputeMode mode, Subject& subject, bool speculation) {
  const model::Transformer& transformer = *subject.transformer;
  std::mt19937_64 random(seed);
  const auto vocab = static_cast<int32_t>(transformer.config().vocab_size);
  const std::vector<Request> requests = MakeRequests(random, vocab, subject.small);
  Setup setup = RandomSetup(random, requests, transformer.config().window);
  if (!subject.all_tiers) setup.tier = kernels::DetectIsaTier();
  setup.mode = mode;
  const char* const name = mode == kernels::ComputeMode::kExact ? ", exact" : ", fast";
  const std::string replay =
      " (" + subject.name + name + "; replay: --seed " + std::to_string(seed) + ")";
  const Outcome alone = Alone(transformer, requests, mode);
  if (speculation) {
    std::mt19937_64 same = random;
    CheckSame(alone, Together(transformer, requests, setup, same), replay + ", without guesses");
  }
  // Of what it said alone, or of its own text; or none.
  const uint64_t kind = speculation ? seed % 2 : seed % 3;
  if (kind == 0) setup.speculation = GuessesFrom(requests, alone.answers);
  if (kind == 1) setup.speculation.guesses_max = 5;
  const Outcome mixed = Together(transformer, requests, setup, random);
  CheckSame(alone, mixed, replay);
  subject.guesses += mixed.stats.draft_tokens;
  subject.right += mixed.stats.draft_tokens_accepted;
  subject.preemptions += mixed.stats.preemptions;
  subject.hits += mixed.stats.prefix_hits;
  subject.chunks += mixed.chunks;
  subject.rows += static_cast<int64_t>(mixed.hashes.size());
  subject.let_go += mixed.let_go;
}

// Fast mode's bytes are others than exact mode's; if they never were, the comparison would be
// blind.
bool FastModeDiffers(const model::Transformer& transformer) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    std::mt19937_64 random(seed);
    const auto requests =
        MakeRequests(random, static_cast<int32_t>(transformer.config().vocab_size), true);
    Setup setup;
    setup.blocks = 128, setup.tier = kernels::DetectIsaTier();
    Outcome exact = Together(transformer, requests, setup, random);
    if (exact.hashes != Alone(transformer, requests, kernels::ComputeMode::kFast).hashes)
      return true;
  }
  return false;
}

std::unique_ptr<model::Transformer> Pack(const model::ModelDescription& description,
                                         kernels::Stream& stream) {
  model::PackArgs args;
  args.stream = &stream;
  auto made = model::FindArchitecture(description.config.architecture)->make(description, args);
  if (!made.ok()) Fail(made.status().ToString());
  return std::move(made).value();
}

// In 4 bits with minima, and in 6 with two scales a block: integer products in fast mode.
Subject Quantized(const char* name, kernels::WeightType type, kernels::Stream& stream) {
  testing::LlamaShape shape;
  shape.type = type, shape.context = 512, shape.vocab = 151;
  shape.hidden = 256, shape.heads = 4, shape.kv_heads = 2, shape.head_dim = 64;
  shape.feed_forward = 512;
  const std::string bytes = testing::RandomLlama(shape, 1).Build();
  const auto contents = model::ParseGguf(std::as_bytes(std::span(bytes)), name);
  if (!contents.ok()) Fail(contents.status().ToString());
  const auto description = model::DescribeGguf(*contents);
  if (!description.ok()) Fail(description.status().ToString());
  return {name, Pack(*description, stream), true, false};
}

// Random Llamas in fp32 and quantized; gemma3, with a global and a local group; mistral, whose
// layers are all local.
std::vector<Subject> SmallModels(kernels::Stream& stream) {
  std::vector<Subject> out;
  out.push_back({"random llama", Pack(testing::RandomModel(5).description(), stream)});
  out.push_back(Quantized("random llama Q4_1", kernels::WeightType::kQ4_1, stream));
  out.push_back(Quantized("random llama Q6_K", kernels::WeightType::kQ6_K, stream));
  for (const char* name : {"gemma3", "mistral"}) {
    const auto golden =
        golden::ArchGolden::Read(std::string("tests/golden/model/arch_") + name + ".golden");
    if (!golden.ok()) Fail(golden.status().ToString());
    out.push_back({name, Pack((*golden)->description(), stream), true, false});
  }
  return out;
}

Subject DemoModel(kernels::Stream& stream) {
  const char* home = std::getenv("HOME");
  const std::string path = std::string(home == nullptr ? "" : home) +
                           "/.cache/millrace/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  auto loaded = model::LoadModel(path, {}, stream);
  if (!loaded.ok()) Fail(loaded.status().ToString());
  return {"demo model", std::move(loaded->transformer), false, false};
}

void CheckControls(const Subject& subject) {
  const auto control = [&](int64_t happened, const char* what) {
    if (happened == 0) Fail("control: no mix of " + subject.name + " had " + what);
  };
  control(subject.preemptions, "a preemption");
  control(subject.hits, "a prefix hit");
  control(subject.chunks, "a chunked prefill");
  control(subject.right, "a right guess");
  control(subject.guesses - subject.right, "a wrong guess");
  if (subject.transformer->config().window > 0) control(subject.let_go, "a block let go");
}

int Main(int argc, char** argv) {
  int mixes = 50;
  uint64_t first = 1;
  bool demo = false;
  bool speculation = false;
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--demo")) demo = true;
    if (!std::strcmp(argv[i], "--speculation")) speculation = true;
    if (!std::strcmp(argv[i], "--mixes") && i + 1 < argc) mixes = std::atoi(argv[++i]);
    if (!std::strcmp(argv[i], "--seed") && i + 1 < argc) {
      first = std::strtoull(argv[++i], nullptr, 10), mixes = 1;
    }
  }
  ThreadPool pool({.workers = 0, .pin = false});
  kernels::Stream stream(pool, kernels::ComputeMode::kExact);
  std::vector<Subject> subjects;
  if (demo) {
    subjects.push_back(DemoModel(stream));
  } else {
    subjects = SmallModels(stream);
  }
  for (Subject& subject : subjects) {
    for (int mix = 0; mix < mixes; ++mix) {
      for (kernels::ComputeMode mode :
           {kernels::ComputeMode::kExact, kernels::ComputeMode::kFast}) {
        CheckMix(first + static_cast<uint64_t>(mix), mode, subject, speculation);
      }
      if (demo && mix % 20 == 19) std::fprintf(stderr, "%d mixes\n", mix + 1);
    }
    std::printf(
        "%s: %d mixes equal in both modes: %lld rows of logits, %lld preemptions, %lld cached "
        "tokens, %lld chunks, %lld blocks let go by windows, %lld guesses, %lld of them right\n",
        subject.name.c_str(), mixes, static_cast<long long>(subject.rows),
        static_cast<long long>(subject.preemptions), static_cast<long long>(subject.hits),
        static_cast<long long>(subject.chunks), static_cast<long long>(subject.let_go),
        static_cast<long long>(subject.guesses), static_cast<long long>(subject.right));
    std::fflush(stdout);
    if (mixes >= 50) CheckControls(subject);
  }
  if (mixes >= 50 && !demo && !FastModeDiffers(*subjects[0].transformer)) {
    Fail("control: another arithmetic went unseen");
  }
  return 0;
}

}  // namespace
}  // namespace millrace

int main(int argc, char** argv) {
  return millrace::Main(argc, argv);
}
