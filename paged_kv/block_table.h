#pragma once
// The blocks of one sequence in one KV group, in order of position: entry i holds the KV of tokens
// [i * block_tokens, (i + 1) * block_tokens). Append-only; an entry may be the null block (outside
// a sliding window: never read, owned by nobody).

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"

namespace millrace::paged_kv {

// Thread: engine. Copying is deleted, because each entry is one reference that the pool has
// counted.
class BlockTable {
 public:
  explicit BlockTable(uint32_t group = 0) : group_(group) {}
  BlockTable(BlockTable&&) = default;
  BlockTable& operator=(BlockTable&&) = default;
  BlockTable(const BlockTable&) = delete;
  BlockTable& operator=(const BlockTable&) = delete;

  uint32_t group() const { return group_; }
  int32_t size() const { return static_cast<int32_t>(blocks_.size()); }
  bool empty() const { return blocks_.empty(); }
  BlockId operator[](int32_t i) const { return blocks_[static_cast<size_t>(i)]; }
  std::span<const BlockId> blocks() const { return blocks_; }
  // Whether Publish has something to do once the first `full` entries are full of verified tokens.
  bool WantsPublish(int32_t full) const { return full > published_ && !publish_stopped_; }

  void AppendNull() { blocks_.push_back(kNullBlock); }

 private:
  friend class BlockPool;
  friend class Reservation;

  uint32_t group_;
  int32_t published_ = 0;  // leading entries that Publish need not look at again
  // An equal block of someone else is in the index: nothing after it can hang below ours.
  bool publish_stopped_ = false;
  std::vector<BlockId> blocks_;
};

}  // namespace millrace::paged_kv
