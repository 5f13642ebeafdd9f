#pragma once
// When a fork is worth its join. Private to kernels/.

#include <cstddef>
#include <cstdint>

#include "kernels/stream.h"

namespace millrace::kernels {

// Between the scratch of two workers. What one writes again and again, the hardware fetches for the
// other when that one reads up to the end of its own (docs/performance.md).
inline constexpr int64_t kWorkerGapFloats = 4096;

// Calls body(begin, end, worker) over [0, count): here when the work is small (below about 10 us,
// some ten times the cost of a fork and join), else on all workers in pieces. `unit_cost`: of one
// of the count, in values touched by a vector loop. `pieces`: a worker's share is cut into so many,
// so that a slow one takes fewer.
inline constexpr size_t kPieces = 8;
inline constexpr size_t kPiecesOfLongItems = 32;  // of several microseconds each
template <class Body>
void ForEach(Stream& stream, size_t count, size_t unit_cost, const Body& body,
             size_t pieces = kPieces) {
  constexpr size_t kWorthAFork = 32768;
  const size_t workers = static_cast<size_t>(stream.pool().workers());
  if (count == 0) return;
  if (workers == 1 || count == 1 || count * unit_cost < kWorthAFork) {
    body(size_t{0}, count, 0);
    return;
  }
  const size_t grain = count / (workers * pieces) + 1;
  stream.pool().ParallelFor(
      count, grain, [&body](size_t begin, size_t end, int worker) { body(begin, end, worker); });
}

}  // namespace millrace::kernels
