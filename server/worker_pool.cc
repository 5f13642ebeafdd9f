#include "server/worker_pool.h"

namespace millrace::server {

WorkerPool::WorkerPool(int threads, size_t queue_max) : queue_max_(queue_max) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Work(); });
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
  // A worker that runs looks at the queue again by itself: only sleepers need a system call.
  if (idle_ > 0) ready_.notify_one();
  return true;
}

void WorkerPool::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_;
    ready_.wait(lock, [&] { return !queue_.empty() || closing_; });
    --idle_;
    if (queue_.empty()) return;
    while (!queue_.empty()) {
      std::shared_ptr<Task> task = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      task->Run();
      task.reset();  // its destructor may be long: not under the lock
      lock.lock();
    }
  }
}

}  // namespace millrace::server
