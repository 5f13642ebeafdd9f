#include "executor/step_driver.h"

#include <algorithm>
#include <random>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"

namespace millrace::executor {

StepDriver::StepDriver(Executor& executor, uint64_t block_seed) : executor_(executor) {
  const ExecutorCapacity capacity = executor.Capacity();
  block_tokens_ = capacity.kv_groups[0].block_tokens;
  for (int32_t b = capacity.kv_groups[0].blocks; b >= 1; --b) {
    free_blocks_.push_back(BlockId(static_cast<uint32_t>(b)));
  }
  std::mt19937_64 random(block_seed);
  if (block_seed != 0) std::shuffle(free_blocks_.begin(), free_blocks_.end(), random);
  for (int32_t s = capacity.slots - 1; s >= 0; --s) {
    free_slots_.push_back(SlotId(static_cast<uint32_t>(s)));
  }
}

int StepDriver::Add(std::vector<TokenId> tokens, SlotInstall install) {
  Sequence sequence;
  sequence.tokens = std::move(tokens);
  sequence.install = std::move(install);
  sequence.install.prompt_tokens = static_cast<int32_t>(sequence.tokens.size());
  sequence.install.sequence = SequenceId(sequences_.size() + 1);
  sequences_.push_back(std::move(sequence));
  return static_cast<int>(sequences_.size()) - 1;
}

BlockId StepDriver::TakeBlock() {
  CHECK(!free_blocks_.empty());
  const BlockId block = free_blocks_.back();
  free_blocks_.pop_back();
  return block;
}

void StepDriver::Preempt(int index) {
  Sequence& sequence = sequences_[static_cast<size_t>(index)];
  // To the front: reused last, so that a stale table would be seen to read old memory.
  free_blocks_.insert(free_blocks_.begin(), sequence.blocks.begin(), sequence.blocks.end());
  sequence.blocks.clear();
  sequence.fed = 0;
  if (!sequence.installed) return;
  removes_.push_back(sequence.install.slot);
  sequence.installed = false;
}

void StepDriver::Remove(int index) {
  Preempt(index);
}

void StepDriver::MoveBlock(int index, size_t block) {
  Sequence& sequence = sequences_[static_cast<size_t>(index)];
  const BlockId target = TakeBlock();
  copies_.push_back({0, sequence.blocks[block], target});
  free_blocks_.insert(free_blocks_.begin(), sequence.blocks[block]);
  sequence.blocks[block] = target;
}

void StepDriver::Install(Sequence& sequence, StepPlan& plan) {
  CHECK(!free_slots_.empty());
  sequence.install.slot = free_slots_.back();
  free_slots_.pop_back();
  if (sequence.install.sampling.penalized()) {
    sequence.install.history = {static_cast<uint32_t>(plan.history_tokens.size()),
                                static_cast<uint32_t>(sequence.tokens.size())};
    plan.history_tokens.insert(plan.history_tokens.end(), sequence.tokens.begin(),
                               sequence.tokens.end());
  }
  plan.installs.push_back(sequence.install);
  sequence.installed = true;
}

void StepDriver::AddRow(const DriverWork& work, StepPlan& plan) {
  Sequence& sequence = sequences_[static_cast<size_t>(work.sequence)];
  if (!sequence.installed) Install(sequence, plan);
  PlanRow row;
  row.slot = sequence.install.slot;
  row.sequence = sequence.install.sequence;
  row.kind = work.tokens == 1 && work.sample ? RowKind::kDecode : RowKind::kPrefill;
  row.output = work.sample ? RowOutput::kSample : RowOutput::kNone;
  row.position = sequence.fed;
  row.tokens = {static_cast<uint32_t>(plan.tokens.size()), static_cast<uint32_t>(work.tokens)};
  row.sample_index = sequence.sampled;
  const auto begin = sequence.tokens.begin() + sequence.fed;
  plan.tokens.insert(plan.tokens.end(), begin, begin + work.tokens);
  sequence.fed += work.tokens;
  if (work.score) {
    row.score_top = work.score_top;
    const auto end = std::min(begin + 1 + work.tokens, sequence.tokens.end());
    row.score_targets = {static_cast<uint32_t>(plan.score_targets.size()),
                         static_cast<uint32_t>(end - begin - 1)};
    plan.score_targets.insert(plan.score_targets.end(), begin + 1, end);
  }
  // The whole table: what has moved and what is new.
  while (static_cast<int32_t>(sequence.blocks.size()) * block_tokens_ < sequence.fed) {
    sequence.blocks.push_back(TakeBlock());
  }
  TableDelta delta;
  delta.slot = row.slot;
  delta.blocks = {static_cast<uint32_t>(plan.blocks.size()),
                  static_cast<uint32_t>(sequence.blocks.size())};
  plan.blocks.insert(plan.blocks.end(), sequence.blocks.begin(), sequence.blocks.end());
  plan.table_deltas.push_back(delta);
  plan.rows.push_back(row);
}

absl::StatusOr<StepResult> StepDriver::Step(std::span<const DriverWork> works) {
  StepPlan plan;
  plan.step = StepId(++step_);
  plan.removes = std::exchange(removes_, {});
  free_slots_.insert(free_slots_.begin(), plan.removes.begin(), plan.removes.end());
  plan.copies = std::exchange(copies_, {});
  for (const DriverWork& work : works) AddRow(work, plan);
  RETURN_IF_ERROR(executor_.Submit(plan));
  ASSIGN_OR_RETURN(StepResult result, executor_.Wait(plan.step));
  for (size_t i = 0; i < works.size(); ++i) {
    const Span32 tokens = result.rows[i].tokens;
    Sequence& sequence = sequences_[static_cast<size_t>(works[i].sequence)];
    for (uint32_t t = 0; t < tokens.count; ++t) {
      sequence.tokens.push_back(result.tokens[tokens.begin + t]);
      ++sequence.sampled;
    }
  }
  return result;
}

}  // namespace millrace::executor
