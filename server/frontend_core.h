#pragma once
// What the runs of one front end share. Internal to the front end.

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <unordered_set>

#include "server/frontend.h"
#include "server/request_metrics.h"
#include "server/worker_pool.h"

namespace millrace::server {

class GenerationRun;

// Random numbers for ids and seeds. Not secrets. Thread: any.
class IdSource {
 public:
  explicit IdSource(uint64_t seed);
  uint64_t Next();
  std::string Hex32();

 private:
  std::mutex mutex_;
  std::mt19937_64 random_;
};

// Thread: any.
struct FrontendCore {
  FrontendCore(ServedModel served, FrontendOptions chosen, FrontendDeps wired);

  // False when the front end is closing.
  bool Enter(std::shared_ptr<GenerationRun> run);
  void Leave(GenerationRun* run);
  // Cancels what runs and waits until all have left.
  void Close();

  const ServedModel model;
  const FrontendOptions options;
  const FrontendDeps deps;
  const size_t token_bytes_max;
  RequestMetrics metrics;
  IdSource ids;
  std::atomic<uint64_t> next_request{1};

  std::mutex mutex;  // guards the next three
  std::condition_variable left;
  std::unordered_set<std::shared_ptr<GenerationRun>> live;
  bool closing = false;

  // Last: their destructors run first, while the rest still lives, and `prepare`, which posts to
  // `streams`, before it.
  WorkerPool streams;
  WorkerPool prepare;
};

}  // namespace millrace::server
