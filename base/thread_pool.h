#pragma once
// The pool that runs kernels. The caller is worker 0; the others spin for a short while after each
// piece of work and then park, so that a forward pass of hundreds of forks costs sub-microsecond
// joins while an idle node costs nothing. Threads are pinned only to CPUs of our own cpuset.

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

namespace millrace {

struct ThreadPoolOptions {
  // Workers in all, the calling thread included. 0: one for each CPU of our cpuset, at most the
  // cgroup's CPU quota rounded up.
  int workers = 0;
  // Pin worker i to the i-th CPU of the cpuset. Off when the cpuset has fewer CPUs than workers.
  // The caller, worker 0, is pinned by its first Run and freed when it destroys the pool: it must
  // not start threads in between, since those would inherit its one CPU.
  bool pin = true;
  // How long a worker spins for more work before it parks.
  int spin_us = 50;
};

// CPUs that this process may use: sched_getaffinity, cut to the cgroup quota. At least 1.
int UsableCpuCount();
// The CPU numbers of our affinity mask, ascending.
std::vector<int> AffinityCpus();

// Thread: one caller at a time (the engine thread).
class ThreadPool {
 public:
  explicit ThreadPool(const ThreadPoolOptions& options);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int workers() const;

  // Calls body(worker) once on every worker, 0 .. workers()-1, and returns when all have returned.
  // Everything written before is seen by the bodies, and what they write is seen after.
  void Run(const std::function<void(int worker)>& body);

  // body(begin, end, worker) over [0, count).
  using Pieces = std::function<void(size_t begin, size_t end, int worker)>;

  // In pieces of `grain` that workers take from one counter, in ascending order, so that a slow CPU
  // takes fewer.
  void ParallelFor(size_t count, size_t grain, const Pieces& body);

  // Each worker has an even share of neighbours, in ascending order and as few pieces as may be:
  // what it reads goes on where it was. One that is done takes `grain` at a time from the ends of
  // the others' shares, so that a slow CPU keeps less.
  void ParallelShares(size_t count, size_t grain, const Pieces& body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace millrace
