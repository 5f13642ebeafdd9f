#pragma once
// The loop itself, without a thread: the engine's thread runs it, and the simulator steps it by
// hand with a clock of its own. It owns the scheduler and what is in flight; every sink of a live
// request is known here and nowhere else below.
//
//   Step():  inbox ─► Plan ─► Submit ─► (deliver) ─► Wait for the oldest ─► Apply ─► deliver
//
// Overlap depth 0 waits for the step just submitted; depth 1 for the one before it. The depth is
// the executor's max_in_flight() - 1, and nothing else in the loop knows of it.
//
// Invariants: an accepted request's sink gets exactly one event with `request_done`, whatever
// fails; after a device error or a failed audit no plan is submitted.

#include <deque>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "engine/inbox.h"
#include "engine/step_check.h"
#include "executor/executor.h"
#include "scheduler/scheduler.h"

namespace millrace::engine {

// Thread: engine, but inbox() and Stats(), which any thread may use.
class EngineLoop {
 public:
  // `executor` and `clock` outlive the loop.
  EngineLoop(const EngineOptions& options, executor::Executor& executor, const Clock& clock);

  // Compares the configuration with the executor's capacity, then runs one token through the whole
  // path. Opens the inbox when that worked. The counters of Stats() do not show it, except `steps`.
  absl::Status WarmUp();

  // One turn. False when nothing was done and nothing can be until a letter or NextWake().
  bool Step();

  // Blocks until a letter or NextWake().
  void Park();

  // When Step may have something to do without a letter: a deadline, the end of a pause, an audit.
  MonoNanos NextWake() const;
  // No request lives and no step is in flight.
  bool Idle() const { return live_.empty() && in_flight_.empty(); }

  Inbox& inbox() { return inbox_; }
  EngineStats Stats() const { return board_.Read(); }
  const scheduler::Scheduler& scheduler() const { return scheduler_; }

 private:
  // An accepted request whose last event has not been delivered.
  struct Live {
    TokenSink* sink = nullptr;
    int64_t queued_tokens = 0;        // given back with its first event
    MonoNanos paused_since = kNever;  // kNever: not paused
  };
  struct InFlight {
    ExpectedResult expected;
    int32_t tokens = 0;
    MonoNanos submitted = 0;
    StepPlan plan;  // only with an observer
  };

  bool ReadInbox();
  void Handle(SubmitLetter letter);
  void Handle(const CancelLetter& letter);
  void Handle(const FinishLetter& letter);
  void Handle(const ResumeLetter& letter);
  void Handle(TenantsLetter letter);
  void Handle(const DrainLetter& letter);

  bool ExpireTimers();
  bool SubmitNext();
  void ApplyOldest();
  bool Deliver();
  void DeliverOne(TokenEvent&& event);
  void PushLast(Live live, TokenEvent&& event);
  void Refuse(const Live& live, RequestId request, FinishReason reason);
  void LeaveQueue(Live& live);
  bool ForgetPause(RequestId request, Live& live);
  void EndAll(FinishReason reason);

  void FailDevice(absl::Status status);
  void Audit();
  void Quarantine(const std::string& broken);
  void ReportFatal();
  void PublishStats();

  const EngineOptions options_;
  executor::Executor& executor_;
  const Clock& clock_;
  const size_t overlap_;  // steps that may stay in flight while the next is planned
  Inbox inbox_;
  StatsBoard board_;
  scheduler::Scheduler scheduler_;

  absl::flat_hash_map<RequestId, Live> live_;
  std::set<std::pair<MonoNanos, RequestId>> paused_;  // by the time the pause began
  std::deque<InFlight> in_flight_;
  std::vector<Letter> letters_;     // scratch
  std::vector<TokenEvent> events_;  // scratch

  MonoNanos drain_deadline_ = kNever;
  absl::Status failure_;  // not OK: for good
  bool device_lost_ = false;
  bool fatal_reported_ = false;
  bool audit_due_ = false;  // something ran since the last audit
  MonoNanos last_audit_ = 0;
  EngineStats baseline_;       // what the warm-up counted
  EngineStats last_step_;      // only the last_step_* fields
  MonoNanos device_free_ = 0;  // when the last step ended
};

}  // namespace millrace::engine
