#pragma once
// A sink that keeps what it gets, answers kFull when too much is unread, and can be waited for.

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

#include "messages/token_event.h"

namespace millrace::testing {

// Thread: any.
class RecordingSink final : public TokenSink {
 public:
  // `unread_max`: events that may be unread before Push answers kFull; 0: no bound.
  explicit RecordingSink(size_t unread_max = 0) : unread_max_(unread_max) {}

  SinkState Push(TokenEvent&& event) override {
    std::lock_guard lock(mutex_);
    done_ += event.request_done ? 1 : 0;
    after_done_ += done_ > 1 || (done_ == 1 && !event.request_done) ? 1 : 0;
    events_.push_back(std::move(event));
    ++unread_;
    changed_.notify_all();
    const bool full = unread_max_ > 0 && unread_ >= unread_max_;
    if (full) full_ = true;
    return full ? SinkState::kFull : SinkState::kReady;
  }

  // Reads everything. True when the sink had answered kFull: the caller then owes a Resume.
  bool ReadAll() {
    std::lock_guard lock(mutex_);
    unread_ = 0;
    return std::exchange(full_, false);
  }

  // Waits for the last event. False when it did not come in time.
  bool WaitDone(std::chrono::milliseconds timeout = std::chrono::seconds(60)) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, [&] { return done_ > 0; });
  }
  bool WaitEvents(size_t count, std::chrono::milliseconds timeout = std::chrono::seconds(60)) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, [&] { return events_.size() >= count; });
  }

  int done() const {
    std::lock_guard lock(mutex_);
    return done_;
  }
  // Events that came after the last one: always 0.
  int after_done() const {
    std::lock_guard lock(mutex_);
    return after_done_;
  }
  bool full() const {
    std::lock_guard lock(mutex_);
    return full_;
  }
  std::vector<TokenEvent> events() const {
    std::lock_guard lock(mutex_);
    return events_;
  }
  std::vector<TokenId> tokens(int32_t choice = 0) const {
    std::lock_guard lock(mutex_);
    std::vector<TokenId> all;
    for (const TokenEvent& event : events_) {
      if (event.choice == choice) all.insert(all.end(), event.tokens.begin(), event.tokens.end());
    }
    return all;
  }
  // kNone while the choice runs.
  FinishReason finish(int32_t choice = 0) const {
    std::lock_guard lock(mutex_);
    for (const TokenEvent& event : events_) {
      if (event.choice == choice && event.finish != FinishReason::kNone) return event.finish;
    }
    return FinishReason::kNone;
  }

 private:
  const size_t unread_max_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<TokenEvent> events_;
  size_t unread_ = 0;
  bool full_ = false;
  int done_ = 0;
  int after_done_ = 0;
};

}  // namespace millrace::testing
