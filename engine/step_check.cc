#include "engine/step_check.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"

namespace millrace::engine {
namespace {

bool Inside(const Span32& span, size_t size) {
  return span.begin <= size && span.count <= size - span.begin;
}

absl::Status Mismatch(StepId step, const char* what) {
  return absl::InternalError(absl::StrCat("result of step ", step.value(), ": ", what));
}

}  // namespace

absl::Status CheckCapacity(const scheduler::SchedulerConfig& config,
                           const executor::ExecutorCapacity& capacity) {
  const std::vector<scheduler::KvGroupConfig> groups = scheduler::KvGroupsOf(config);
  if (capacity.kv_groups.size() != groups.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "scheduler: ", groups.size(), " KV groups; executor: ", capacity.kv_groups.size()));
  }
  for (size_t g = 0; g < groups.size(); ++g) {
    const executor::KvGroupCapacity& kv = capacity.kv_groups[g];
    const int32_t blocks = groups[g].blocks;
    if (config.block_tokens != kv.block_tokens || blocks < 1 || blocks > kv.blocks) {
      return absl::InvalidArgumentError(
          absl::StrCat("scheduler: ", blocks, " blocks of ", config.block_tokens,
                       " tokens; executor: ", kv.blocks, " of ", kv.block_tokens));
    }
    if (groups[g].window != kv.window) {
      return absl::InvalidArgumentError(absl::StrCat("KV group ", g, ": the scheduler's window is ",
                                                     groups[g].window, ", the executor's ",
                                                     kv.window));
    }
  }
  if (config.slots < 1 || config.slots > capacity.slots) {
    return absl::InvalidArgumentError(
        absl::StrCat("scheduler: ", config.slots, " slots; executor: ", capacity.slots));
  }
  if (config.tokens_per_step < 1 || config.tokens_per_step > capacity.tokens_per_step) {
    return absl::InvalidArgumentError(
        absl::StrCat("scheduler: ", config.tokens_per_step,
                     " tokens a step; executor: ", capacity.tokens_per_step));
  }
  return absl::OkStatus();
}

bool NeverFits(const scheduler::SchedulerConfig& config, const Request& request) {
  const auto prompt_tokens = static_cast<int32_t>(request.prompt.size());
  return !scheduler::FitsAlone(config, prompt_tokens);
}

StepResult AllRowsFailed(const StepPlan& plan) {
  StepResult result;
  result.step = plan.step;
  result.rows.reserve(plan.rows.size());
  for (const PlanRow& row : plan.rows) {
    RowResult& failed = result.rows.emplace_back();
    failed.sequence = row.sequence;
    failed.slot = row.slot;
    failed.failed = true;
  }
  return result;
}

ExpectedResult Expect(const StepPlan& plan) {
  ExpectedResult expected;
  expected.if_lost = AllRowsFailed(plan);
  expected.samples.reserve(plan.rows.size());
  for (const PlanRow& row : plan.rows) {
    const uint32_t most = row.kind == RowKind::kDraft ? row.tokens.count : 1;
    expected.samples.push_back(row.output == RowOutput::kSample ? most : 0);
  }
  return expected;
}

absl::Status CheckResult(const ExpectedResult& wanted, int32_t vocab_size, StepResult& result) {
  const StepResult& expected = wanted.if_lost;
  if (result.step != expected.step) return Mismatch(expected.step, "is of another step");
  if (result.rows.size() != expected.rows.size()) {
    return Mismatch(expected.step, "has the wrong number of rows");
  }
  for (size_t i = 0; i < result.rows.size(); ++i) {
    RowResult& row = result.rows[i];
    if (row.sequence != expected.rows[i].sequence || row.slot != expected.rows[i].slot) {
      return Mismatch(expected.step, "has rows of other sequences");
    }
    if (!Inside(row.tokens, result.tokens.size()) ||
        !Inside(row.logprobs, result.logprobs.size()) ||
        !Inside(row.scores, result.scores.size())) {
      return Mismatch(expected.step, "has a row outside its arrays");
    }
    const uint32_t fewest = row.failed || wanted.samples[i] == 0 ? 0 : 1;
    if (row.tokens.count < fewest || row.tokens.count > wanted.samples[i]) {
      return Mismatch(expected.step, "has a row with too few or too many tokens");
    }
    if (row.logprobs.count != 0 && row.logprobs.count != row.tokens.count) {
      return Mismatch(expected.step, "has log-probabilities of other tokens");
    }
    const auto first = result.tokens.begin() + row.tokens.begin;
    const auto foreign = std::find_if(first, first + row.tokens.count, [&](TokenId token) {
      return token < 0 || token >= vocab_size;
    });
    const auto good = static_cast<uint32_t>(foreign - first);
    if (good == row.tokens.count) continue;
    row.failed = true;
    row.tokens.count = good;
    row.logprobs.count = std::min(row.logprobs.count, good);
  }
  return absl::OkStatus();
}

bool BlocksAreConserved(const EngineStats& stats) {
  return stats.blocks_free + stats.blocks_active + stats.blocks_cached + stats.blocks_pending +
             stats.blocks_quarantined ==
         stats.blocks_total;
}

void SubtractCounters(const EngineStats& baseline, EngineStats& stats) {
  stats.requests_accepted -= baseline.requests_accepted;
  stats.prefix_queries -= baseline.prefix_queries;
  stats.prefix_hits -= baseline.prefix_hits;
  stats.preemptions -= baseline.preemptions;
  stats.prompt_tokens -= baseline.prompt_tokens;
  stats.prompt_tokens_cached -= baseline.prompt_tokens_cached;
  stats.generation_tokens -= baseline.generation_tokens;
  stats.recomputed_tokens -= baseline.recomputed_tokens;
  stats.pauses -= baseline.pauses;
  stats.drafts -= baseline.drafts;
  stats.draft_tokens -= baseline.draft_tokens;
  stats.draft_tokens_accepted -= baseline.draft_tokens_accepted;
  for (size_t i = 0; i < stats.accepted_at.size(); ++i) {
    stats.accepted_at[i] -= baseline.accepted_at[i];
  }
  for (size_t i = 0; i < stats.finished.size(); ++i) stats.finished[i] -= baseline.finished[i];
}

}  // namespace millrace::engine
