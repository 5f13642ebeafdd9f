#pragma once
// Finds where the end of a token sequence has stood before: what followed there is a guess of what
// comes next (prompt look-up).
//
//   tokens   a b c d e f ... x a b c       the last three tokens stood at the front: d e f ...
//   comes
//
// The answer is a function of the tokens alone. A look-up reads a bounded number of places,
// whatever the text; a new token costs one entry in two tables and one link, about 16 bytes.

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"

namespace millrace::scheduler {

struct NgramMatch {
  int32_t next = -1;   // tokens[next] is the guess; -1: the end stands nowhere else
  int32_t length = 0;  // how many tokens agree, kShort .. kLongest
};

// Thread: engine.
class NgramIndex {
 public:
  static constexpr int32_t kShort = 2;     // the fewest tokens that must agree
  static constexpr int32_t kLinked = 3;    // of so many, all places are linked, newest first
  static constexpr int32_t kLongest = 32;  // more are not compared
  static constexpr int32_t kPlaces = 8;    // of a chain that are looked at

  // The place with the longest agreement; the newest among equals.
  // REQUIRES: `tokens` begins with those of the call before.
  NgramMatch Find(std::span<const TokenId> tokens);

 private:
  void Extend(std::span<const TokenId> tokens);
  void Enter(std::span<const TokenId> tokens, int32_t end);
  size_t Bucket(std::span<const TokenId> tokens, int32_t end, int32_t length) const;

  int32_t entered_ = 0;         // positions whose n-grams are in the tables
  std::vector<int32_t> pairs_;  // by hash of two tokens: where the newest such pair ends; -1: none
  std::vector<int32_t> heads_;  // by hash of kLinked tokens: where the newest ends
  std::vector<int32_t> links_;  // [p]: the place before in the bucket of the n-gram that ends at p
};

// Up to `count` tokens from tokens[match.next] on. At the end of the text it goes on with what it
// has guessed: a period repeats.
void ReadOn(std::span<const TokenId> tokens, int32_t next, int32_t count,
            std::vector<TokenId>& guesses);

}  // namespace millrace::scheduler
