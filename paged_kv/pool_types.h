#pragma once
// The plain values of BlockPool, by KV group.

#include <cstdint>
#include <vector>

#include "base/ids.h"
#include "paged_kv/hash128.h"

namespace millrace::paged_kv {

struct GroupConfig {
  int32_t blocks = 0;        // usable; ids 1 .. blocks
  int32_t block_tokens = 0;  // the same in all groups
  int32_t window = 0;        // positions that a token sees, its own included; 0: all
};

// The first block that the token at `position` sees.
inline int32_t FirstBlockSeen(int32_t position, int32_t window, int32_t block_tokens) {
  return window == 0 || position < window ? 0 : (position - window + 1) / block_tokens;
}

struct PoolConfig {
  std::vector<GroupConfig> groups;
  BlockHashFn hash = &MixTokens;
};

// Of one KV group.
struct PoolStats {
  int32_t total = 0;
  int32_t free = 0;
  int32_t active = 0;   // referenced, pinned or reserved
  int32_t cached = 0;   // only in the prefix index
  int32_t pending = 0;  // released, a submitted step still names it
  int32_t pinned = 0;   // of the active ones: those held by pins alone
  int64_t evictions = 0;
  int32_t available() const { return free + cached; }
};

// What of a sequence is in the index already.
struct PrefixHit {
  int32_t blocks = 0;  // the first token to compute lies at blocks * block_tokens
  // [group][blocks]: the front of each table; null before what the next token sees.
  std::vector<std::vector<BlockId>> tables;
};

}  // namespace millrace::paged_kv
