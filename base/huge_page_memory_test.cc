#include "base/huge_page_memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <vector>

namespace millrace {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

// Of this process, in bytes.
size_t Resident() {
  std::ifstream file("/proc/self/statm");
  size_t pages = 0, resident = 0;
  file >> pages >> resident;
  return resident * 4096;
}

TEST(HugePageMemoryTest, PiecesAreAlignedApartAndDense) {
  const size_t before = Resident();
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
  // A huge page for each matrix's end would be 200 MiB more.
  EXPECT_LT(Resident() - before, 100 * bytes + 64 * kMiB);
  for (std::byte* piece : pieces) FreeOnHugePages(piece);
  EXPECT_LT(Resident(), before + 64 * kMiB) << "the mappings are gone";
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
