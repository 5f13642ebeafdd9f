// What this machine can do at best, for the columns "% of bandwidth" and "% of peak" of
// docs/performance.md: one JSON line, memory reads and int8 products for 1 .. N threads.
//
//   machine_limits [--mb 1024] [--seconds 1] [--threads N]
//
// The probes are kernels/limits.h, the same that `millrace bench` runs.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/thread_pool.h"
#include "kernels/limits.h"

int main(int argc, char** argv) {
  size_t megabytes = 1024;
  millrace::kernels::ProbeTime time{1};
  int threads = millrace::UsableCpuCount();
  for (int i = 1; i + 1 < argc; i += 2) {
    if (!std::strcmp(argv[i], "--mb")) megabytes = std::strtoull(argv[i + 1], nullptr, 10);
    if (!std::strcmp(argv[i], "--seconds")) time.seconds = std::atof(argv[i + 1]);
    if (!std::strcmp(argv[i], "--threads")) threads = std::atoi(argv[i + 1]);
  }
  if (megabytes == 0 || megabytes > 1 << 20 || threads < 1) {
    std::fprintf(stderr, "usage: machine_limits [--mb N] [--seconds S] [--threads N]\n");
    return 2;
  }
  const size_t bytes = megabytes << 20;
  const std::unique_ptr<void, void (*)(void*)> memory(std::aligned_alloc(4096, bytes), &std::free);
  if (memory == nullptr) return 1;
  std::memset(memory.get(), 1, bytes);
  const std::span<const std::byte> buffer(static_cast<const std::byte*>(memory.get()), bytes);
  std::printf("{\"mb\":%zu", megabytes);
  const char* instruction = "?";
  for (int n = 1; n <= threads; ++n) {
    millrace::ThreadPool pool({.workers = n});
    std::printf(",\"gb_s_%d\":%.1f", n, millrace::kernels::ReadBandwidth(pool, buffer, time) / 1e9);
    const auto peak = millrace::kernels::MeasureIntegerPeak(pool, time);
    std::printf(",\"int8_tops_%d\":%.3f", n, peak.ops_per_second / 1e12);
    instruction = peak.instruction;
  }
  std::printf(",\"int8_with\":\"%s\"}\n", instruction);
  return 0;
}
