#pragma once
// A snapshot of the engine, taken after each step, for metrics, health and tests.

#include <array>
#include <cstdint>

#include "base/clock.h"
#include "messages/step_plan.h"
#include "messages/token_event.h"

namespace millrace {

struct EngineStats {
  int64_t steps = 0;
  int64_t requests_accepted = 0;
  int32_t sequences_running = 0;
  int32_t sequences_waiting = 0;   // queued, preempted ones included
  int32_t sequences_paused = 0;    // their client does not read
  int32_t sequences_retiring = 0;  // ended, blocks still named by a submitted step
  int32_t blocks_total = 0;        // null block not counted
  int32_t blocks_free = 0;         // free to hand out at once
  int32_t blocks_active = 0;       // held by live sequences
  int32_t blocks_cached = 0;       // only in the prefix index; evictable
  int32_t blocks_pending = 0;      // released, fenced by a step
  int32_t blocks_quarantined = 0;
  double kv_usage = 0;         // 0..1: of the fullest KV group, what is neither free nor cached
  int64_t prefix_queries = 0;  // tokens
  int64_t prefix_hits = 0;     // tokens
  int64_t preemptions = 0;
  int64_t prompt_tokens = 0;  // computed or cached, counted when prefill ends
  int64_t prompt_tokens_cached = 0;
  int64_t generation_tokens = 0;
  int64_t recomputed_tokens = 0;
  int64_t pauses = 0;
  int64_t drafts = 0;                                  // rows with guesses, whose results came
  int64_t draft_tokens = 0;                            // guesses in them
  int64_t draft_tokens_accepted = 0;                   // of these, that were right
  std::array<int64_t, kGuessesMax> accepted_at = {};   // the same by place in the row
  std::array<int64_t, kFinishReasonCount> finished{};  // by FinishReason, choices

  MonoNanos last_step_end = 0;  // progress watermark: readiness and liveness look at its age
  MonoNanos last_step_nanos = 0;
  int32_t last_step_tokens = 0;
  bool healthy = true;  // false after a device error or a failed conservation audit; for good
};

}  // namespace millrace
