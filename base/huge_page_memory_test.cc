#include "base/huge_page_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace millrace {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

bool IsMapped(std::byte* at) {
  unsigned char in_core = 0;
  return mincore(at - reinterpret_cast<uintptr_t>(at) % 4096, 1, &in_core) == 0;
}

TEST(HugePageMemoryTest, PiecesAreAlignedApartAndDense) {
  std::vector<std::byte*> pieces;
  const size_t bytes = 2 * kMiB + 100;
  for (int i = 0; i < 100; ++i) {
    std::byte* const piece = AllocateOnHugePages(bytes);
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
  int gaps = 0;
  for (size_t i = 1; i < pieces.size(); ++i) {
    gaps += pieces[i] != pieces[i - 1] + (bytes + 63) / 64 * 64 ? 1 : 0;
  }
  EXPECT_LE(gaps, 1) << "a huge page for each one's end would be 200 MiB more";
  for (std::byte* piece : pieces) {
    EXPECT_TRUE(IsMapped(piece));
    FreeOnHugePages(piece);
  }
  for (std::byte* piece : pieces) EXPECT_FALSE(IsMapped(piece));
}

TEST(HugePageMemoryTest, APieceMayBeLargerThanAMapping) {
  std::byte* const small = AllocateOnHugePages(3 * kMiB);
  std::byte* const large = AllocateOnHugePages(700 * kMiB);  // not touched but at its ends
  ASSERT_NE(large, nullptr);
  large[0] = large[700 * kMiB - 1] = std::byte{7};
  std::byte* const next = AllocateOnHugePages(3 * kMiB);
  std::memset(small, 1, 3 * kMiB);
  std::memset(next, 2, 3 * kMiB);
  EXPECT_EQ(large[0], std::byte{7});
  EXPECT_EQ(large[700 * kMiB - 1], std::byte{7});
  FreeOnHugePages(large);
  EXPECT_EQ(small[3 * kMiB - 1], std::byte{1});
  FreeOnHugePages(small);
  FreeOnHugePages(next);
}

TEST(HugePageMemoryTest, WhatCannotBeIsNull) {
  EXPECT_EQ(AllocateOnHugePages(SIZE_MAX), nullptr);
  EXPECT_EQ(AllocateOnHugePages(size_t{1} << 60), nullptr);
}

}  // namespace
}  // namespace millrace
