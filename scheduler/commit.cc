// Apply: what a step has done becomes known. Stop conditions are decided here.

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "scheduler/state.h"

namespace millrace::scheduler {
namespace {

// One or two end tokens are the rule, and they are at hand.
bool Stops(const Sequence& sequence, TokenId token) {
  if (token == sequence.stops[0] || token == sequence.stops[1]) return true;
  if (!sequence.more_stops) return false;
  const std::vector<TokenId>& all = sequence.group->stops;
  return std::binary_search(all.begin(), all.end(), token);
}

}  // namespace

void Scheduler::State::Apply(const StepResult& result, MonoNanos now) {
  CHECK(!in_flight_.empty() && in_flight_.front().step == result.step);
  SubmittedStep step = std::move(in_flight_.front());
  in_flight_.pop_front();
  CHECK(step.rows.size() == result.rows.size());
  applied_ = result.step;
  pool_.Complete(applied_);
  std::erase_if(retiring_sequences_, [this](StepId last) { return last <= applied_; });

  if (events_.empty()) events_.reserve(step.rows.size());
  int32_t tokens = 0;
  for (size_t i = 0; i < step.rows.size(); ++i) {
    if (i + kPrefetchAhead < step.rows.size()) Prefetch(*step.rows[i + kPrefetchAhead].sequence);
    if (i + kPrefetchAhead / 2 < step.rows.size()) {
      // Where its next token goes: that address is in what was fetched before.
      const Sequence& next = *step.rows[i + kPrefetchAhead / 2].sequence;
      __builtin_prefetch(next.tokens.data() + next.tokens.size(), 1);
    }
    tokens += step.rows[i].tokens;
    ApplyRow(step.rows[i], result.rows[i], result, now);
  }
  ++stats_.steps;
  stats_.last_step_end = now;
  stats_.last_step_tokens = tokens;
  step.rows.clear();
  spare_.push_back(std::move(step));
}

void Scheduler::State::ApplyRow(const SubmittedRow& row, const RowResult& result,
                                const StepResult& step, MonoNanos now) {
  Sequence& sequence = *row.sequence;
  if (row.epoch != sequence.epoch) return;  // ended or preempted since
  CHECK(sequence.id == result.sequence);
  const int32_t before = sequence.applied;
  sequence.applied += row.tokens;
  if (before < sequence.computed_before) {
    stats_.recomputed_tokens += std::min(sequence.applied, sequence.computed_before) - before;
  }
  if (row.samples) --sequence.samples_in_flight;
  if (result.failed) {
    End end;
    end.reason = FinishReason::kError;
    end.error = "the logits of this sequence are not finite";
    EndSequence(sequence, end, MakeEvent(sequence));
    return;
  }
  if (sequence.wants_scores && result.scores.count > 0) {
    const auto first = step.scores.begin() + result.scores.begin;
    sequence.scores.insert(sequence.scores.end(), first, first + result.scores.count);
  }
  if (config_.prefix_cache &&
      sequence.table.WantsPublish(sequence.applied / config_.block_tokens)) {
    pool_.Publish(
        sequence.table, sequence.group->space,
        std::span<const TokenId>(sequence.tokens).first(static_cast<size_t>(sequence.applied)));
  }
  if (sequence.applied < sequence.prompt_tokens) return;
  if (before < sequence.prompt_tokens || sequence.leads) {
    PrefillEnded(sequence);
  }
  if (row.samples || !sequence.samples) TakeToken(sequence, result, step, now);
}

// The prompt is in the KV. Siblings may fork from it: they take its full blocks by reference, copy
// the block of the last token, and compute that token themselves, each with its own randomness.
void Scheduler::State::PrefillEnded(Sequence& sequence) {
  Group& group = *sequence.group;
  if (!group.prompt_counted) {
    group.prompt_counted = true;
    stats_.prompt_tokens += sequence.prompt_tokens;
    stats_.prompt_tokens_cached += group.cached_tokens;
  }
  if (!sequence.leads) return;
  SetLeader(group, nullptr);
  if (group.never_admitted == 0) return;
  // When the last token begins a block there is nothing in that block to copy.
  const int32_t pinned = blocks_for(sequence.prompt_tokens - 1);
  const std::span<const BlockId> blocks =
      sequence.table.blocks().first(static_cast<size_t>(pinned));
  group.anchor.assign(blocks.begin(), blocks.end());
  group.anchored = true;
  group.anchor_step = StepId(0);
  pool_.Pin(group.anchor);
  anchored_.emplace(sequence.ticket.ticket, &group);
}

// The sampled token, or with max_tokens 0 the end of the prompt.
void Scheduler::State::TakeToken(Sequence& sequence, const RowResult& result,
                                 const StepResult& step, MonoNanos now) {
  End end;
  // Made in its place: it is large, and nearly all stay there.
  TokenEvent& event = events_.emplace_back();
  CHECK(!sequence.samples || result.tokens.count > 0);
  const uint32_t count = sequence.samples ? result.tokens.count : 0;
  for (uint32_t i = 0; i < count && end.reason == FinishReason::kNone; ++i) {
    const TokenId token = step.tokens[result.tokens.begin + i];
    ++stats_.generation_tokens;
    if (Stops(sequence, token)) {
      end.reason = FinishReason::kStop;
      end.stop_token = token;
      sequence.stop_counted = 1;
      break;
    }
    sequence.tokens.push_back(token);
    sequence.last_token = token;
    ++sequence.known;
    event.tokens.push_back(token);
    if (sequence.known > sequence.rows_end) end.reason = FinishReason::kLength;
  }
  if (!sequence.samples) {
    end.reason = FinishReason::kLength;
  } else {
    if (sequence.times.first_token == 0) sequence.times.first_token = now;
    sequence.times.last_token = now;
  }
  FillEvent(sequence, event);
  if (result.logprobs.count > 0) {
    const auto first = step.logprobs.begin() + result.logprobs.begin;
    event.logprobs.assign(first, first + static_cast<ptrdiff_t>(event.tokens.size()));
  }
  if (sequence.wants_scores) {
    event.prompt_logprobs = std::exchange(sequence.scores, {});
    sequence.wants_scores = false;
  }
  if (end.reason == FinishReason::kNone) return;
  TokenEvent last = std::move(event);
  events_.pop_back();
  EndSequence(sequence, end, std::move(last));
}

}  // namespace millrace::scheduler
