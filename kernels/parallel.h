#pragma once
// When a fork is worth its join. Private to kernels/.

#include <cstddef>
#include <cstdint>

#include "kernels/stream.h"

namespace millrace::kernels {

// Between the scratch of two workers. What one writes again and again, the hardware fetches for the
// other when that one reads up to the end of its own (docs/performance.md).
inline constexpr int64_t kWorkerGapFloats = 4096;

// Calls body(begin, end, worker) over [0, count): here when the work is small (below about 5 us,
// some ten times the cost of a fork and join), else on all workers in shares, or in their order.
// `unit_cost`: of one of the count, in values touched by a vector loop.
enum class Order : uint8_t {
  kShares,     // a worker's are neighbours
  kAscending,  // the first ones first, for items of unequal length, the longest first
};
template <class Body>
void ForEach(Stream& stream, size_t count, size_t unit_cost, const Body& body,
             Order order = Order::kShares) {
  constexpr size_t kWorthAFork = 16384;
  // Pieces of a worker's share: what others may take from it, and steps of the counter.
  constexpr size_t kStolen = 16, kCounted = 32;
  const size_t workers = static_cast<size_t>(stream.pool().workers());
  if (count == 0) return;
  if (workers == 1 || count == 1 || count * unit_cost < kWorthAFork) {
    body(size_t{0}, count, 0);
    return;
  }
  const auto run = [&body](size_t begin, size_t end, int worker) { body(begin, end, worker); };
  if (order == Order::kShares) {
    stream.pool().ParallelShares(count, count / (workers * kStolen), run);
  } else {
    stream.pool().ParallelFor(count, count / (workers * kCounted) + 1, run);
  }
}

}  // namespace millrace::kernels
