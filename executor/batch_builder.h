#pragma once
// Turns a plan's rows into what the forward pass reads, and lists which logits are wanted.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "executor/slot_table.h"
#include "kernels/ops.h"
#include "messages/step_plan.h"

namespace millrace::executor {

// One row of logits and what is to be made of it.
struct OutputRow {
  int32_t token_row = 0;  // in the batch
  int32_t plan_row = 0;   // in plan.rows
  TokenId target = -1;    // known token to score; -1: none
  uint32_t score = 0;     // where its score goes in StepResult::scores
  bool sample = false;
  uint32_t sample_at = 0;  // where its sample goes: the row's samples lie side by side
  int32_t draft = 0;       // how many samples of its row come before
};

// Reused from step to step. Thread: engine.
struct BatchTensors {
  std::vector<int32_t> tokens;                           // [T]
  std::vector<int32_t> positions;                        // [T]
  std::vector<std::vector<kernels::AttentionRow>> rows;  // by KV group
  std::vector<OutputRow> outputs;                        // in the plan's order
  uint32_t scores = 0;                                   // score targets in all
  uint32_t samples = 0;                                  // outputs that sample
};

struct BatchLimits {
  int32_t tokens_per_step = 0;
  int32_t vocab_size = 0;
};

// Internal on a plan that breaks a rule, Unimplemented on one that asks for what is not here yet.
// The attention rows point into `slots`' tables.
absl::Status BuildBatch(const StepPlan& plan, const SlotTable& slots, const BatchLimits& limits,
                        BatchTensors* out);

}  // namespace millrace::executor
