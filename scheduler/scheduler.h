#pragma once
// Decides which sequences advance in the next step and by how many tokens. It owns the block pool
// and every sequence; it knows neither devices, nor threads, nor the clock, nor text.
//
// The same calls give the same plans, bit for bit: no pointer value, hash order or time of day
// takes part. A checker stores calls and replays them on fresh instances.
//
//   Add ─► WAITING ─► RUNNING (prefill ─► decode) ─► RETIRING ─► gone
//             ▲           │        ▲
//             └─ preempt ─┤        │
//                         └─► PAUSED
//
// PAUSED: its client does not read; it keeps its blocks and gets no rows. RETIRING: its blocks
// return when no submitted step names them.
//
// KV groups: a sequence has one block table for each. In a local group (window > 0) a table's
// blocks go back, and its entries become null, once no row to come and none in flight sees them.
//
// Invariants (reference names): S1-S6, S7 without time and adapters, S8-S11, S15, S16; liveness
// L1-L3, L5, and L4 as first come, first served.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "messages/engine_stats.h"
#include "messages/request.h"
#include "messages/step_plan.h"
#include "messages/step_result.h"
#include "messages/tenant_policy.h"
#include "messages/token_event.h"

namespace millrace::scheduler {

struct KvGroupConfig {
  int32_t blocks = 0;  // usable blocks, ids 1 .. blocks
  int32_t window = 0;  // positions that a token sees, its own included; 0: all
};

// What a guess is made from.
struct GuessQuery {
  RequestId request;
  int32_t choice = 0;
  std::span<const TokenId> tokens;  // prompt and output
  int32_t most = 0;                 // guesses wanted at most
};

// Guesses of what comes next, checked in the same step as the next token (kDraft rows). Only for a
// sequence with nothing in flight: its last token must be known.
struct SpeculationConfig {
  int32_t guesses_max = 0;  // in one row, up to kGuessesMax; 0: no guesses
  // For tests: guesses from elsewhere, checked whatever their gain. Appends to an empty vector.
  std::function<void(const GuessQuery&, std::vector<TokenId>&)> guess = {};
};

struct SchedulerConfig {
  int32_t block_tokens = 32;             // in all groups
  int32_t blocks = 0;                    // of the one group, which keeps all positions
  std::vector<KvGroupConfig> kv_groups;  // or these, in the executor's order; then not `blocks`
  int32_t slots = 256;                   // sequences running at once
  int32_t tokens_per_step = 512;         // budget of input tokens of one plan
  int32_t prefill_chunk_max = 512;       // tokens of one sequence's prefill in one plan
  int32_t mixed_prefill_tokens = 128;    // of all prefills beside decodes, or 4 a decode if more
  int32_t max_model_len = 0;             // prompt + output of one sequence
  int32_t max_in_flight = 1;             // submitted, not yet applied steps: overlap depth + 1
  bool prefix_cache = true;
  SpeculationConfig speculation = {};
  std::vector<TokenId> end_tokens;
  // Mixed into every prefix root: model, weights revision, KV type and layout.
  std::string model_identity;
  // After so many a sequence comes back only with its worst case reserved. INT32_MAX: never.
  int32_t preemptions_before_reserve = 2;
  // For the checker's positive controls only; both true in production.
  bool refuse_never_fit = true;
  bool count_pending_frees = true;
};

// The config's groups, whichever way it names them.
std::vector<KvGroupConfig> KvGroupsOf(const SchedulerConfig& config);
// Whether a sequence of this many tokens, alone, has room in every group.
bool FitsAlone(const SchedulerConfig& config, int32_t tokens);

enum class AddResult : uint8_t {
  kAccepted,
  kNeverFits,  // even alone it needs more blocks than a group has
};

// Thread: engine.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerConfig& config);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Takes a validated request (its n choices are one group; the prompt is computed once).
  // REQUIRES: request.id was never added before.
  AddResult Add(const Request& request, MonoNanos now);

  // Ends all unfinished choices with `reason`. Unknown or ended requests: nothing happens.
  void Cancel(RequestId request, FinishReason reason, MonoNanos now);

  // A stop string was found outside: ends one choice with `reason`, counting only its first
  // `completion_tokens` tokens. Unknown or ended: nothing happens.
  void Finish(RequestId request, int32_t choice, FinishReason reason, int32_t completion_tokens,
              MonoNanos now);

  // The client of this request does not read (or reads again).
  void Pause(RequestId request);
  void Resume(RequestId request);

  void UpdateTenants(std::vector<TenantPolicy> tenants);

  // The next step, with step id one more than the last non-empty plan's. An empty plan (no rows and
  // nothing to remove) is not submitted. Expires deadlines first.
  // REQUIRES: fewer than max_in_flight plans are unapplied.
  StepPlan Plan(MonoNanos now);
  // The same into a plan whose arrays are reused: nothing is allocated in the steady state.
  void PlanInto(MonoNanos now, StepPlan& plan);

  // Applies the result of the oldest unapplied plan.
  void Apply(const StepResult& result, MonoNanos now);

  // Events made since the last call, in order. Every request ends with exactly one `request_done`.
  std::vector<TokenEvent> TakeEvents();
  // The same by exchange: `events` gets them, and its old memory is used for the next ones.
  void TakeEventsInto(std::vector<TokenEvent>& events);

  // True when a plan could have rows now, or anything still waits, runs or retires.
  bool HasWork() const;
  // The earliest deadline of a live request, or kNever.
  MonoNanos NextDeadline() const;
  EngineStats Stats() const;
  // Empty, or what is broken (conservation of blocks and requests; deep checks). Pure.
  std::string CheckInvariants() const;
  // A hash of all that can change a later plan or event (statistics and times cannot); steps enter
  // relative to the last applied one, so that equal situations at different times are equal.
  uint64_t Fingerprint() const;

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace millrace::scheduler
