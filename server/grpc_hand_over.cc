#include "server/grpc_hand_over.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <system_error>
#include <utility>

#include "server/tcp_socket.h"

namespace millrace::server {
namespace {

// A whole hand-over takes tens of microseconds.
constexpr std::chrono::milliseconds kPatience{100};

}  // namespace

bool HandOver::Start(std::vector<std::unique_ptr<Acceptor>> acceptors) {
  std::lock_guard lock(mutex_);
  acceptors_ = std::move(acceptors);
  held_.resize(acceptors_.size());
  return AddThread();
}

// Under the lock. A system without threads to spare is no reason to end: those that there are do.
bool HandOver::AddThread() {
  const size_t lane = threads_.size();
  if (lane == acceptors_.size()) return false;
  try {
    threads_.emplace_back([this, lane] { Run(lane); });
  } catch (const std::system_error&) {
    return false;
  }
  return true;
}

void HandOver::Push(int listener_fd, int fd, uint64_t cookie) {
  std::lock_guard lock(mutex_);
  waiting_.push_back({listener_fd, fd, cookie});
  if (idle_ < waiting_.size()) AddThread();
  changed_.notify_one();
}

void HandOver::Run(size_t lane) {
  std::unique_lock lock(mutex_);
  for (;;) {
    ++idle_;
    changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    --idle_;
    if (waiting_.empty()) return;
    held_[lane] = waiting_.front();
    waiting_.pop_front();
    Acceptor::NewConnectionParameters handed;
    handed.listener_fd = held_[lane].listener_fd;
    handed.fd = held_[lane].fd;
    lock.unlock();
    acceptors_[lane]->HandleNewConnection(&handed);
    lock.lock();
    held_[lane] = {};
    if (stopping_) changed_.notify_all();
  }
}

void HandOver::Stop() {
  {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    for (const Connection& connection : waiting_) close(connection.fd);
    waiting_.clear();
    changed_.notify_all();
    changed_.wait_for(lock, kPatience, [this] {
      return std::all_of(held_.begin(), held_.end(), [](const auto& c) { return c.fd < 0; });
    });
    for (const Connection& connection : held_) {
      if (connection.fd >= 0) Disconnect(connection.fd, connection.cookie);
    }
  }
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace millrace::server
