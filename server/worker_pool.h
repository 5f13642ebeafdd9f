#pragma once
// Threads that run tasks in the order they came.

#include <condition_variable>
#include <cstddef>
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

 private:
  bool Push(std::shared_ptr<Task> task, size_t limit);
  void Work();

  const size_t queue_max_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::shared_ptr<Task>> queue_;
  int idle_ = 0;
  bool closing_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace millrace::server
