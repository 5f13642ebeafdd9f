#pragma once
// The free blocks as a two-level bitmap: the lowest free id is handed out first, so that the state
// is a set and does not remember in which order blocks came back.

#include <bit>
#include <cstdint>
#include <vector>

namespace millrace::paged_kv {

// Thread: engine.
class FreeSet {
 public:
  explicit FreeSet(uint32_t ids) : words_(ids / 64 + 1), summary_(words_.size() / 64 + 1) {}

  bool Contains(uint32_t id) const { return (words_[id / 64] >> (id % 64) & 1) != 0; }
  void Insert(uint32_t id) {
    words_[id / 64] |= uint64_t{1} << (id % 64);
    summary_[id / 4096] |= uint64_t{1} << (id / 64 % 64);
  }
  // REQUIRES: not empty.
  uint32_t TakeLowest() {
    size_t s = 0;
    while (summary_[s] == 0) ++s;
    const size_t w = s * 64 + static_cast<size_t>(std::countr_zero(summary_[s]));
    const auto id = static_cast<uint32_t>(w * 64 + std::countr_zero(words_[w]));
    words_[w] &= words_[w] - 1;
    if (words_[w] == 0) summary_[s] &= ~(uint64_t{1} << (w % 64));
    return id;
  }

 private:
  std::vector<uint64_t> words_;    // bit = block is free
  std::vector<uint64_t> summary_;  // bit = word is not zero
};

}  // namespace millrace::paged_kv
