#include "executor/batch_builder.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace millrace::executor {
namespace {

absl::Status CheckSupported(const PlanRow& row) {
  if (row.output == RowOutput::kHidden) {
    return absl::UnimplementedError("step plan: hidden states as output");
  }
  if (row.mask != UINT32_MAX) return absl::UnimplementedError("step plan: token masks");
  if (row.kind == RowKind::kDraft &&
      (row.output != RowOutput::kSample || row.score_targets.count != 0)) {
    return absl::InternalError("step plan: a draft row samples and scores nothing");
  }
  return absl::OkStatus();
}

absl::Status AddTokens(const StepPlan& plan, const PlanRow& row, const Slot& slot,
                       const BatchLimits& limits, BatchTensors* out) {
  for (uint32_t i = 0; i < row.tokens.count; ++i) {
    TokenId token = plan.tokens[row.tokens.begin + i];
    if (token == kTokenOnDevice && i == 0) token = slot.last_sample;
    if (token < 0 || token >= limits.vocab_size) {
      return absl::InternalError(absl::StrCat("step plan: token ", token, " of slot ",
                                              row.slot.value(), " is not in the vocabulary"));
    }
    out->tokens.push_back(token);
    out->positions.push_back(row.position + static_cast<int32_t>(i));
  }
  return absl::OkStatus();
}

absl::Status AddOutputs(const StepPlan& plan, int32_t index, const BatchLimits& limits,
                        int32_t token_begin, BatchTensors* out) {
  const PlanRow& row = plan.rows[static_cast<size_t>(index)];
  const uint32_t scored = row.score_targets.count;
  if (!Inside(row.score_targets, plan.score_targets.size()) ||
      (scored != 0 && scored != row.tokens.count && scored + 1 != row.tokens.count)) {
    return absl::InternalError("step plan: score targets");
  }
  const uint32_t last = row.tokens.count - 1;
  const bool drafts = row.kind == RowKind::kDraft;
  for (uint32_t i = 0; i <= last; ++i) {
    OutputRow output;
    output.token_row = token_begin + static_cast<int32_t>(i);
    output.plan_row = index;
    output.sample = row.output == RowOutput::kSample && (i == last || drafts);
    if (output.sample) output.sample_at = out->samples++;
    if (drafts) output.draft = static_cast<int32_t>(i);
    if (i < scored) {
      output.target = plan.score_targets[row.score_targets.begin + i];
      output.score = out->scores++;
      if (output.target < 0 || output.target >= limits.vocab_size) {
        return absl::InternalError("step plan: a score target is not in the vocabulary");
      }
    }
    if (output.sample || output.target >= 0) out->outputs.push_back(output);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status BuildBatch(const StepPlan& plan, const SlotTable& slots, const BatchLimits& limits,
                        BatchTensors* out) {
  out->tokens.clear();
  out->positions.clear();
  out->rows.resize(slots.groups());
  for (std::vector<kernels::AttentionRow>& rows : out->rows) rows.clear();
  out->outputs.clear();
  out->scores = 0;
  out->samples = 0;
  for (size_t index = 0; index < plan.rows.size(); ++index) {
    const PlanRow& row = plan.rows[index];
    RETURN_IF_ERROR(CheckSupported(row));
    if (!Inside(row.tokens, plan.tokens.size()) ||
        out->tokens.size() + row.tokens.count > static_cast<size_t>(limits.tokens_per_step)) {
      return absl::InternalError("step plan: more tokens than a step holds");
    }
    RETURN_IF_ERROR(slots.CheckRow(row));
    kernels::AttentionRow attention;
    attention.token_begin = static_cast<int32_t>(out->tokens.size());
    attention.token_count = static_cast<int32_t>(row.tokens.count);
    attention.position = row.position;
    RETURN_IF_ERROR(AddTokens(plan, row, slots.slot(row.slot), limits, out));
    RETURN_IF_ERROR(
        AddOutputs(plan, static_cast<int32_t>(index), limits, attention.token_begin, out));
    for (size_t g = 0; g < slots.groups(); ++g) {
      attention.first_needed = slots.FirstNeeded(row, g);
      attention.table = slots.table(row.slot, g);
      out->rows[g].push_back(attention);
    }
  }
  return absl::OkStatus();
}

}  // namespace millrace::executor
