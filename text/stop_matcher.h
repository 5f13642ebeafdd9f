#pragma once
// Finds stop strings in text that arrives in pieces, across token borders. It holds back exactly
// the text that may still become a match.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace millrace::text {

// The compiled automaton (Aho-Corasick) of one request; shared by its choices. Thread: immutable.
class StopStrings {
 public:
  // REQUIRES: no string is empty.
  explicit StopStrings(std::vector<std::string> strings);
  ~StopStrings();
  bool empty() const;
  const std::string& string(int index) const;

 private:
  friend class StopMatcher;
  struct Automaton;
  std::unique_ptr<Automaton> automaton_;
};

// Thread: one owner at a time.
class StopMatcher {
 public:
  // `strings` outlives this.
  explicit StopMatcher(const StopStrings& strings);

  struct Output {
    std::string text;  // safe to show now
    int matched = -1;  // index of the stop string that matched; the sequence ends here
  };
  // Of several matches the one that ends first wins; of those the longest. After a match, later
  // calls return nothing. With `include_stop` the matched string is part of `text`.
  Output Append(std::string_view piece, bool include_stop);
  // No more text comes: what was held back.
  std::string Flush();
  // Bytes held back.
  size_t pending() const { return held_.size(); }

 private:
  const StopStrings* strings_;
  int state_ = 0;
  bool matched_ = false;
  std::string held_;
};

}  // namespace millrace::text
