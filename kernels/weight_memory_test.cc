#include "kernels/weight_memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <vector>

namespace millrace::kernels {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

// Of this process, in bytes.
size_t Resident() {
  std::ifstream file("/proc/self/statm");
  size_t pages = 0, resident = 0;
  file >> pages >> resident;
  return resident * 4096;
}

TEST(WeightMemoryTest, PiecesAreAlignedApartAndDense) {
  const size_t before = Resident();
  std::vector<std::byte*> pieces;
  const size_t bytes = 2 * kMiB + 100;
  for (int i = 0; i < 100; ++i) {
    std::byte* const piece = AllocateLargeWeights(bytes);
    ASSERT_NE(piece, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(piece) % 64, 0u);
    std::memset(piece, i, bytes);
    pieces.push_back(piece);
  }
  for (int i = 0; i < 100; ++i) {
    for (const size_t at : {size_t{0}, bytes - 1}) {
      EXPECT_EQ(pieces[static_cast<size_t>(i)][at], static_cast<std::byte>(i));
    }
  }
  // A huge page for each matrix's end would be 200 MiB more.
  EXPECT_LT(Resident() - before, 100 * bytes + 64 * kMiB);
  for (std::byte* piece : pieces) FreeLargeWeights(piece);
  EXPECT_LT(Resident(), before + 64 * kMiB) << "the mappings are gone";
}

TEST(WeightMemoryTest, APieceMayBeLargerThanAMapping) {
  std::byte* const small = AllocateLargeWeights(3 * kMiB);
  std::byte* const large = AllocateLargeWeights(700 * kMiB);  // not touched but at its ends
  ASSERT_NE(large, nullptr);
  large[0] = large[700 * kMiB - 1] = std::byte{7};
  std::byte* const next = AllocateLargeWeights(3 * kMiB);
  std::memset(small, 1, 3 * kMiB);
  std::memset(next, 2, 3 * kMiB);
  EXPECT_EQ(large[0], std::byte{7});
  EXPECT_EQ(large[700 * kMiB - 1], std::byte{7});
  FreeLargeWeights(large);
  EXPECT_EQ(small[3 * kMiB - 1], std::byte{1});
  FreeLargeWeights(small);
  FreeLargeWeights(next);
}

TEST(WeightMemoryTest, WhatCannotBeIsNull) {
  EXPECT_EQ(AllocateLargeWeights(SIZE_MAX), nullptr);
  EXPECT_EQ(AllocateLargeWeights(size_t{1} << 60), nullptr);
}

}  // namespace
}  // namespace millrace::kernels
