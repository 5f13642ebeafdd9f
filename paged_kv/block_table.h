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
  // Leading null entries.
  int32_t nulls() const { return nulls_; }
  int32_t held() const { return size() - nulls_; }

  // Blocks of this table are not entered into the index, so that nobody comes to share them. Until
  // Release.
  void KeepPrivate() { private_ = true; }

 private:
  friend class BlockPool;
  friend class Reservation;

  uint32_t group_;
  int32_t nulls_ = 0;
  int32_t published_ = 0;  // leading entries that Publish need not look at again
  bool publish_stopped_ = false;
  bool private_ = false;
  // An equal block of someone else is in the index: nothing after it can hang below ours. The last
  // one passed, as long as its generation is this.
  uint32_t foreign_ = 0;
  uint32_t foreign_generation_ = 0;
  std::vector<BlockId> blocks_;
};

}  // namespace millrace::paged_kv
