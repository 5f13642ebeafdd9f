#include "executor/step_executor.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace millrace::executor {
namespace {

void FreeFloats(float* memory) {
  std::free(memory);
}

// One group for all layers keeps everything, even of layers that see a window only.
std::vector<model::KvGroupLayout> GroupsOf(const model::ModelConfig& config,
                                           const StepExecutorOptions& options) {
  if (!options.kv_group_blocks.empty()) return KvLayoutsFor(config, options);
  return {model::KvGroupLayout{KvLayoutFor(config, options), 0}};
}

int32_t BlocksOf(const StepExecutorOptions& options, size_t group) {
  return options.kv_group_blocks.empty() ? options.kv_blocks : options.kv_group_blocks[group];
}

SlotTableLimits LimitsOf(const model::ModelConfig& config, const StepExecutorOptions& options) {
  SlotTableLimits limits;
  limits.slots = options.max_num_seqs;
  const std::vector<model::KvGroupLayout> groups = GroupsOf(config, options);
  for (size_t g = 0; g < groups.size(); ++g) {
    limits.groups.emplace_back(BlocksOf(options, g), groups[g].window);
  }
  limits.block_tokens = options.block_tokens;
  limits.max_blocks = (options.max_model_len + options.block_tokens - 1) / options.block_tokens;
  limits.vocab_size = static_cast<int32_t>(config.vocab_size);
  return limits;
}

absl::Status CheckOptions(const model::ModelConfig& config, const StepExecutorOptions& options) {
  const auto positive = [](const char* name, int64_t value, int64_t most) {
    if (value >= 1 && value <= most) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("executor: ", name, " is ", value, "; it must be from 1 to ", most));
  };
  const size_t groups = options.kv_group_blocks.size();
  if (groups != 0 && groups != model::LayerGroups(config).size()) {
    return absl::InvalidArgumentError(absl::StrCat("executor: blocks of ", groups, " KV groups"));
  }
  for (size_t g = 0; g < std::max<size_t>(groups, 1); ++g) {
    RETURN_IF_ERROR(positive("kv_blocks", BlocksOf(options, g), INT32_MAX - 1));
  }
  RETURN_IF_ERROR(positive("block_tokens", options.block_tokens, 1024));
  RETURN_IF_ERROR(positive("max_num_seqs", options.max_num_seqs, 1 << 20));
  RETURN_IF_ERROR(positive("max_model_len", options.max_model_len, config.context_length));
  RETURN_IF_ERROR(positive("tokens_per_step", options.tokens_per_step, 1 << 20));
  return positive("logits_rows", options.logits_rows, 1 << 16);
}

}  // namespace

kernels::KvLayout KvLayoutFor(const model::ModelConfig& config,
                              const StepExecutorOptions& options) {
  kernels::KvLayout layout;
  const bool exact = options.mode == kernels::ComputeMode::kExact;
  layout.type = options.kv_type.value_or(exact ? kernels::KvType::kF32 : kernels::KvType::kBF16);
  layout.layers = static_cast<int32_t>(config.layers);
  layout.kv_heads = static_cast<int32_t>(config.kv_heads);
  layout.head_dim = static_cast<int32_t>(config.head_dim);
  layout.block_tokens = options.block_tokens;
  return layout;
}

std::vector<model::KvGroupLayout> KvLayoutsFor(const model::ModelConfig& config,
                                               const StepExecutorOptions& options) {
  std::vector<model::KvGroupLayout> out;
  for (const model::LayerGroup& group : model::LayerGroups(config)) {
    model::KvGroupLayout& added = out.emplace_back();
    added.layout = KvLayoutFor(config, options);
    added.layout.layers = static_cast<int32_t>(group.layers.size());
    added.window = static_cast<int32_t>(std::min<int64_t>(group.window, INT32_MAX));
  }
  return out;
}

StepExecutor::StepExecutor(const model::Transformer& transformer, ThreadPool& pool,
                           const StepExecutorOptions& options)
    : transformer_(transformer),
      options_(options),
      stream_(pool, options.mode, options.tier),
      groups_(GroupsOf(transformer.config(), options)),
      slots_(LimitsOf(transformer.config(), options)),
      memory_(nullptr, &FreeFloats) {
  for (int i = 0; i < pool.workers(); ++i) samplers_.emplace_back(transformer.config().vocab_size);
}

absl::StatusOr<std::unique_ptr<StepExecutor>> StepExecutor::Create(
    const model::Transformer& transformer, ThreadPool& pool, const StepExecutorOptions& options) {
  RETURN_IF_ERROR(CheckOptions(transformer.config(), options));
  std::unique_ptr<StepExecutor> executor(new StepExecutor(transformer, pool, options));
  StepExecutor& e = *executor;
  e.options_.logits_rows = std::min(options.logits_rows, options.tokens_per_step);
  for (size_t g = 0; g < e.groups_.size(); ++g) {
    ASSIGN_OR_RETURN(auto arena, KvArena::Create(e.groups_[g].layout, BlocksOf(options, g)));
    if (options.poison_kv) std::memset(arena->data(), 0xff, arena->bytes());
    e.arenas_.push_back(std::move(arena));
  }
  const int64_t tokens = options.tokens_per_step;
  const size_t floats = (transformer.WorkspaceFloats(tokens) + 15) / 16 * 16;
  const size_t logits = static_cast<size_t>(e.options_.logits_rows) *
                        static_cast<size_t>(transformer.config().vocab_size);
  const size_t bytes = ((floats + logits) * sizeof(float) + 63) / 64 * 64;
  e.memory_.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
  if (e.memory_ == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("executor: workspace of ", bytes, " bytes"));
  }
  e.workspace_ = {e.memory_.get(), floats, tokens};
  e.logits_ = e.memory_.get() + floats;
  return executor;
}

ExecutorCapacity StepExecutor::Capacity() const {
  ExecutorCapacity capacity;
  for (size_t g = 0; g < groups_.size(); ++g) {
    capacity.kv_groups.push_back({options_.block_tokens, arenas_[g]->blocks(), groups_[g].window});
  }
  capacity.slots = options_.max_num_seqs;
  capacity.tokens_per_step = options_.tokens_per_step;
  capacity.vocab_size = static_cast<int32_t>(transformer_.config().vocab_size);
  return capacity;
}

absl::Status StepExecutor::Submit(StepPlan plan) {
  RETURN_IF_ERROR(sticky_);
  if (submitted_.has_value() || plan.step.value() != last_step_ + 1) {
    return sticky_ = absl::InternalError(
               absl::StrCat("executor: step ", plan.step.value(), " submitted after ", last_step_));
  }
  last_step_ = plan.step.value();
  submitted_ = std::move(plan);
  return absl::OkStatus();
}

absl::StatusOr<StepResult> StepExecutor::Wait(StepId step) {
  RETURN_IF_ERROR(sticky_);
  if (!submitted_.has_value() || submitted_->step != step) {
    return sticky_ = absl::InternalError(
               absl::StrCat("executor: waited for step ", step.value(), ", not the one submitted"));
  }
  const StepPlan plan = *std::exchange(submitted_, std::nullopt);
  absl::StatusOr<StepResult> result = Execute(plan);
  if (!result.ok()) sticky_ = result.status();
  return result;
}

absl::Status StepExecutor::CopyBlocks(const StepPlan& plan) {
  for (const BlockCopy& copy : plan.copies) {
    const uint32_t source = copy.source.value();
    const uint32_t target = copy.target.value();
    const bool known = copy.kv_group < arenas_.size();
    const auto blocks = static_cast<uint32_t>(known ? arenas_[copy.kv_group]->blocks() : 0);
    if (source == 0 || target == 0 || source > blocks || target > blocks) {
      return absl::InternalError("step plan: block copy");
    }
    KvArena& arena = *arenas_[copy.kv_group];
    RETURN_IF_ERROR(kernels::CopyBlock({&arena.layout(), arena.data(), source, target}, stream_));
  }
  return absl::OkStatus();
}

absl::StatusOr<StepResult> StepExecutor::Execute(const StepPlan& plan) {
  RETURN_IF_ERROR(slots_.Apply(plan));
  RETURN_IF_ERROR(CopyBlocks(plan));
  const BatchLimits limits{options_.tokens_per_step,
                           static_cast<int32_t>(transformer_.config().vocab_size)};
  RETURN_IF_ERROR(BuildBatch(plan, slots_, limits, &batch_));

  StepResult result;
  result.step = plan.step;
  result.scores.resize(batch_.scores);
  samples_.assign(batch_.samples, {});
  drawn_.assign(plan.rows.size(), {});
  failed_.assign(plan.rows.size(), 0);
  if (!batch_.tokens.empty()) {
    model::Batch batch;
    batch.tokens = batch_.tokens;
    batch.positions = batch_.positions;
    views_.clear();
    for (size_t g = 0; g < arenas_.size(); ++g) {
      views_.push_back({&arenas_[g]->layout(), arenas_[g]->data(), batch_.rows[g]});
    }
    batch.kv = views_;
    // Chosen once: keys stay in the cache as they were turned (docs/adding_an_architecture.md).
    const model::RopeConfig& rope = transformer_.config().rope;
    batch.long_context = options_.max_model_len > rope.original_context;
    RETURN_IF_ERROR(transformer_.Forward(batch, workspace_, stream_));
    const size_t most = static_cast<size_t>(options_.logits_rows);
    const std::span<const OutputRow> outputs(batch_.outputs);
    for (size_t begin = 0; begin < outputs.size(); begin += most) {
      const size_t count = std::min(most, outputs.size() - begin);
      RETURN_IF_ERROR(RunGroup(plan, outputs.subspan(begin, count), &result));
    }
  }
  Collect(plan, &result);
  return result;
}

absl::Status StepExecutor::RunGroup(const StepPlan& plan, std::span<const OutputRow> group,
                                    StepResult* result) {
  group_rows_.clear();
  for (const OutputRow& output : group) group_rows_.push_back(output.token_row);
  RETURN_IF_ERROR(transformer_.Logits(group_rows_, workspace_, logits_, stream_));
  const size_t vocab = static_cast<size_t>(transformer_.config().vocab_size);
  // A draft's sample depends on the one before it: those of one row go to one worker.
  runs_.clear();
  for (uint32_t i = 0; i < group.size(); ++i) {
    if (i > 0 && group[i].draft > 0) {
      ++runs_.back().count;
    } else {
      runs_.push_back({i, 1});
    }
  }
  stream_.pool().ParallelFor(runs_.size(), 1, [&](size_t begin, size_t end, int worker) {
    for (size_t r = begin; r < end; ++r) {
      for (size_t i = runs_[r].begin; i < runs_[r].begin + size_t{runs_[r].count}; ++i) {
        FinishRow(plan, group[i], logits_ + i * vocab, worker, result);
      }
    }
  });
  for (size_t i = 0; options_.observer && i < group.size(); ++i) {
    const auto index = static_cast<size_t>(group[i].plan_row);
    const bool counts = drawn_[index].count > static_cast<uint32_t>(group[i].draft);
    if (group[i].draft > 0 && !counts) continue;
    const int32_t position = batch_.positions[static_cast<size_t>(group[i].token_row)];
    options_.observer(
        {plan.step, plan.rows[index].sequence, position, {logits_ + i * vocab, vocab}});
  }
  return absl::OkStatus();
}

void StepExecutor::FinishRow(const StepPlan& plan, const OutputRow& output, const float* logits,
                             int worker, StepResult* result) {
  const size_t index = static_cast<size_t>(output.plan_row);
  const PlanRow& row = plan.rows[index];
  Sampler& sampler = samplers_[static_cast<size_t>(worker)];
  // Outputs of one row may be on several workers.
  const auto fail = [&] {
    std::atomic_ref<uint8_t>(failed_[index]).store(1, std::memory_order_relaxed);
  };
  if (output.target >= 0) {
    if (!AllFinite(logits, transformer_.config().vocab_size)) return fail();
    result->scores[output.score] = sampler.Score(logits, output.target, row.score_top);
  }
  if (!output.sample) return;
  Drawn& drawn = drawn_[index];
  if (output.draft == 0) {
    drawn.first = output.sample_at;
  } else {
    // Counts only when all before it do, and the last of them is what this token guessed.
    const auto draft = static_cast<uint32_t>(output.draft);
    if (drawn.count != draft) return;
    if (samples_[output.sample_at - 1].token != plan.tokens[row.tokens.begin + draft]) return;
  }
  DrawSample(row, output, logits, worker);
  if (samples_[output.sample_at].token < 0) return fail();
  ++drawn.count;
}

void StepExecutor::DrawSample(const PlanRow& row, const OutputRow& output, const float* logits,
                              int worker) {
  Slot& slot = slots_.slot(row.slot);
  SampleArgs args;
  args.logits = logits;
  args.params = &slot.sampling;
  args.counts = slot.sampling.penalized() ? &slot.counts : nullptr;
  args.choice = slot.choice;
  args.sample_index = row.sample_index + output.draft;
  if (args.sample_index < slot.min_tokens) args.banned = slot.banned_until_min;
  Sample& sample = samples_[output.sample_at];
  sample = samplers_[static_cast<size_t>(worker)].Draw(args);
  if (sample.token >= 0 && slot.sampling.penalized()) slot.counts.AddOutput(sample.token);
}

// In the plan's order, on the engine thread: what the workers made becomes the result.
void StepExecutor::Collect(const StepPlan& plan, StepResult* result) {
  uint32_t scored = 0;
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    const PlanRow& row = plan.rows[i];
    RowResult out;
    out.sequence = row.sequence;
    out.slot = row.slot;
    out.failed = failed_[i] != 0;
    out.scores = {scored, row.score_targets.count};
    scored += row.score_targets.count;
    out.tokens.begin = static_cast<uint32_t>(result->tokens.size());
    out.logprobs.begin = static_cast<uint32_t>(result->logprobs.size());
    if (out.failed) out.scores.count = 0;
    if (!out.failed || row.kind == RowKind::kDraft) {
      Slot& slot = slots_.slot(row.slot);
      out.tokens.count = drawn_[i].count;
      if (slot.sampling.logprobs >= 0) out.logprobs.count = drawn_[i].count;
      for (uint32_t s = 0; s < drawn_[i].count; ++s) {
        Sample& sample = samples_[drawn_[i].first + s];
        slot.last_sample = sample.token;
        result->tokens.push_back(sample.token);
        if (slot.sampling.logprobs >= 0) result->logprobs.push_back(std::move(sample.logprobs));
      }
    }
    result->rows.push_back(out);
  }
}

}  // namespace millrace::executor
