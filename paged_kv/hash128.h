#pragma once
// The mixing hash of the prefix index. It only spreads keys over buckets: a hit is decided by an
// exact comparison of tokens, so that a collision costs time and never an answer.

#include <cstdint>
#include <span>
#include <string_view>

#include "base/ids.h"

namespace millrace::paged_kv {

struct Hash128 {
  uint64_t lo = 0;
  uint64_t hi = 0;
  friend bool operator==(const Hash128&, const Hash128&) = default;
};

// Hash of a block: its parent's hash, then its tokens. Tests inject one that always collides.
using BlockHashFn = Hash128 (*)(Hash128 parent, std::span<const TokenId> tokens);

Hash128 MixTokens(Hash128 parent, std::span<const TokenId> tokens);
Hash128 MixBytes(Hash128 start, std::string_view bytes);

}  // namespace millrace::paged_kv
