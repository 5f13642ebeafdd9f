#include "server/worker_pool.h"

#include <algorithm>
#include <utility>

namespace millrace::server {
namespace {

// Completions wait for at most so many tasks: a stream whose write is done but not seen would join
// two tokens into one message. A task takes some 5 us.
constexpr size_t kTasksPerBatch = 32;

}  // namespace

WorkerPool::WorkerPool(int threads, size_t queue_max)
    : queue_max_(queue_max), workers_(static_cast<size_t>(threads)) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this, i] { Work(i == 0); });
}

WorkerPool::~WorkerPool() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    ready_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

bool WorkerPool::Push(std::shared_ptr<Task> task, size_t limit) {
  std::lock_guard lock(mutex_);
  if (queue_.size() >= limit) return false;
  queue_.push_back(std::move(task));
  WakeOne();
  return true;
}

// A worker that runs looks at the queue again by itself: only sleepers need a system call.
void WorkerPool::WakeOne() {
  if (blocked_) {
    blocked_ = false;
    wait_->Wake();
  } else if (idle_ > 0) {
    ready_.notify_one();
  }
}

void WorkerPool::SetWait(IdleWait* wait) {
  std::unique_lock lock(mutex_);
  if (blocked_) {
    blocked_ = false;
    wait_->Wake();
  }
  wait_ = wait;
  ready_.notify_all();
  if (wait == nullptr) polled_.wait(lock, [&] { return !polling_; });
}

void WorkerPool::Work(bool first) {
  std::unique_lock lock(mutex_);
  const auto has_place = [&] { return first && wait_ != nullptr; };
  while (true) {
    if (queue_.empty() && !closing_ && has_place()) {
      Poll(lock, true);
    } else {
      ++idle_;
      ready_.wait(lock, [&] { return !queue_.empty() || closing_ || has_place(); });
      --idle_;
      if (queue_.empty() && closing_) return;
    }
    RunQueued(lock, first);
  }
}

// Tasks are taken by the batch: a lock for each would be fought over with who posts. What is left
// in a batch waits for one worker while others may be idle, so each takes its share only.
void WorkerPool::RunQueued(std::unique_lock<std::mutex>& lock, bool first) {
  std::vector<std::shared_ptr<Task>> batch;
  while (!queue_.empty()) {
    const size_t share = (queue_.size() + workers_ - 1) / workers_;
    for (size_t i = std::min(share, kTasksPerBatch); i > 0; --i) {
      batch.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    lock.unlock();
    for (std::shared_ptr<Task>& task : batch) {
      task->Run();
      task.reset();  // its destructor may be long: not under the lock
    }
    batch.clear();
    lock.lock();
    if (first && wait_ != nullptr) Poll(lock, false);
  }
}

void WorkerPool::Poll(std::unique_lock<std::mutex>& lock, bool block) {
  IdleWait* wait = wait_;
  polling_ = true;
  blocked_ = block;
  lock.unlock();
  wait->Poll(block);
  lock.lock();
  polling_ = blocked_ = false;
  if (wait_ != wait) polled_.notify_all();
}

}  // namespace millrace::server
