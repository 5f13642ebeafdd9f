#include "executor/step_driver.h"

#include <algorithm>
#include <random>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"

namespace millrace::executor {

StepDriver::StepDriver(Executor& executor, const StepDriverOptions& options) : executor_(executor) {
  const ExecutorCapacity capacity = executor.Capacity();
  block_tokens_ = capacity.kv_groups[0].block_tokens;
  std::mt19937_64 random(options.block_seed);
  for (const KvGroupCapacity& kv : capacity.kv_groups) {
    Group& group = groups_.emplace_back();
    group.window = kv.window;
    for (int32_t b = kv.blocks; b >= 1; --b) group.free.emplace_back(static_cast<uint32_t>(b));
    if (options.block_seed != 0) std::shuffle(group.free.begin(), group.free.end(), random);
    if (!options.poison_released) continue;
    group.blank = group.free.back();
    group.free.pop_back();
  }
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
  sequence.tables.resize(groups_.size());
  sequences_.push_back(std::move(sequence));
  return static_cast<int>(sequences_.size()) - 1;
}

int StepDriver::Fork(int index) {
  Sequence fork = At(index);
  fork.install.sequence = SequenceId(sequences_.size() + 1);
  fork.installed = false;
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    for (BlockId& entry : fork.tables[g]) {
      if (entry == kNullBlock) continue;  // the window has passed it
      const BlockId source = std::exchange(entry, TakeBlock(g));
      copies_.push_back({g, source, entry});
    }
  }
  sequences_.push_back(std::move(fork));
  return static_cast<int>(sequences_.size()) - 1;
}

BlockId StepDriver::TakeBlock(uint32_t group) {
  std::vector<BlockId>& free = groups_[group].free;
  CHECK(!free.empty());
  const BlockId block = free.back();
  free.pop_back();
  return block;
}

// The entry becomes null.
void StepDriver::ReturnBlock(uint32_t group, BlockId& entry) {
  if (entry == kNullBlock) return;
  Group& from = groups_[group];
  // To the front: reused last, so that a stale table would be seen to read old memory.
  from.free.insert(from.free.begin(), entry);
  if (from.blank != kNullBlock) copies_.push_back({group, from.blank, entry});
  entry = kNullBlock;
}

void StepDriver::Preempt(int index) {
  Sequence& sequence = sequences_[static_cast<size_t>(index)];
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    for (BlockId& entry : sequence.tables[g]) ReturnBlock(g, entry);
    sequence.tables[g].clear();
  }
  sequence.fed = 0;
  if (!sequence.installed) return;
  removes_.push_back(sequence.install.slot);
  sequence.installed = false;
}

void StepDriver::Remove(int index) {
  Preempt(index);
}

void StepDriver::MoveBlock(int index, size_t block, uint32_t group) {
  BlockId& entry = sequences_[static_cast<size_t>(index)].tables[group][block];
  CHECK(entry != kNullBlock);
  const BlockId target = TakeBlock(group);
  copies_.push_back({group, entry, target});
  ReturnBlock(group, entry);
  entry = target;
}

void StepDriver::PoisonBlock(int index, size_t block, uint32_t group) {
  const BlockId entry = At(index).tables[group][block];
  CHECK(entry != kNullBlock && groups_[group].blank != kNullBlock);
  copies_.push_back({group, groups_[group].blank, entry});
}

// What the sequence's next token does not see goes back. Once a step, before its rows: a second row
// of the sequence sees less than the first.
void StepDriver::SlideWindows(Sequence& sequence) {
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    const int32_t window = groups_[g].window;
    if (window == 0) continue;
    const int32_t first = std::max(0, sequence.fed - window + 1);
    for (size_t b = 0; b < static_cast<size_t>(first / block_tokens_); ++b) {
      BlockId& entry = sequence.tables[g][b];
      groups_[g].let_go += entry != kNullBlock;
      ReturnBlock(g, entry);
    }
  }
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
  if (!work.drafts.empty()) {
    CHECK(work.tokens == 1 && work.sample && !work.score);
    row.kind = RowKind::kDraft;
    row.tokens.count += static_cast<uint32_t>(work.drafts.size());
    plan.tokens.insert(plan.tokens.end(), work.drafts.begin(), work.drafts.end());
  }
  if (work.score) {
    row.score_top = work.score_top;
    const auto end = std::min(begin + 1 + work.tokens, sequence.tokens.end());
    row.score_targets = {static_cast<uint32_t>(plan.score_targets.size()),
                         static_cast<uint32_t>(end - begin - 1)};
    plan.score_targets.insert(plan.score_targets.end(), begin + 1, end);
  }
  ExtendTables(sequence, row.position + static_cast<int32_t>(row.tokens.count), plan);
  plan.rows.push_back(row);
}

// The whole tables go into the plan: what has moved, what is new and what is null now.
void StepDriver::ExtendTables(Sequence& sequence, int32_t end, StepPlan& plan) {
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    std::vector<BlockId>& table = sequence.tables[g];
    while (static_cast<int32_t>(table.size()) * block_tokens_ < end) {
      table.push_back(TakeBlock(g));
    }
    TableDelta delta;
    delta.slot = sequence.install.slot;
    delta.kv_group = g;
    delta.blocks = {static_cast<uint32_t>(plan.blocks.size()), static_cast<uint32_t>(table.size())};
    plan.blocks.insert(plan.blocks.end(), table.begin(), table.end());
    plan.table_deltas.push_back(delta);
  }
}

absl::StatusOr<StepResult> StepDriver::Step(std::span<const DriverWork> works) {
  StepPlan plan;
  plan.step = StepId(++step_);
  plan.removes = std::exchange(removes_, {});
  free_slots_.insert(free_slots_.begin(), plan.removes.begin(), plan.removes.end());
  for (const DriverWork& work : works) {
    SlideWindows(sequences_[static_cast<size_t>(work.sequence)]);
  }
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
      if (t > 0) ++sequence.fed;  // a guess that was right
    }
  }
  return result;
}

}  // namespace millrace::executor
