#pragma once
// Threads that run tasks in the order they came.
//
// The first worker may wait in a library's queue of completions (IdleWait) in place of the pool's
// condition. What its tasks begin there and what is done at once is then found by the thread that
// began it: no other thread is woken for it. One thread switch for each token was the larger part
// of the gRPC door's cost (docs/performance.md).

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace millrace::server {

// Something that a pool runs. One task may be posted again while it runs; it is its own business to
// not run twice at once. Thread: a worker.
class Task {
 public:
  virtual ~Task() = default;
  virtual void Run() = 0;
};

// Thread: the first worker, one call at a time; Wake: any.
class IdleWait {
 public:
  virtual ~IdleWait() = default;
  // Handles what is ready. With `block`, first waits for something, or for Wake.
  virtual void Poll(bool block) = 0;
  // The Poll that blocks, or the next one that would, returns.
  virtual void Wake() = 0;
};

// Thread: any.
class WorkerPool {
 public:
  WorkerPool(int threads, size_t queue_max);
  // Runs what was posted, then joins.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // False when `queue_max` tasks wait, or the pool is closing.
  bool TryPost(std::shared_ptr<Task> task) { return Push(std::move(task), queue_max_); }
  // For tasks that are bounded by something else (a task that is posted only when it is not
  // queued).
  void Post(std::shared_ptr<Task> task) { Push(std::move(task), SIZE_MAX); }

  // Where the first worker waits from now on; nullptr: in the pool again, and it has left the old
  // place when this returns. REQUIRES: not on a worker; nullptr comes before another place, and
  // before the place or the pool ends.
  void SetWait(IdleWait* wait);

 private:
  bool Push(std::shared_ptr<Task> task, size_t limit);
  void WakeOne();
  void Work(bool first);
  void RunQueued(std::unique_lock<std::mutex>& lock, bool first);
  void Poll(std::unique_lock<std::mutex>& lock, bool block);

  const size_t queue_max_;
  const size_t workers_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::shared_ptr<Task>> queue_;
  int idle_ = 0;  // workers in ready_
  bool closing_ = false;
  IdleWait* wait_ = nullptr;
  bool polling_ = false;  // the first worker is in wait_
  bool blocked_ = false;  // and sleeps there, and was not woken yet
  std::condition_variable polled_;
  std::vector<std::thread> threads_;
};

}  // namespace millrace::server
