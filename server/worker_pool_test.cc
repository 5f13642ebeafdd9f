#include "server/worker_pool.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "gtest/gtest.h"

namespace millrace::server {
namespace {

// Counts its runs, then says so.
class Counting final : public Task {
 public:
  explicit Counting(std::atomic<int>& runs) : runs_(runs) {}
  void Run() override {
    ++runs_;
    runs_.notify_all();
  }

 private:
  std::atomic<int>& runs_;
};

void Await(std::atomic<int>& value, int wanted) {
  for (int seen = value; seen < wanted; seen = value) value.wait(seen);
}

// A place to wait like a completion queue: Wake is kept until a blocking Poll takes it.
class Place final : public IdleWait {
 public:
  void Poll(bool block) override {
    std::unique_lock lock(mutex_);
    ++polls_;
    polls_.notify_all();
    threads_.insert(std::this_thread::get_id());
    if (!block) return;
    woken_cv_.wait(lock, [&] { return woken_; });
    woken_ = false;
  }
  void Wake() override {
    std::lock_guard lock(mutex_);
    ++wakes_;
    woken_ = true;
    woken_cv_.notify_all();
  }
  std::atomic<int>& polls() { return polls_; }
  int wakes() {
    std::lock_guard lock(mutex_);
    return wakes_;
  }
  size_t threads() {
    std::lock_guard lock(mutex_);
    return threads_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable woken_cv_;
  bool woken_ = false;
  int wakes_ = 0;
  std::set<std::thread::id> threads_;
  std::atomic<int> polls_{0};
};

TEST(WorkerPoolTest, RunsWhatWasPostedBeforeItEnds) {
  std::atomic<int> runs{0};
  {
    WorkerPool pool(2, 1000);
    for (int i = 0; i < 1000; ++i) pool.Post(std::make_shared<Counting>(runs));
  }
  EXPECT_EQ(runs, 1000);
}

TEST(WorkerPoolTest, RefusesPastItsLimit) {
  WorkerPool pool(0, 2);
  std::atomic<int> runs{0};
  EXPECT_TRUE(pool.TryPost(std::make_shared<Counting>(runs)));
  EXPECT_TRUE(pool.TryPost(std::make_shared<Counting>(runs)));
  EXPECT_FALSE(pool.TryPost(std::make_shared<Counting>(runs)));
}

TEST(WorkerPoolTest, AnIdleWorkerWaitsInThePlaceAndIsWokenForATask) {
  Place place;
  std::atomic<int> runs{0};
  WorkerPool pool(1, 10);
  pool.SetWait(&place);
  Await(place.polls(), 1);
  pool.Post(std::make_shared<Counting>(runs));
  Await(runs, 1);
  EXPECT_GE(place.wakes(), 1);
  pool.SetWait(nullptr);
  // In the pool again: the place is not needed any more.
  const int wakes = place.wakes();
  pool.Post(std::make_shared<Counting>(runs));
  Await(runs, 2);
  EXPECT_EQ(place.wakes(), wakes);
}

TEST(WorkerPoolTest, OnlyTheFirstWorkerUsesThePlaceAndNoTaskIsLost) {
  Place place;
  std::atomic<int> runs{0};
  WorkerPool pool(3, SIZE_MAX);
  pool.SetWait(&place);
  constexpr int kTasks = 2000;
  std::thread other([&] {
    for (int i = 0; i < kTasks; ++i) pool.Post(std::make_shared<Counting>(runs));
  });
  // One at a time: each finds the workers asleep, or on the way there.
  for (int i = 0; i < kTasks; ++i) {
    pool.Post(std::make_shared<Counting>(runs));
    Await(runs, i + 1);
  }
  other.join();
  Await(runs, 2 * kTasks);
  pool.SetWait(nullptr);
  EXPECT_EQ(place.threads(), 1u);
}

// Posts itself until the place was polled: completions are seen although tasks never run out.
class Endless final : public Task, public std::enable_shared_from_this<Endless> {
 public:
  Endless(WorkerPool& pool, Place& place) : pool_(pool), place_(place) {}
  void Run() override {
    if (place_.polls() < 3) return pool_.Post(shared_from_this());
    ++done_;
    done_.notify_all();
  }
  std::atomic<int>& done() { return done_; }

 private:
  WorkerPool& pool_;
  Place& place_;
  std::atomic<int> done_{0};
};

TEST(WorkerPoolTest, ABusyWorkerPollsToo) {
  Place place;
  WorkerPool pool(1, 10);
  pool.SetWait(&place);
  auto endless = std::make_shared<Endless>(pool, place);
  pool.Post(endless);
  Await(endless->done(), 1);
  pool.SetWait(nullptr);
}

TEST(WorkerPoolTest, PlacesComeAndGoWhileTasksRun) {
  std::atomic<int> runs{0};
  WorkerPool pool(2, SIZE_MAX);
  for (int i = 1; i <= 200; ++i) {
    Place place;
    pool.SetWait(&place);
    pool.Post(std::make_shared<Counting>(runs));
    if (i % 2 == 0) Await(runs, i);
    pool.SetWait(nullptr);
  }
  Await(runs, 200);
}

}  // namespace
}  // namespace millrace::server
