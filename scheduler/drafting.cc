// Guesses of the next tokens (docs/speculation.md): which decodes of a plan get some, and what
// their results mean. They take what is left over: every other decode has its token first, nothing
// that could be prefilled waits for them, and no block is taken from anyone.

#include <algorithm>

#include "base/check.h"
#include "scheduler/state.h"

namespace millrace::scheduler {
namespace {

// In larger steps guesses gain next to nothing, and looking for them costs.
constexpr int32_t kRowsMax = 32;

}  // namespace

// Before the decodes of a plan: how many there will be, and whether any may guess.
void Scheduler::State::CountDecodes() {
  drafting_.on = false;
  drafting_.decodes_left = 0;
  drafting_.load = {};
  if (running_.size() > static_cast<size_t>(kRowsMax)) return;
  if (!waiting_.empty() && !slots_free_.empty()) return;
  for (const Sequence* sequence : running_) {
    if (sequence->phase != Phase::kRunning || sequence->paused || !sequence->rows_left()) continue;
    if (sequence->guesses_in_flight > 0) continue;
    if (!sequence->decoding()) return;
    ++drafting_.decodes_left;
  }
  drafting_.load = {drafting_.decodes_left, int64_t{drafting_.decodes_left} * kOne};
  drafting_.on = true;
}

// Fills drafting_.guesses with up to `most` that pay. Returns the length of the match they come
// from.
int32_t Scheduler::State::Guess(Sequence& sequence, int32_t most) {
  drafting_.guesses.clear();
  if (config_.speculation.guess) {
    config_.speculation.guess({sequence.request, sequence.ticket.choice, sequence.tokens, most},
                              drafting_.guesses);
    if (drafting_.guesses.size() > static_cast<size_t>(most))
      drafting_.guesses.resize(static_cast<size_t>(most));
    return NgramIndex::kLongest;
  }
  Speculation& speculation = *sequence.speculation;
  const NgramMatch match = speculation.index.Find(sequence.tokens);
  if (match.next < 0) return 0;
  const int32_t count =
      BestGuesses(drafting_.load, speculation.acceptance.Rate(match.length), most);
  if (count == 0) speculation.acceptance.Rest(match.length);
  ReadOn(sequence.tokens, match.next, count, drafting_.guesses);
  return match.length;
}

// Blocks for them: what the table has, and beyond it a free one when there is one for everybody.
void Scheduler::State::FitGuesses(Sequence& sequence, StepPlan& plan) {
  const auto count = static_cast<int32_t>(drafting_.guesses.size()) + 1;
  if (sequence.computed + count > sequence.table_end) {
    bool ample = true;
    for (size_t g = 0; g < kv_.size(); ++g) {
      ample = ample && pool_.Stats(Id(g)).available() > static_cast<int32_t>(running_.size());
    }
    if (ample) FitChunk(sequence, count, plan);
  }
  const int32_t room = sequence.table_end - sequence.computed - 1;
  if (room < count - 1) drafting_.guesses.resize(static_cast<size_t>(room));
}

// False when the sequence gets no guesses; then nothing has changed for it.
// REQUIRES: its next token has a block, and budget_ > 0.
bool Scheduler::State::AddDraftRow(Sequence& sequence, StepPlan& plan) {
  drafting_.decodes_left = std::max(0, drafting_.decodes_left - 1);
  if (sequence.samples_in_flight > 0) return false;
  // The last token of an answer is no input, and neither is a guess of it.
  const int32_t most =
      std::min({config_.speculation.guesses_max, sequence.rows_end - sequence.computed - 1,
                budget_ - 1 - drafting_.decodes_left});
  if (most <= 0) return false;
  if (sequence.speculation == nullptr) sequence.speculation = std::make_unique<Speculation>();
  const int32_t match = Guess(sequence, most);
  if (!drafting_.guesses.empty()) FitGuesses(sequence, plan);
  if (drafting_.guesses.empty()) return false;
  const auto guesses = static_cast<int32_t>(drafting_.guesses.size());
  drafting_.load.tokens += guesses;
  drafting_.load.yield += ExpectedTokens(sequence.speculation->acceptance.Rate(match), guesses);

  AddRow(sequence, RowKind::kDraft, 1, plan);
  plan.rows.back().tokens.count += static_cast<uint32_t>(guesses);
  plan.tokens.insert(plan.tokens.end(), drafting_.guesses.begin(), drafting_.guesses.end());
  SubmittedRow& row = in_flight_.back().rows.back();
  row.tokens += guesses;
  row.guesses = guesses;
  sequence.computed += guesses;
  sequence.guesses_in_flight = guesses;
  sequence.speculation->match = match;
  budget_ -= guesses;
  return true;
}

// As many tokens as the result has were right, the last of them newly sampled: the KV before it is
// true, and what follows is written anew.
void Scheduler::State::ApplyDraftRow(const SubmittedRow& row, const RowResult& result,
                                     const StepResult& step, MonoNanos now) {
  Sequence& sequence = *row.sequence;
  const auto tokens = static_cast<int32_t>(result.tokens.count);
  CHECK(tokens <= row.tokens && (result.failed || tokens > 0));
  --sequence.samples_in_flight;
  sequence.guesses_in_flight = 0;
  sequence.applied += tokens;
  sequence.computed = sequence.applied;
  const int32_t right = result.failed ? std::min(tokens, row.guesses) : tokens - 1;
  sequence.speculation->acceptance.Note(sequence.speculation->match, row.guesses, right);
  ++stats_.drafts;
  stats_.draft_tokens += row.guesses;
  stats_.draft_tokens_accepted += right;
  for (int32_t i = 0; i < right; ++i) ++stats_.accepted_at[static_cast<size_t>(i)];
  if (tokens > 0) TakeTokens(sequence, result, step, now);
  if (sequence.phase != Phase::kRunning) return;
  if (result.failed) {
    End end;
    end.reason = FinishReason::kError;
    end.error = "the logits of this sequence are not finite";
    return EndSequence(sequence, end, MakeEvent(sequence));
  }
  if (windows_) SlideWindows(sequence);
}

}  // namespace millrace::scheduler
