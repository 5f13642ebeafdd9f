// The thread pool and the bounded queue; run under ThreadSanitizer too.
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

#include "base/bounded_queue.h"
#include "base/thread_pool.h"

namespace millrace {
namespace {

TEST(ThreadPool, EveryWorkerRunsOnceAndWritesAreSeen) {
  for (const int workers : {1, 2, 3, 5}) {
    ThreadPool pool({.workers = workers, .pin = false, .spin_us = 5});
    ASSERT_EQ(pool.workers(), workers);
    std::vector<int> counts(static_cast<size_t>(workers), 0);  // plain ints: TSan checks the fences
    for (int round = 0; round < 500; ++round) {
      pool.Run([&](int worker) { ++counts[static_cast<size_t>(worker)]; });
      if (round % 100 == 0) std::this_thread::yield();
    }
    for (const int count : counts) EXPECT_EQ(count, 500);
  }
}

TEST(ThreadPool, WorksAfterItsWorkersHaveParked) {
  ThreadPool pool({.workers = 2, .pin = false, .spin_us = 0});
  std::atomic<int> sum{0};
  for (int round = 0; round < 200; ++round) {
    pool.Run([&](int) { sum.fetch_add(1); });
    std::this_thread::sleep_for(std::chrono::microseconds(round % 3 * 100));
  }
  EXPECT_EQ(sum.load(), 400);
}

TEST(ThreadPool, ParallelForCoversTheRangeOnce) {
  ThreadPool pool({.workers = 3, .pin = false});
  for (const size_t count : {0u, 1u, 7u, 64u, 1000u}) {
    for (const size_t grain : {1u, 3u, 64u, 5000u}) {
      std::vector<int> seen(count, 0);
      pool.ParallelFor(count, grain, [&](size_t begin, size_t end, int worker) {
        ASSERT_LT(worker, 3);
        for (size_t i = begin; i < end; ++i) ++seen[i];
      });
      EXPECT_EQ(std::accumulate(seen.begin(), seen.end(), size_t{0}), count);
      for (const int times : seen) ASSERT_EQ(times, 1);
    }
  }
}

// More rounds than a share's word can tell apart; in most, workers have nothing.
TEST(ThreadPool, SharesCoverTheRangeOnce) {
  for (const int workers : {1, 2, 3, 5}) {
    ThreadPool pool({.workers = workers, .pin = false});
    const auto covers = [&](size_t count, size_t grain) {
      std::vector<int> seen(count, 0);
      pool.ParallelShares(count, grain, [&](size_t begin, size_t end, int worker) {
        ASSERT_LT(worker, workers);
        ASSERT_LT(begin, end);
        for (size_t i = begin; i < end; ++i) ++seen[i];
      });
      for (const int times : seen) ASSERT_EQ(times, 1) << count << " by " << grain;
    };
    for (const size_t count : {0u, 1u, 2u, 7u, 64u, 1000u}) {
      for (const size_t grain : {0u, 1u, 3u, 64u, 5000u}) covers(count, grain);
    }
    for (int round = 0; round < 1100; ++round) covers(round % 256 == 0 ? 61 : 2, 1);
  }
}

TEST(ThreadPool, AShareIsReadInOrderByItsWorker) {
  ThreadPool pool({.workers = 2, .pin = false});
  std::vector<size_t> next = {0, 500};
  std::atomic<int> begun{0};
  pool.ParallelShares(1000, 1, [&](size_t begin, size_t end, int worker) {
    begun.fetch_or(1 << worker);
    while (begun.load() != 3) std::this_thread::yield();  // neither takes all
    const auto self = static_cast<size_t>(worker);
    if (begin / 500 != self) return;  // stolen
    EXPECT_EQ(begin, next[self]);
    next[self] = end;
  });
}

// Worker 1 is held up in its first piece until all the rest is done, which worker 0 must do.
TEST(ThreadPool, WhatASlowWorkerHasNotBegunIsTaken) {
  ThreadPool pool({.workers = 2, .pin = false});
  std::atomic<size_t> done{0}, held{0};
  pool.ParallelShares(64, 1, [&](size_t begin, size_t end, int worker) {
    if (worker == 0) {
      while (held.load() == 0) std::this_thread::yield();
    } else if (held.load() == 0) {
      held.store(end - begin);
      while (done.load() < 64 - held.load()) std::this_thread::yield();
    }
    done.fetch_add(end - begin);
  });
  EXPECT_EQ(done.load(), 64u);
  EXPECT_EQ(held.load(), 8u);  // a quarter of its share
}

// A handler for a fault, as that of mapped weights that are gone, must run where the fault happens.
TEST(ThreadPool, WorkersBlockSignalsButThoseOfTheirFaults) {
  ThreadPool pool({.workers = 2, .pin = false});
  sigset_t blocked;
  pool.Run([&](int worker) {
    if (worker == 1) pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
  });
  for (const int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL}) {
    EXPECT_EQ(sigismember(&blocked, fault), 0) << fault;
  }
  for (const int other : {SIGTERM, SIGINT, SIGHUP}) {
    EXPECT_EQ(sigismember(&blocked, other), 1) << other;
  }
}

TEST(ThreadPool, CpuCountsAreSane) {
  EXPECT_GE(UsableCpuCount(), 1);
  EXPECT_LE(UsableCpuCount(), static_cast<int>(AffinityCpus().size()));
}

TEST(BoundedQueue, FullRefusesAndUrgentPasses) {
  BoundedQueue<int> queue(2);
  EXPECT_TRUE(queue.TryPush(1));
  EXPECT_TRUE(queue.TryPush(2));
  EXPECT_FALSE(queue.TryPush(3));
  EXPECT_TRUE(queue.PushUrgent(4));
  std::vector<int> out;
  EXPECT_EQ(queue.DrainInto(out), 3u);
  EXPECT_EQ(out, (std::vector<int>{1, 2, 4}));
  EXPECT_FALSE(queue.WaitFor(std::chrono::nanoseconds(1)));
  queue.Close();
  EXPECT_FALSE(queue.TryPush(5));
  EXPECT_FALSE(queue.PushUrgent(5));
}

TEST(BoundedQueue, ManyProducersOneConsumerLoseNothing) {
  BoundedQueue<int> queue(64);
  constexpr int kThreads = 4, kEach = 5000;
  std::vector<std::thread> producers;
  for (int t = 0; t < kThreads; ++t) {
    producers.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        while (!queue.TryPush(t * kEach + i)) std::this_thread::yield();
      }
    });
  }
  std::vector<int> got;
  while (got.size() < kThreads * kEach) {
    if (queue.WaitFor(std::chrono::milliseconds(100))) queue.DrainInto(got);
  }
  for (std::thread& producer : producers) producer.join();
  std::vector<int> last(kThreads, -1);  // each producer's items stay in order
  for (const int item : got) {
    ASSERT_GT(item % kEach, last[static_cast<size_t>(item / kEach)]);
    last[static_cast<size_t>(item / kEach)] = item % kEach;
  }
}

}  // namespace
}  // namespace millrace
