#include "base/crc32c.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace millrace {
namespace {

std::span<const std::byte> Bytes(const std::string& s) {
  return std::as_bytes(std::span(s));
}

// RFC 3720, appendix B.4, and the check value that every catalogue of CRCs gives.
TEST(Crc32c, PublishedValues) {
  EXPECT_EQ(Crc32c(Bytes("")), 0u);
  EXPECT_EQ(Crc32c(Bytes("123456789")), 0xe3069283u);
  EXPECT_EQ(Crc32c(Bytes(std::string(32, '\0'))), 0x8a9136aau);
  EXPECT_EQ(Crc32c(Bytes(std::string(32, '\xff'))), 0x62a8ab43u);
  std::string up;
  for (int i = 0; i < 32; ++i) up.push_back(static_cast<char>(i));
  EXPECT_EQ(Crc32c(Bytes(up)), 0x46dd794eu);
  EXPECT_EQ(Crc32cByTable(Bytes(up)), 0x46dd794eu);
}

TEST(Crc32c, InstructionAndTableAgreeAndPiecesAddUp) {
  std::mt19937_64 rng(1);
  std::vector<std::byte> data(300);
  for (std::byte& b : data) b = static_cast<std::byte>(rng());
  for (size_t begin = 0; begin < 9; ++begin) {
    for (size_t size = 0; size + begin <= data.size(); ++size) {
      const std::span<const std::byte> part = std::span(data).subspan(begin, size);
      ASSERT_EQ(Crc32c(part), Crc32cByTable(part)) << begin << " " << size;
      const size_t cut = size / 3;
      ASSERT_EQ(Crc32c(part.subspan(cut), Crc32c(part.first(cut))), Crc32c(part));
    }
  }
}

}  // namespace
}  // namespace millrace
