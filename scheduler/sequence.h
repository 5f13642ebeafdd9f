#pragma once
// Inside of Scheduler: what it keeps for one choice (Sequence) and for one request (Group).
//
//   tokens   [ p0 p1 ... p(P-1) | o0 o1 o2 ]            known() = P + outputs
//   applied  ──────────────────► KV written by applied steps
//   computed ─────────────────────────►  KV written once all submitted steps have run
//
// virtual_length() counts, beside the known tokens, the samples that submitted steps will yield. A
// row always starts at `computed`; it samples when it reaches virtual_length(). A draft row goes
// beyond it by its guesses, and its result takes `computed` back to what was right.

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "messages/request.h"
#include "messages/token_event.h"
#include "paged_kv/block_pool.h"
#include "scheduler/policy.h"
#include "scheduler/speculation.h"

namespace millrace::scheduler {

struct Group;

enum class Phase : uint8_t { kWaiting, kRunning, kEnded };

// What guessing has to remember of a sequence.
struct Speculation {
  NgramIndex index;
  Acceptance acceptance;
  int32_t match = 0;  // length, of the guesses in flight
};

// How a choice ended.
struct End {
  FinishReason reason = FinishReason::kNone;
  TokenId stop_token = -1;
  int32_t completion_tokens = -1;  // -1: all
  const char* error = "";
};

// Thread: engine. What each step reads comes first, and nothing of the group is read in a step:
// with thousands of sequences a step costs as much as the cache lines that it misses.
struct Sequence {
  Group* group = nullptr;
  RequestId request;
  SequenceId id;
  SlotId slot;
  Phase phase = Phase::kWaiting;
  bool paused = false;
  bool leads = false;         // it is its group's leader
  bool more_stops = false;    // group->stops has more than `stops`
  bool wants_scores = false;  // prompt log-probabilities, until they were delivered
  bool samples = true;        // false: max_tokens is 0
  int32_t computed = 0;
  int32_t applied = 0;
  int32_t known = 0;
  int32_t samples_in_flight = 0;
  int32_t guesses_in_flight = 0;  // then nothing else of it is
  int32_t prompt_tokens = 0;
  int32_t rows_end = 0;  // positions that ever need KV: the last sampled token needs none
  TokenId last_token = 0;
  std::array<TokenId, 2> stops = {-1, -1};  // the first of group->stops; -1 is no token
  // Rows submitted under an older epoch are dropped: their sequence was preempted since.
  uint32_t epoch = 0;
  StepId last_step;        // last step that names its blocks
  StepId sample_step;      // step of the newest sample in flight
  int32_t table_end = 0;   // positions that have a block in every group
  int32_t publish_at = 0;  // nothing to publish before so many positions are applied
  std::vector<paged_kv::BlockTable> tables;  // by KV group
  std::vector<TokenId> tokens;

  QueueTicket ticket;
  int32_t preemptions = 0;
  int32_t cached_tokens = 0;
  int32_t computed_before = 0;  // most positions applied before a preemption
  int32_t stop_counted = 0;     // 1 after a matched end token
  bool admitted_once = false;
  // Admitted with its worst case: what it reserved in local groups is its own until it ends.
  bool reserved = false;
  int32_t shared_blocks = 0;  // leading entries that were others' at admission
  std::vector<TokenLogprobs> scores;
  SequenceTimes times;
  std::unique_ptr<Speculation> speculation;  // once there was a chance to guess

  int32_t virtual_length() const { return known + samples_in_flight; }
  int32_t outputs() const { return known - prompt_tokens; }
  bool rows_left() const { return computed < rows_end; }
  // One token after the prompt: cheap, and first in every plan.
  bool decoding() const {
    return virtual_length() > prompt_tokens && virtual_length() - computed == 1;
  }
};

// A step visits all sequences in turn, and each is a few lines of memory that were last touched a
// step ago. Fetched so many visits ahead they are there in time; more would push each other out.
inline constexpr size_t kPrefetchAhead = 8;
inline void Prefetch(const Sequence& sequence) {
  const auto* bytes = reinterpret_cast<const char*>(&sequence);
  for (size_t line = 0; line < sizeof(Sequence); line += 64) __builtin_prefetch(bytes + line, 1);
}

// Thread: engine.
struct Group {
  Request request;
  std::vector<std::unique_ptr<Sequence>> choices;
  std::vector<TokenId> stops;  // sorted: the tokens that end a choice
  paged_kv::NamespaceId space;
  int32_t live = 0;            // choices not ended
  int32_t never_admitted = 0;  // live choices that never ran
  bool paused = false;
  bool prompt_counted = false;  // in the statistics
  int32_t cached_tokens = 0;    // of the first admission: forked choices report the same
  // n > 1: the choice that computes the prompt; its siblings wait for it.
  Sequence* leader = nullptr;
  // Then the prompt's blocks, pinned until every choice has forked: the full ones before the last
  // token's block, and that block too when it must be copied; null in local groups where the last
  // token does not see them. Only `anchored` tells that they are.
  std::vector<std::vector<BlockId>> anchor;  // by KV group
  bool anchored = false;
  StepId anchor_step;  // last step that copies from them
};

// One row of a submitted step, as Apply needs it.
struct SubmittedRow {
  Sequence* sequence;
  uint32_t epoch;
  int32_t tokens;
  bool samples;
  int32_t guesses = 0;  // of `tokens`
};

struct SubmittedStep {
  StepId step;
  std::vector<SubmittedRow> rows;
};

// The sequence to preempt so that running[requester] can grow, or -1. `running` is oldest first;
// entries that no longer run are skipped. First the youngest whose client does not read (it makes
// no progress); then the youngest that was preempted fewer than `protected_after` times, which may
// be the requester. Never the oldest that runs: some request always advances. Protected ones hold
// their worst case, so they end by themselves.
int32_t ChooseVictim(std::span<Sequence* const> running, size_t requester, int32_t protected_after);

}  // namespace millrace::scheduler
