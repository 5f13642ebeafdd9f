#pragma once
// Finds control and user-defined tokens in a text: at each place the longest, from left to right.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/ids.h"
#include "text/tokenizer.h"

namespace millrace::text {

// A trie over the spellings. Thread: immutable once filled.
class SpecialTokens {
 public:
  // A longer spelling is refused, which bounds the work at each byte of a text.
  static constexpr size_t kBytesMax = 1024;

  // `always`: read also where special tokens are not (user-defined tokens). The first of two tokens
  // with one spelling counts. REQUIRES: 1 <= spelling.size() <= kBytesMax.
  void Add(std::string_view spelling, TokenId id, bool always);

  struct Match {
    size_t begin = 0;
    size_t end = 0;
    TokenId id = -1;  // -1: none
  };
  // The first match at or after `from`. `range_at` is a cursor into options.plain_ranges that the
  // caller keeps between calls on one text, 0 at first.
  Match Find(std::string_view text, size_t from, const EncodeOptions& options,
             size_t& range_at) const;

 private:
  struct Node {
    TokenId id = -1;
    bool always = false;
  };
  Match LongestAt(std::string_view text, size_t at, const EncodeOptions& options,
                  size_t range_at) const;

  std::vector<Node> nodes_{1};
  absl::flat_hash_map<uint64_t, uint32_t> edges_;  // node << 8 | byte
  bool first_byte_[256] = {};
  bool any_always_ = false;
};

}  // namespace millrace::text
