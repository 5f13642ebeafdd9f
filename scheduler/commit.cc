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
  if (row.guesses > 0) return ApplyDraftRow(row, result, step, now);
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
  if (sequence.applied >= sequence.publish_at) PublishFull(sequence);
  if (sequence.applied >= sequence.prompt_tokens) {
    if (before < sequence.prompt_tokens || sequence.leads) {
      PrefillEnded(sequence);
    }
    if (row.samples || !sequence.samples) TakeTokens(sequence, result, step, now);
  }
  // After what it says was published and anchored.
  if (windows_ && sequence.phase == Phase::kRunning) SlideWindows(sequence);
}

void Scheduler::State::PublishFull(Sequence& sequence) {
  const int32_t full = sequence.applied / config_.block_tokens;
  sequence.publish_at = (full + 1) * config_.block_tokens;
  if (!pool_.WantsPublish(sequence.tables, full)) return;
  pool_.Publish(
      sequence.tables, sequence.group->space,
      std::span<const TokenId>(sequence.tokens).first(static_cast<size_t>(sequence.applied)));
}

// The fence of a window: rows in flight start at `applied` or after it, so that every step that
// sees what lies before has been applied.
void Scheduler::State::SlideWindows(Sequence& sequence) {
  for (size_t g = 0; g < kv_.size(); ++g) {
    if (kv_[g].window == 0) continue;
    paged_kv::BlockTable& table = sequence.tables[g];
    const int32_t begin = table.nulls();
    const int32_t first =
        paged_kv::FirstBlockSeen(sequence.applied, kv_[g].window, config_.block_tokens);
    if (first <= begin) continue;
    pool_.ReleaseFront(table, first, applied_);
    slides_.push_back({&sequence, sequence.epoch, Id(g), begin, first - begin});
    if (!sequence.reserved) continue;
    // Its own blocks are given back and taken again in one breath: nobody comes between.
    const int32_t own = first - std::max(begin, std::min(first, sequence.shared_blocks));
    const int32_t more = std::min(own, blocks_for(sequence.rows_end) - table.size());
    if (more <= 0) continue;
    slides_.push_back({&sequence, sequence.epoch, Id(g), table.size(), more});
    std::fill(wanted_.begin(), wanted_.end(), 0);
    wanted_[g] = more;
    std::optional<paged_kv::Reservation> fresh = pool_.Reserve(wanted_);
    CHECK(fresh.has_value());
    fresh->MoveTo(table);
    SetTableEnd(sequence);
  }
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
  group.anchored = MakeAnchor(sequence);
  if (group.anchored) anchored_.emplace(sequence.ticket.ticket, &group);
}

// False when there is nothing to fork from: the next choice then computes the prompt too.
bool Scheduler::State::MakeAnchor(Sequence& sequence) {
  Group& group = *sequence.group;
  // What it has reserved in local groups, others cannot share; and after a restart it may have
  // begun beyond the prompt.
  if (windows_ && sequence.reserved) return false;
  const int32_t last = sequence.prompt_tokens - 1;
  for (size_t g = 0; g < kv_.size(); ++g) {
    const int32_t first = paged_kv::FirstBlockSeen(last, kv_[g].window, config_.block_tokens);
    if (sequence.tables[g].nulls() > first) return false;
  }
  group.anchor.resize(kv_.size());
  group.anchor_step = StepId(0);
  // When the last token begins a block there is nothing in that block to copy.
  const auto pinned = static_cast<size_t>(blocks_for(last));
  for (size_t g = 0; g < kv_.size(); ++g) {
    const std::span<const BlockId> blocks = sequence.tables[g].blocks().first(pinned);
    std::vector<BlockId>& anchor = group.anchor[g];
    anchor.assign(blocks.begin(), blocks.end());
    const int32_t first = paged_kv::FirstBlockSeen(last, kv_[g].window, config_.block_tokens);
    std::fill_n(anchor.begin(), std::min(static_cast<size_t>(first), pinned), kNullBlock);
    pool_.Pin(anchor, Id(g));
  }
  return true;
}

// The sampled tokens, or with max_tokens 0 the end of the prompt.
void Scheduler::State::TakeTokens(Sequence& sequence, const RowResult& result,
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
  if (sequence.applied > sequence.known) {  // guesses that were right, past the end
    sequence.applied = sequence.computed = sequence.known;
  }
  // Only here after a draft row, whose tokens were not known before.
  if (sequence.applied >= sequence.publish_at) PublishFull(sequence);
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
