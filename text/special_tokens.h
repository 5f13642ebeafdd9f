#pragma once
// Finds added tokens (control, unknown, user-defined) in a text: at each place the longest, from
// left to right.

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
  void Add(std::string_view spelling, const AddedToken& token, bool always);
  bool empty() const { return nodes_.size() == 1; }

  // Where a search stands. Kept by the caller between calls on one text.
  struct Cursor {
    size_t at = 0;     // the next search begins here
    size_t taken = 0;  // what lies before belongs to a token already
    size_t range = 0;  // into options.plain_ranges
  };
  struct Match {
    size_t begin = 0;  // with the white space that the token takes along
    size_t end = 0;
    TokenId id = -1;  // -1: none
  };
  // The next match; moves the cursor behind it.
  Match Find(std::string_view text, const EncodeOptions& options, Cursor& cursor) const;

 private:
  struct Node {
    AddedToken token;
    bool always = false;
  };
  // The node that ends the longest token at `at`, and its end; null if there is none.
  const Node* LongestAt(std::string_view text, size_t at, size_t control_end, size_t& end) const;

  std::vector<Node> nodes_{1};
  absl::flat_hash_map<uint64_t, uint32_t> edges_;  // node << 8 | byte
  bool first_byte_[256] = {};
  bool any_always_ = false;
};

}  // namespace millrace::text
