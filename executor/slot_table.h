#pragma once
// Per-sequence state on the device: sampling parameters, counts, and the block tables as one flat
// array. Plans change it by deltas.

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"
#include "executor/penalties.h"
#include "messages/step_plan.h"

namespace millrace::executor {

struct Slot {
  bool installed = false;
  SequenceId sequence;
  int32_t choice = 0;
  SamplingParams sampling;
  std::vector<TokenId> banned_until_min;
  int32_t min_tokens = 0;
  PenaltyCounts counts;      // kept only when sampling.penalized()
  TokenId last_sample = -1;  // what kTokenOnDevice stands for
};

struct SlotTableLimits {
  int32_t slots = 0;
  // By KV group: usable block ids are 1 .. blocks; the window, 0: none.
  std::vector<std::pair<int32_t, int32_t>> groups;
  int32_t max_blocks = 0;  // entries of a table
  int32_t block_tokens = 0;
  int32_t vocab_size = 0;
};

// Errors are Internal: a plan that breaks a rule is a bug of ours, and the step is refused before
// it can touch memory that is not its own. Thread: engine.
class SlotTable {
 public:
  explicit SlotTable(const SlotTableLimits& limits);

  // Applies removes, installs and table deltas, in this order.
  absl::Status Apply(const StepPlan& plan);
  // The row's slot is its sequence's, and every block that it reads or writes is a real one.
  absl::Status CheckRow(const PlanRow& row) const;

  Slot& slot(SlotId id) { return slots_[id.value()]; }
  const Slot& slot(SlotId id) const { return slots_[id.value()]; }
  // [max_blocks] block ids by position / block_tokens.
  const uint32_t* table(SlotId id, size_t group) const {
    return tables_.data() + Offset(id, group);
  }
  size_t groups() const { return limits_.groups.size(); }
  // The first position that the row's first token sees in this group.
  int32_t FirstNeeded(const PlanRow& row, size_t group) const {
    const int32_t window = limits_.groups[group].second;
    const bool all = window == 0 || row.position < window;
    return all ? row.first_needed : std::max(row.first_needed, row.position - window + 1);
  }

 private:
  size_t Offset(SlotId id, size_t group) const {
    return (size_t{id.value()} * groups() + group) * static_cast<size_t>(limits_.max_blocks);
  }
  absl::Status Install(const SlotInstall& install, const StepPlan& plan);
  absl::Status Extend(const TableDelta& delta, const StepPlan& plan);

  SlotTableLimits limits_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> tables_;  // [slots][groups][max_blocks]
};

// True when [span.begin, span.begin + span.count) lies inside an array of `size`.
inline bool Inside(const Span32& span, size_t size) {
  return span.begin <= size && span.count <= size - span.begin;
}

}  // namespace millrace::executor
