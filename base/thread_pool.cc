#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>

namespace millrace {
namespace {

inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// CPUs that the cgroup's quota pays for, or 0 when it sets none. Version 2, then version 1.
int QuotaCpus() {
  if (std::ifstream v2("/sys/fs/cgroup/cpu.max"); v2) {
    std::string quota;
    double period = 0;
    if (v2 >> quota >> period && quota != "max" && period > 0) {
      return static_cast<int>(std::ceil(std::stod(quota) / period));
    }
    return 0;
  }
  std::ifstream quota_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream period_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double quota = 0, period = 0;
  if (quota_file >> quota && period_file >> period && quota > 0 && period > 0) {
    return static_cast<int>(std::ceil(quota / period));
  }
  return 0;
}

void PinTo(pthread_t thread, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  pthread_setaffinity_np(thread, sizeof(set), &set);  // Only a hint: failure costs speed, no more.
}

}  // namespace

std::vector<int> AffinityCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(static_cast<size_t>(cpu), &set)) cpus.push_back(cpu);
    }
  }
  if (cpus.empty()) cpus.push_back(0);
  return cpus;
}

int UsableCpuCount() {
  const int affinity = static_cast<int>(AffinityCpus().size());
  const int quota = QuotaCpus();
  return std::max(1, quota > 0 ? std::min(affinity, quota) : affinity);
}

// One piece of work is one generation. Workers wait for the generation to change, run the body and
// count down; the caller runs as worker 0 and waits for the count. 64-byte lines keep the two
// counters, which different cores write, apart.
struct ThreadPool::State {
  alignas(64) std::atomic<uint64_t> generation{0};
  alignas(64) std::atomic<int> running{0};
  alignas(64) std::atomic<int> parked{0};
  const std::function<void(int)>* body = nullptr;  // written before `generation`, read after
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::chrono::microseconds spin{50};
  std::vector<std::thread> threads;
  int workers = 1;

  // Spins for a while, then parks. Returns the new generation.
  uint64_t AwaitWork(uint64_t seen) {
    const auto until = std::chrono::steady_clock::now() + spin;
    for (int round = 0;; ++round) {
      const uint64_t now = generation.load(std::memory_order_acquire);
      if (now != seen) return now;
      CpuRelax();
      // The clock costs about as much as 20 pauses: look at it rarely.
      if ((round & 255) == 255 && std::chrono::steady_clock::now() >= until) break;
    }
    std::unique_lock lock(mutex);
    parked.fetch_add(1, std::memory_order_seq_cst);
    wake.wait(lock, [&] { return generation.load(std::memory_order_seq_cst) != seen; });
    parked.fetch_sub(1, std::memory_order_relaxed);
    return generation.load(std::memory_order_acquire);
  }

  void Loop(int worker) {
    uint64_t seen = 0;
    while (true) {
      seen = AwaitWork(seen);
      if (stop.load(std::memory_order_acquire)) return;
      (*body)(worker);
      running.fetch_sub(1, std::memory_order_release);
    }
  }

  // Publishes the next generation and wakes those that park. seq_cst on both sides: either a
  // parking worker sees the new generation, or we see that it parks.
  void Publish() {
    generation.fetch_add(1, std::memory_order_seq_cst);
    if (parked.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard lock(mutex);
      wake.notify_all();
    }
  }
};

ThreadPool::ThreadPool(const ThreadPoolOptions& options) : state_(std::make_unique<State>()) {
  const std::vector<int> cpus = AffinityCpus();
  state_->workers = options.workers > 0 ? options.workers : UsableCpuCount();
  state_->spin = std::chrono::microseconds(options.spin_us);
  const bool pin = options.pin && static_cast<int>(cpus.size()) >= state_->workers;
  for (int worker = 1; worker < state_->workers; ++worker) {
    state_->threads.emplace_back([this, worker] { state_->Loop(worker); });
    if (pin) PinTo(state_->threads.back().native_handle(), cpus[static_cast<size_t>(worker)]);
  }
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_release);
  state_->Publish();
  for (std::thread& thread : state_->threads) thread.join();
}

int ThreadPool::workers() const {
  return state_->workers;
}

void ThreadPool::Run(const std::function<void(int)>& body) {
  if (state_->workers == 1) {
    body(0);
    return;
  }
  state_->body = &body;
  state_->running.store(state_->workers - 1, std::memory_order_relaxed);
  state_->Publish();
  body(0);
  // On an over-committed machine a worker may have lost its CPU: give ours away after a while.
  for (int round = 0; state_->running.load(std::memory_order_acquire) != 0; ++round) {
    if (round < 20'000) {
      CpuRelax();
    } else {
      sched_yield();
    }
  }
}

void ThreadPool::ParallelFor(size_t count, size_t grain,
                             const std::function<void(size_t, size_t, int)>& body) {
  if (count == 0) return;
  grain = std::max<size_t>(1, grain);
  if (state_->workers == 1 || count <= grain) {
    body(0, count, 0);
    return;
  }
  std::atomic<size_t> next{0};
  Run([&](int worker) {
    while (true) {
      const size_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      body(begin, std::min(count, begin + grain), worker);
    }
  });
}

}  // namespace millrace
