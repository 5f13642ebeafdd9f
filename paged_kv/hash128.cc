#include "paged_kv/hash128.h"

#include <cstring>

namespace millrace::paged_kv {
namespace {

// Odd constants with about half of the bits set: the fractions of pi and e, the last bit forced.
constexpr uint64_t kLaneA = 0x243f6a8885a308d3ULL;
constexpr uint64_t kLaneB = 0xb7e151628aed2a6bULL;

// The two halves of the 128-bit product, folded: every input bit reaches every output bit.
uint64_t Fold(uint64_t x, uint64_t y) {
  const unsigned __int128 product = static_cast<unsigned __int128>(x) * y;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// Two lanes that see each word differently; a word that zeroes one lane's factor does not zero the
// other's.
class Mixer {
 public:
  explicit Mixer(Hash128 start) : a_(start.lo ^ kLaneA), b_(start.hi ^ kLaneB) {}
  void Add(uint64_t word) {
    a_ = Fold(a_ ^ word, kLaneB) + (b_ << 1 | 1);
    b_ = Fold(b_ + word, kLaneA) ^ (a_ >> 7);
  }
  Hash128 Finish(uint64_t length) {
    Add(length);
    Add(kLaneA ^ length);
    return {Fold(a_, kLaneA | 2), Fold(b_, kLaneB | 4)};
  }

 private:
  uint64_t a_;
  uint64_t b_;
};

}  // namespace

Hash128 MixTokens(Hash128 parent, std::span<const TokenId> tokens) {
  Mixer mixer(parent);
  size_t i = 0;
  for (; i + 1 < tokens.size(); i += 2) {
    mixer.Add(static_cast<uint64_t>(static_cast<uint32_t>(tokens[i])) << 32 |
              static_cast<uint32_t>(tokens[i + 1]));
  }
  if (i < tokens.size()) mixer.Add(static_cast<uint32_t>(tokens[i]));
  return mixer.Finish(tokens.size());
}

Hash128 MixBytes(Hash128 start, std::string_view bytes) {
  Mixer mixer(start);
  size_t i = 0;
  for (; i < bytes.size(); i += 8) {
    uint64_t word = 0;
    const size_t left = bytes.size() - i;
    std::memcpy(&word, bytes.data() + i, left < 8 ? left : 8);
    mixer.Add(word);
  }
  return mixer.Finish(bytes.size());
}

}  // namespace millrace::paged_kv
