#pragma once
// The loop and its thread: inbox, plan, submit, apply, deliver. The only thread-safe surface of the
// core. One engine thread owns the scheduler, the block pool, every sequence and all submissions;
// everyone else writes letters into one bounded inbox.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "executor/executor.h"
#include "messages/engine_stats.h"
#include "messages/request.h"
#include "messages/tenant_policy.h"
#include "messages/token_event.h"
#include "scheduler/scheduler.h"

namespace millrace::engine {

// Sees each step after it was applied, for traces and simulations. Thread: engine. Must not block.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  virtual void OnStep(const StepPlan& plan, const StepResult& result, MonoNanos now) = 0;
};

struct EngineOptions {
  scheduler::SchedulerConfig scheduler;
  // Letters that may wait for the engine thread. Cancels and finishes pass even when it is full.
  int32_t inbox_capacity = 4096;
  // Requests accepted and not yet ended (queued + running): more are refused with
  // ResourceExhausted.
  int32_t requests_max = 4096;
  // Prompt tokens of requests without a first event: more are refused (the queue is bounded in
  // work, not only in count).
  int64_t queued_tokens_max = 8 << 20;
  // A request paused for longer ends with kSlowConsumer.
  MonoNanos pause_max = 30 * kNanosPerSecond;
  // Called by the engine thread when it has failed for good: the process should exit non-zero.
  std::function<void(absl::Status)> on_fatal;
  // May be null; outlives the engine. With one, every plan is copied.
  StepObserver* observer = nullptr;
  // What is run when the engine is idle, at most once a second; text means that the accounting is
  // broken. Null: Scheduler::CheckInvariants. A seam for tests of the reaction.
  std::function<std::string(const scheduler::Scheduler&)> audit;
};

// Why Submit refused. The message is for people; the code decides the reply.
//   ResourceExhausted   the node is full now        503 / UNAVAILABLE
//   InvalidArgument     can never fit the KV pool   400 / INVALID_ARGUMENT
//   Unavailable         draining, or failed         503 / UNAVAILABLE
// Thread: any, but Start and the destructor.
class Engine {
 public:
  // `executor` and `clock` outlive the engine.
  Engine(EngineOptions options, executor::Executor& executor, const Clock& clock);
  ~Engine();  // Ends what still runs with kShutdown, then joins.
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Starts the thread. Call once. A real step (one token through the executor) runs before the
  // first request, and its failure is returned; `Stats().steps > 0` afterwards means that the path
  // works.
  absl::Status Start();

  // `sink` gets the events of this request and must live until its `request_done` event. When the
  // return value is not OK it gets none.
  absl::Status Submit(Request request, TokenSink* sink);

  // Idempotent; unknown ids are ignored.
  void Cancel(RequestId request, FinishReason reason = FinishReason::kCancelled);

  // A stop string was found: see Scheduler::Finish.
  void Finish(RequestId request, int32_t choice, FinishReason reason, int32_t completion_tokens);

  // The sink that answered kFull takes events again.
  void Resume(RequestId request);

  void UpdateTenants(std::vector<TenantPolicy> tenants);

  // No new requests from now on (Submit answers Unavailable). Waits until all have ended, or, at
  // `deadline`, ends the rest with kShutdown and gives their last events a second to be delivered.
  // Later calls may shorten the deadline; returns at once when `deadline` is in the past. The
  // thread keeps running, so that late letters are harmless.
  void Drain(MonoNanos deadline);

  EngineStats Stats() const;

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

}  // namespace millrace::engine
