#pragma once
// Drives an executor by hand, in place of the scheduler: for tests, goldens and benches. Keeps
// sequences, hands out blocks in an order of the caller's choosing, and builds the plans.
//
// A sequence has a block table in each KV group. In a local group a block goes back, and its entry
// becomes null, before the first step whose rows no longer see it:
//
//   global group   [ 4 | 2 | 7 | 1 ]
//   local group    [ 0 | 0 | 3 | 5 ]     position 100, blocks of 32, window 40: 61 is the first
//   seen

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
  // Guesses of what follows its one pending token, to be checked in the same step. REQUIRES:
  // sample, tokens 1, no score.
  std::span<const TokenId> drafts = {};
};

struct StepDriverOptions {
  uint64_t block_seed = 0;  // blocks are taken from a list shuffled by it; 0: ascending
  // Sets one block of each group aside that is never written, and copies it over each block that is
  // let go. With StepExecutorOptions::poison_kv these are NaNs, so that a later read shows.
  bool poison_released = false;
};

// Thread: one caller.
class StepDriver {
 public:
  explicit StepDriver(Executor& executor, const StepDriverOptions& options = {});

  // A sequence with these tokens pending; `install` gives sampling parameters, choice and the like.
  int Add(std::vector<TokenId> tokens, SlotInstall install = {});
  // Another sequence with the same tokens and a copy of every block: what `sequence` would be had
  // it been fed twice. The copies are made by the next step, which must come before one that feeds
  // `sequence` or lets go of its blocks.
  int Fork(int sequence);
  // Runs one step. Sampled tokens are appended to their sequences.
  absl::StatusOr<StepResult> Step(std::span<const DriverWork> works);
  // Preemption: gives back the blocks and the slot; everything is pending again.
  void Preempt(int sequence);
  // Ends it: its blocks and its slot are free with the next step.
  void Remove(int sequence);
  // Moves the sequence's block `index` to another block with a copy (copy on write).
  // REQUIRES: the entry is not null.
  void MoveBlock(int sequence, size_t index, uint32_t group = 0);
  // Poisons a block that the sequence still holds. REQUIRES: as MoveBlock; poison_released.
  void PoisonBlock(int sequence, size_t index, uint32_t group);

  const std::vector<TokenId>& tokens(int sequence) const { return At(sequence).tokens; }
  int32_t pending(int sequence) const {
    return static_cast<int32_t>(At(sequence).tokens.size()) - At(sequence).fed;
  }
  // Block ids by position / block_tokens; null where the window has passed.
  const std::vector<BlockId>& table(int sequence, uint32_t group) const {
    return At(sequence).tables[group];
  }
  // Blocks of this group that the window has passed, of all sequences so far.
  int64_t blocks_let_go(uint32_t group) const { return groups_[group].let_go; }

 private:
  struct Group {
    int32_t window = 0;         // 0: all positions are kept
    std::vector<BlockId> free;  // taken from the back
    BlockId blank;              // null unless poison_released
    int64_t let_go = 0;
  };
  struct Sequence {
    SlotInstall install;
    std::vector<TokenId> tokens;
    int32_t fed = 0;
    int32_t sampled = 0;
    bool installed = false;
    std::vector<std::vector<BlockId>> tables;  // by group
  };
  const Sequence& At(int sequence) const { return sequences_[static_cast<size_t>(sequence)]; }
  BlockId TakeBlock(uint32_t group);
  void ReturnBlock(uint32_t group, BlockId& entry);
  void SlideWindows(Sequence& sequence);
  void Install(Sequence& sequence, StepPlan& plan);
  void ExtendTables(Sequence& sequence, int32_t end, StepPlan& plan);
  void AddRow(const DriverWork& work, StepPlan& plan);

  Executor& executor_;
  int32_t block_tokens_;
  std::vector<Group> groups_;
  std::vector<SlotId> free_slots_;
  std::vector<Sequence> sequences_;
  std::vector<SlotId> removes_;
  std::vector<BlockCopy> copies_;
  uint64_t step_ = 0;
};

}  // namespace millrace::executor
