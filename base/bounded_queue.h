#pragma once
// A queue of fixed capacity: many producers that never wait, one consumer that may.

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace millrace {

// Thread: any for TryPush and Close; one consumer thread for the rest. std types, so that
// ThreadSanitizer sees them.
template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : capacity_(capacity) {}

  // False, and `value` is left as it was, when the queue is full or closed.
  bool TryPush(T&& value) { return Push(std::move(value), capacity_); }

  // For commands that end work (cancel, finish): they pass even when the queue is full, because
  // refusing them would keep it full. Bounded by the work that was accepted.
  bool PushUrgent(T&& value) { return Push(std::move(value), SIZE_MAX); }

  // Moves everything that waits to the end of `out`, oldest first. Returns how many.
  size_t DrainInto(std::vector<T>& out) {
    std::lock_guard lock(mutex_);
    const size_t count = items_.size();
    for (T& item : items_) out.push_back(std::move(item));
    items_.clear();
    return count;
  }

  // Waits until something is queued, the queue is closed, or `timeout` has passed.
  // True when something is queued.
  bool WaitFor(std::chrono::nanoseconds timeout) {
    std::unique_lock lock(mutex_);
    ready_.wait_for(lock, timeout, [&] { return !items_.empty() || closed_; });
    return !items_.empty();
  }

  // Later pushes fail; what is queued can still be drained.
  void Close() {
    std::lock_guard lock(mutex_);
    closed_ = true;
    ready_.notify_all();
  }

  size_t size() const {
    std::lock_guard lock(mutex_);
    return items_.size();
  }

 private:
  bool Push(T&& value, size_t capacity) {
    std::lock_guard lock(mutex_);
    if (closed_ || items_.size() >= capacity) return false;
    const bool was_empty = items_.empty();
    items_.push_back(std::move(value));
    if (was_empty) ready_.notify_one();
    return true;
  }

  const size_t capacity_;
  mutable std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<T> items_;
  bool closed_ = false;
};

}  // namespace millrace
