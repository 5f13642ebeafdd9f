// How fast this machine reads memory, for the "% of bandwidth" column of docs/performance.md.
//
//   read_bandwidth [--mb 512] [--seconds 1] [--threads N]
//
// Each thread sums its own part of one buffer that no cache holds, in passes; the median pass
// counts. Prints one JSON line for 1 .. N threads.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/thread_pool.h"

namespace {

using Clock = std::chrono::steady_clock;

// Sixteen independent sums of 64 bits: enough loads in flight on any core, and the compiler makes
// vectors of them.
uint64_t Sum(const uint64_t* data, size_t count) {
  uint64_t lanes[16] = {};
  for (size_t i = 0; i + 16 <= count; i += 16) {
    __builtin_prefetch(data + i + 256);
    for (size_t lane = 0; lane < 16; ++lane) lanes[lane] += data[i + lane];
  }
  uint64_t sum = 0;
  for (const uint64_t lane : lanes) sum += lane;
  return sum;
}

double GigabytesPerSecond(const std::vector<uint64_t>& buffer, int threads, double seconds) {
  millrace::ThreadPool pool({.workers = threads});
  const size_t part = buffer.size() / static_cast<size_t>(threads) / 16 * 16;
  std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);
  std::vector<double> rates;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  while (Clock::now() < end || rates.size() < 3) {
    const auto begin = Clock::now();
    pool.Run([&](int worker) {
      sums[static_cast<size_t>(worker) * 8] +=
          Sum(buffer.data() + static_cast<size_t>(worker) * part, part);
    });
    const double took = std::chrono::duration<double>(Clock::now() - begin).count();
    rates.push_back(static_cast<double>(part) * static_cast<double>(threads) * 8 / took / 1e9);
  }
  // Keeps the sums alive.
  if (sums[0] == 0x123456789) std::fprintf(stderr, "!");
  std::nth_element(rates.begin(), rates.begin() + static_cast<long>(rates.size() / 2), rates.end());
  return rates[rates.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  size_t megabytes = 512;
  double seconds = 1;
  int threads = millrace::UsableCpuCount();
  for (int i = 1; i + 1 < argc; i += 2) {
    if (!std::strcmp(argv[i], "--mb")) megabytes = std::strtoull(argv[i + 1], nullptr, 10);
    if (!std::strcmp(argv[i], "--seconds")) seconds = std::atof(argv[i + 1]);
    if (!std::strcmp(argv[i], "--threads")) threads = std::atoi(argv[i + 1]);
  }
  if (megabytes == 0 || threads < 1) {
    std::fprintf(stderr, "usage: read_bandwidth [--mb N] [--seconds S] [--threads N]\n");
    return 2;
  }
  std::vector<uint64_t> buffer(megabytes * (1 << 20) / 8, 1);
  std::printf("{\"mb\":%zu", megabytes);
  for (int n = 1; n <= threads; ++n) {
    std::printf(",\"gb_s_%d\":%.1f", n, GigabytesPerSecond(buffer, n, seconds));
  }
  std::printf("}\n");
  return 0;
}
