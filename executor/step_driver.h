#pragma once
// Drives an executor by hand, in place of the scheduler: for tests, goldens and benches. Keeps
// sequences, hands out blocks in an order of the caller's choosing, and builds the plans.

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "executor/executor.h"
#include "messages/step_plan.h"
#include "messages/step_result.h"

namespace millrace::executor {

// What one sequence does in the next step.
struct DriverWork {
  int sequence = 0;
  int32_t tokens = 1;   // how many of its pending tokens to feed
  bool sample = false;  // and then draw one, which becomes pending
  bool score = false;   // score each pending token that follows a fed one
  int32_t score_top = 0;
};

// Thread: one caller.
class StepDriver {
 public:
  // Blocks are taken from a list shuffled by `block_seed` (0: ascending).
  explicit StepDriver(Executor& executor, uint64_t block_seed = 0);

  // A sequence with these tokens pending; `install` gives sampling parameters, choice and the like.
  int Add(std::vector<TokenId> tokens, SlotInstall install = {});
  // Runs one step. Sampled tokens are appended to their sequences.
  absl::StatusOr<StepResult> Step(std::span<const DriverWork> works);
  // Preemption: gives back the blocks and the slot; everything is pending again.
  void Preempt(int sequence);
  // Ends it: its blocks and its slot are free with the next step.
  void Remove(int sequence);
  // Moves the sequence's block `index` to another block with a copy (copy on write).
  void MoveBlock(int sequence, size_t index);

  const std::vector<TokenId>& tokens(int sequence) const { return At(sequence).tokens; }
  int32_t pending(int sequence) const {
    return static_cast<int32_t>(At(sequence).tokens.size()) - At(sequence).fed;
  }

 private:
  struct Sequence {
    SlotInstall install;
    std::vector<TokenId> tokens;
    int32_t fed = 0;
    int32_t sampled = 0;
    bool installed = false;
    std::vector<BlockId> blocks;
  };
  const Sequence& At(int sequence) const { return sequences_[static_cast<size_t>(sequence)]; }
  BlockId TakeBlock();
  void Install(Sequence& sequence, StepPlan& plan);
  void AddRow(const DriverWork& work, StepPlan& plan);

  Executor& executor_;
  int32_t block_tokens_;
  std::vector<BlockId> free_blocks_;  // taken from the back
  std::vector<SlotId> free_slots_;
  std::vector<Sequence> sequences_;
  std::vector<SlotId> removes_;
  std::vector<BlockCopy> copies_;
  uint64_t step_ = 0;
};

}  // namespace millrace::executor
