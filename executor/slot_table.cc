#include "executor/slot_table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace millrace::executor {
namespace {

template <typename... Parts>
absl::Status Broken(const Parts&... parts) {
  return absl::InternalError(absl::StrCat("step plan: ", parts...));
}

bool KnownTokens(std::span<const TokenId> tokens, int32_t vocab_size) {
  return std::all_of(tokens.begin(), tokens.end(),
                     [&](TokenId token) { return token >= 0 && token < vocab_size; });
}

}  // namespace

SlotTable::SlotTable(const SlotTableLimits& limits)
    : limits_(limits),
      slots_(static_cast<size_t>(limits.slots)),
      tables_(static_cast<size_t>(limits.slots) * limits.groups.size() *
              static_cast<size_t>(limits.max_blocks)) {}

absl::Status SlotTable::Install(const SlotInstall& install, const StepPlan& plan) {
  if (install.slot.value() >= slots_.size()) return Broken("slot ", install.slot.value());
  Slot& target = slot(install.slot);
  if (target.installed) return Broken("slot ", install.slot.value(), " is taken");
  if (install.adapter != 0) return absl::UnimplementedError("step plan: adapters");
  if (install.constraint != 0) return absl::UnimplementedError("step plan: constraints");
  if (!Inside(install.history, plan.history_tokens.size())) return Broken("history");
  const std::span<const TokenId> history(plan.history_tokens.data() + install.history.begin,
                                         install.history.count);
  bool known = KnownTokens(history, limits_.vocab_size) &&
               KnownTokens(install.banned_until_min, limits_.vocab_size);
  for (const auto& bias : install.sampling.logit_bias) {
    known = known && bias.first >= 0 && bias.first < limits_.vocab_size;
  }
  if (!known) return Broken("a token of slot ", install.slot.value(), " is not in the vocabulary");
  target.installed = true;
  target.sequence = install.sequence;
  target.choice = install.choice;
  target.sampling = install.sampling;
  target.banned_until_min = install.banned_until_min;
  target.min_tokens = install.min_tokens;
  target.last_sample = -1;
  if (install.sampling.penalized()) target.counts.Reset(history, install.prompt_tokens);
  std::fill_n(tables_.begin() + static_cast<int64_t>(Offset(install.slot, 0)),
              groups() * static_cast<size_t>(limits_.max_blocks), kNullBlock.value());
  return absl::OkStatus();
}

absl::Status SlotTable::Extend(const TableDelta& delta, const StepPlan& plan) {
  if (delta.kv_group >= groups()) return Broken("KV group ", delta.kv_group);
  if (delta.slot.value() >= slots_.size() || !slot(delta.slot).installed) {
    return Broken("table of slot ", delta.slot.value());
  }
  if (!Inside(delta.blocks, plan.blocks.size()) ||
      !Inside({delta.first, delta.blocks.count}, static_cast<size_t>(limits_.max_blocks))) {
    return Broken("table delta of slot ", delta.slot.value());
  }
  uint32_t* entries = tables_.data() + Offset(delta.slot, delta.kv_group) + delta.first;
  const auto most = static_cast<uint32_t>(limits_.groups[delta.kv_group].first);
  for (uint32_t i = 0; i < delta.blocks.count; ++i) {
    const uint32_t block = plan.blocks[delta.blocks.begin + i].value();
    if (block > most) return Broken("block ", block);
    entries[i] = block;
  }
  return absl::OkStatus();
}

absl::Status SlotTable::Apply(const StepPlan& plan) {
  for (SlotId id : plan.removes) {
    if (id.value() >= slots_.size() || !slot(id).installed) {
      return Broken("remove of slot ", id.value());
    }
    slot(id).installed = false;
  }
  for (const SlotInstall& install : plan.installs) RETURN_IF_ERROR(Install(install, plan));
  for (const TableDelta& delta : plan.table_deltas) RETURN_IF_ERROR(Extend(delta, plan));
  return absl::OkStatus();
}

absl::Status SlotTable::CheckRow(const PlanRow& row) const {
  if (row.slot.value() >= slots_.size() || !slot(row.slot).installed ||
      slot(row.slot).sequence != row.sequence) {
    return Broken("row of slot ", row.slot.value());
  }
  const int64_t end = int64_t{row.position} + row.tokens.count;
  const int64_t capacity = int64_t{limits_.max_blocks} * limits_.block_tokens;
  if (row.tokens.count == 0 || row.first_needed < 0 || row.first_needed > row.position ||
      end > capacity) {
    return Broken("positions of slot ", row.slot.value());
  }
  for (size_t g = 0; g < groups(); ++g) {
    const uint32_t* entries = table(row.slot, g);
    int64_t i = FirstNeeded(row, g) / limits_.block_tokens;
    for (; i * limits_.block_tokens < end; ++i) {
      if (entries[i] == kNullBlock.value()) {
        return Broken("slot ", row.slot.value(), " needs the null block ", i, " in group ", g);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace millrace::executor
