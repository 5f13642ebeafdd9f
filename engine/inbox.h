#pragma once
// All that crosses between the engine thread and other threads: letters that go in, the accounting
// that decides whether a request may, and the statistics that come out. The only mutexes of the
// engine are behind this header, and none is held while anything else is called.

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "base/bounded_queue.h"
#include "base/clock.h"
#include "messages/engine_stats.h"
#include "messages/request.h"
#include "messages/tenant_policy.h"
#include "messages/token_event.h"

namespace millrace::engine {

struct SubmitLetter {
  Request request;
  TokenSink* sink = nullptr;
};
struct CancelLetter {
  RequestId request;
  FinishReason reason = FinishReason::kCancelled;
};
struct FinishLetter {
  RequestId request;
  int32_t choice = 0;
  FinishReason reason = FinishReason::kStop;
  int32_t completion_tokens = 0;
};
struct ResumeLetter {
  RequestId request;
};
struct TenantsLetter {
  std::vector<TenantPolicy> tenants;
};
struct DrainLetter {
  MonoNanos deadline = 0;
};

using Letter = std::variant<SubmitLetter, CancelLetter, FinishLetter, ResumeLetter, TenantsLetter,
                            DrainLetter>;

struct AdmissionLimits {
  int32_t requests_max = 0;
  int64_t queued_tokens_max = 0;
};

// Counts what was accepted and has not ended. A request is counted before its letter is queued, so
// that a drain either refuses it or waits for it, never neither.
// Thread: any.
class Admission {
 public:
  explicit Admission(const AdmissionLimits& limits) : limits_(limits) {}

  // Takes one request of `tokens` prompt tokens into account.
  // ResourceExhausted: full now. Unavailable: the door is not open.
  absl::Status Enter(int64_t tokens);
  // Its prompt does not wait any more (its first event has come).
  void LeaveQueue(int64_t tokens);
  // It has ended (or never got into the inbox). REQUIRES: LeaveQueue was called for it.
  void Leave();

  // The door opens once; closed, it stays closed, with the first reason given.
  void Open();
  void Close(const std::string& reason);

  // Waits until nothing is counted, at most `timeout`. True when nothing is.
  bool WaitEmpty(MonoNanos timeout);
  int32_t requests() const;

 private:
  const AdmissionLimits limits_;
  mutable std::mutex mutex_;
  std::condition_variable empty_;
  bool open_ = false;
  std::string closed_reason_;  // empty until Close
  int32_t requests_ = 0;
  int64_t queued_tokens_ = 0;
};

// Thread: any for Submit and Post; engine for the rest.
class Inbox {
 public:
  Inbox(int32_t capacity, const AdmissionLimits& limits)
      : letters_(static_cast<size_t>(capacity)), admission_(limits) {}

  // As Engine::Submit, but for what only the scheduler can tell.
  absl::Status Submit(SubmitLetter letter);
  // Passes even when the inbox is full: these letters end work or let it go on.
  void Post(Letter letter) { letters_.PushUrgent(std::move(letter)); }

  // Appends what waits to `out`, oldest first. Returns how many.
  size_t DrainInto(std::vector<Letter>& out) { return letters_.DrainInto(out); }
  // Waits for a letter, at most `timeout`.
  void WaitFor(MonoNanos timeout) { letters_.WaitFor(std::chrono::nanoseconds(timeout)); }

  Admission& admission() { return admission_; }

 private:
  BoundedQueue<Letter> letters_;
  Admission admission_;
};

// The latest statistics. Thread: any.
class StatsBoard {
 public:
  void Publish(const EngineStats& stats) {
    std::lock_guard lock(mutex_);
    stats_ = stats;
  }
  EngineStats Read() const {
    std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  mutable std::mutex mutex_;
  EngineStats stats_;
};

}  // namespace millrace::engine
