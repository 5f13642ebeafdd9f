#pragma once
// The executor that runs a real model on the CPUs of a thread pool.
//
//   Wait:  slots <- plan deltas | block copies | batch tensors | forward pass
//          then, in groups of rows so that logits never take more than one buffer:
//          head | observer | scores and samples, one row a worker
//
// Owns the KV arena, the slots and the workspace. Owns neither the model nor the pool.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "executor/batch_builder.h"
#include "executor/executor.h"
#include "executor/kv_arena.h"
#include "executor/sampler.h"
#include "executor/slot_table.h"
#include "kernels/stream.h"
#include "model/transformer.h"

namespace millrace::executor {

// A row of raw logits, as the sampler saw it; not those after a wrong guess of a draft row. Valid
// during the call.
struct LogitsRow {
  StepId step;
  SequenceId sequence;
  int32_t position = 0;
  std::span<const float> logits;  // [vocab_size]
};

struct StepExecutorOptions {
  kernels::ComputeMode mode = kernels::ComputeMode::kFast;
  // Absent: fp32 in exact mode, bf16 in fast mode.
  std::optional<kernels::KvType> kv_type;
  int32_t kv_blocks = 0;  // usable blocks of one group for all layers; from the memory plan
  // Or, for each of model::LayerGroups, the blocks of that group; then not `kv_blocks`.
  std::vector<int32_t> kv_group_blocks;
  int32_t block_tokens = 32;
  int32_t max_num_seqs = 0;   // slots
  int32_t max_model_len = 0;  // positions of a sequence
  int32_t tokens_per_step = 512;
  int32_t logits_rows = 64;  // rows of logits that are in memory at once
  kernels::IsaTier tier = kernels::DetectIsaTier();
  // For tests and probes; called by the thread that waits. Empty: none.
  std::function<void(const LogitsRow&)> observer;
  // For tests: fills the arena with NaNs first, so that a read of what was never written shows.
  bool poison_kv = false;
};

// KV geometry that these options give this model, all layers in one group.
kernels::KvLayout KvLayoutFor(const model::ModelConfig& config, const StepExecutorOptions& options);

// The same with a group for each of model::LayerGroups: a block of a local group is let go when its
// window has passed. The memory plan asks too.
std::vector<model::KvGroupLayout> KvLayoutsFor(const model::ModelConfig& config,
                                               const StepExecutorOptions& options);

// Thread: engine.
class StepExecutor final : public Executor {
 public:
  // `transformer` and `pool` outlive the executor. InvalidArgument, ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<StepExecutor>> Create(const model::Transformer& transformer,
                                                              ThreadPool& pool,
                                                              const StepExecutorOptions& options);

  ExecutorCapacity Capacity() const override;
  absl::Status Submit(StepPlan plan) override;
  absl::StatusOr<StepResult> Wait(StepId step) override;
  int max_in_flight() const override { return 1; }

 private:
  // The samples of one plan row. One worker at a time.
  struct Drawn {
    uint32_t first = 0;  // in samples_
    uint32_t count = 0;  // drawn so far: of a draft row those that count
  };
  StepExecutor(const model::Transformer& transformer, ThreadPool& pool,
               const StepExecutorOptions& options);
  absl::StatusOr<StepResult> Execute(const StepPlan& plan);
  absl::Status CopyBlocks(const StepPlan& plan);
  absl::Status RunGroup(const StepPlan& plan, std::span<const OutputRow> group, StepResult* result);
  void FinishRow(const StepPlan& plan, const OutputRow& output, const float* logits, int worker,
                 StepResult* result);
  void DrawSample(const PlanRow& row, const OutputRow& output, const float* logits, int worker);
  void Collect(const StepPlan& plan, StepResult* result);

  const model::Transformer& transformer_;
  StepExecutorOptions options_;
  kernels::Stream stream_;
  std::vector<model::KvGroupLayout> groups_;
  std::vector<std::unique_ptr<KvArena>> arenas_;  // by group
  std::vector<model::KvView> views_;              // by group
  SlotTable slots_;
  std::vector<Sampler> samplers_;  // one a worker
  model::Workspace workspace_;
  std::unique_ptr<float[], void (*)(float*)> memory_;  // workspace, then logits
  float* logits_ = nullptr;                            // [logits_rows, vocab_size]

  BatchTensors batch_;
  std::vector<Sample> samples_;  // by OutputRow::sample_at
  std::vector<Drawn> drawn_;     // by plan row
  std::vector<uint8_t> failed_;  // by plan row; written by one worker per output, only ever to 1
  std::vector<int32_t> group_rows_;
  std::vector<Span32> runs_;  // of a group: outputs that one worker finishes, in order

  std::optional<StepPlan> submitted_;
  uint64_t last_step_ = 0;
  absl::Status sticky_;  // the first device error; every later call answers with it
};

}  // namespace millrace::executor
