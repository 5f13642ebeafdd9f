#pragma once
// Memory of large packed matrices: pieces of mappings of huge pages, one behind the other. Weights
// are streamed, and each 4 KiB page costs a TLB walk; a mapping for each matrix would either end
// in such pages (6 % of a decode of a 1B model) or waste half a huge page a matrix (100 MiB of it).

#include <cstddef>

namespace millrace {

// From here on a matrix is worth it; smaller ones are the heap's.
inline constexpr size_t kWorthHugePages = size_t{2} << 20;

// 64-byte aligned, not written yet; null: no memory. Thread: any.
std::byte* AllocateOnHugePages(size_t bytes);
// REQUIRES: `data` comes from there and is freed once. A mapping goes with its last piece.
void FreeOnHugePages(std::byte* data);

}  // namespace millrace
