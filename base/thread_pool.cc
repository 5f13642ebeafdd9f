#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <fstream>
#include <iterator>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>

#include "base/cpu_set.h"

namespace millrace {
namespace {

// About 200 us of pauses; then whoever spins gives its CPU away.
constexpr int kRoundsBeforeYield = 20'000;

inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// CPUs that the cgroup's quota pays for, or 0 when it sets none. Half a CPU more is worth a thread:
// rounded up.
int QuotaCpus() {
  std::ifstream file("/proc/self/cgroup");
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return static_cast<int>(std::ceil(std::min(CgroupCpuQuota("/sys/fs/cgroup", text), 1e6)));
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

// What is left of a worker's share of a round: pieces [begin, end), and the round's last bits. A
// word of an older round stands for the whole share, so that whoever comes first, the worker or a
// thief, may begin: nobody has to write the words of all workers before a round. Words are never
// more than a round old: every worker takes part in every round and leaves its own at that round.
class alignas(64) Share {
 public:
  static constexpr size_t kMaxPieces = (size_t{1} << 28) - 1;
  struct Range {
    uint64_t begin = 0, end = 0;
    bool empty() const { return begin == end; }
  };

  // The worker's own: a quarter of what is left, from the front. `whole`: its share of this round.
  Range TakeOwn(uint64_t round, Range whole) {
    return Take(round, whole, [](Range left) {
      return Range{left.begin, left.begin + (left.end - left.begin + 3) / 4};
    });
  }
  // Another's: its last piece.
  Range Steal(uint64_t round, Range whole) {
    return Take(round, whole, [](Range left) { return Range{left.end - 1, left.end}; });
  }

 private:
  static constexpr int kBits = 28;
  static uint64_t Pack(uint64_t round, Range r) {
    return round << (2 * kBits) | r.begin << kBits | r.end;
  }
  static Range Unpack(uint64_t word) { return {word >> kBits & kMaxPieces, word & kMaxPieces}; }

  template <class Choose>
  Range Take(uint64_t round, Range whole, const Choose& choose) {
    uint64_t seen = word_.load(std::memory_order_relaxed);
    while (true) {
      const bool current = seen >> (2 * kBits) == (round & 0xff);
      const Range left = current ? Unpack(seen) : whole;
      if (left.empty() && current) return {};
      const Range taken = left.empty() ? left : choose(left);
      const Range rest =
          taken.begin == left.begin ? Range{taken.end, left.end} : Range{left.begin, taken.begin};
      if (word_.compare_exchange_weak(seen, Pack(round, rest), std::memory_order_relaxed)) {
        return taken;
      }
    }
  }

  std::atomic<uint64_t> word_{0};
};

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
  int rounds_before_yield = kRoundsBeforeYield;
  std::vector<std::thread> threads;
  int workers = 1;
  std::unique_ptr<Share[]> shares;  // of each worker
  uint64_t round = 0;               // of shares
  int caller_cpu = -1;              // where worker 0 is pinned; -1: nowhere
  bool caller_pinned = false;
  pthread_t caller{};
  cpu_set_t caller_mask;  // the caller's, from before it was pinned

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

  // Pins the calling thread, once for each that calls.
  void PinCaller() {
    if (caller_pinned && pthread_equal(caller, pthread_self())) return;
    caller = pthread_self();
    caller_pinned = pthread_getaffinity_np(caller, sizeof(caller_mask), &caller_mask) == 0;
    if (caller_pinned) PinTo(caller, caller_cpu);
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

// The caller is pinned by the first Run, not here: threads inherit the mask of the thread that
// makes them, and this constructor often runs in main.
ThreadPool::ThreadPool(const ThreadPoolOptions& options) : state_(std::make_unique<State>()) {
  State& state = *state_;
  const std::vector<int> cpus = AffinityCpus();
  const int wanted = options.workers > 0 ? options.workers : UsableCpuCount();
  // More workers than CPUs: a spinning worker would hold back one that works.
  const bool fits = static_cast<int>(cpus.size()) >= wanted;
  state.spin = std::chrono::microseconds(fits ? std::max(options.spin_us, 0) : 0);
  state.rounds_before_yield = fits ? kRoundsBeforeYield : 0;
  const bool pin = options.pin && fits && wanted > 1;
  if (pin) state.caller_cpu = cpus[0];
  // Signals belong to the threads that wait for them: workers block all but those of their own
  // faults, which would end the process without its handlers (a mapped file that was cut short).
  sigset_t all, before;
  sigfillset(&all);
  for (const int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL}) sigdelset(&all, fault);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (int worker = 1; worker < wanted; ++worker) {
    try {
      state.threads.emplace_back([&state, worker] { state.Loop(worker); });
    } catch (const std::system_error&) {
      break;  // The system gives no more threads: fewer workers do the same work.
    }
    const pthread_t thread = state.threads.back().native_handle();
    pthread_setname_np(thread, ("pool-" + std::to_string(worker)).c_str());
    if (pin) PinTo(thread, cpus[static_cast<size_t>(worker)]);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  state.workers = 1 + static_cast<int>(state.threads.size());
  state.shares = std::make_unique<Share[]>(static_cast<size_t>(state.workers));
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_release);
  state_->Publish();
  for (std::thread& thread : state_->threads) thread.join();
  // Give the mask back when the caller ends the pool itself; another thread's may be gone.
  if (state_->caller_pinned && pthread_equal(state_->caller, pthread_self())) {
    pthread_setaffinity_np(state_->caller, sizeof(cpu_set_t), &state_->caller_mask);
  }
}

int ThreadPool::workers() const {
  return state_->workers;
}

void ThreadPool::Run(const std::function<void(int)>& body) {
  State& state = *state_;
  if (state.workers == 1) {
    body(0);
    return;
  }
  if (state.caller_cpu >= 0) state.PinCaller();
  state.body = &body;
  state.running.store(state.workers - 1, std::memory_order_relaxed);
  state.Publish();
  body(0);
  // On an over-committed machine a worker may have lost its CPU: give ours away after a while.
  for (int round = 0; state.running.load(std::memory_order_acquire) != 0; ++round) {
    if (round < state.rounds_before_yield) {
      CpuRelax();
    } else {
      round = state.rounds_before_yield;
      sched_yield();
    }
  }
}

void ThreadPool::ParallelFor(size_t count, size_t grain, const Pieces& body) {
  if (count == 0) return;
  grain = std::max<size_t>(1, grain);
  if (state_->workers == 1 || count <= grain) {
    body(0, count, 0);
    return;
  }
  // Counted in pieces, so that the counter cannot pass the end of size_t. One capture only: then
  // std::function needs no allocation.
  struct Work {
    std::atomic<size_t> next{0};
    size_t count, grain, pieces;
    const Pieces* body;
  } work;
  work.count = count;
  work.grain = grain;
  work.pieces = count / grain + (count % grain != 0);
  work.body = &body;
  Run([&work](int worker) {
    while (true) {
      const size_t piece = work.next.fetch_add(1, std::memory_order_relaxed);
      if (piece >= work.pieces) return;
      const size_t begin = piece * work.grain;
      (*work.body)(begin, begin + std::min(work.grain, work.count - begin), worker);
    }
  });
}

void ThreadPool::ParallelShares(size_t count, size_t grain, const Pieces& body) {
  if (count == 0) return;
  grain = std::max({size_t{1}, grain, count / Share::kMaxPieces + 1});
  if (state_->workers == 1 || count <= grain) {
    body(0, count, 0);
    return;
  }
  struct Work {
    State* state;
    size_t count, grain, pieces;
    const Pieces* body;

    Share::Range Whole(size_t worker) const {
      const auto workers = static_cast<size_t>(state->workers);
      return {pieces * worker / workers, pieces * (worker + 1) / workers};
    }
    void Do(Share::Range taken, int worker) const {
      (*body)(taken.begin * grain, taken.end == pieces ? count : taken.end * grain, worker);
    }
  } work{state_.get(), count, grain, count / grain + (count % grain != 0), &body};
  ++state_->round;
  Run([&work](int worker) {
    const State& state = *work.state;
    const auto self = static_cast<size_t>(worker), workers = static_cast<size_t>(state.workers);
    for (size_t i = 0; i < workers; ++i) {
      const size_t of = (self + i) % workers;
      Share& share = state.shares[of];
      const Share::Range whole = work.Whole(of);
      while (true) {
        const Share::Range taken =
            i == 0 ? share.TakeOwn(state.round, whole) : share.Steal(state.round, whole);
        if (taken.empty()) break;
        work.Do(taken, worker);
      }
    }
  });
}

}  // namespace millrace
