#pragma once
// Inside of BlockPool: the blocks of one KV group and their prefix index. Nobody else includes
// this.

#include <deque>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "paged_kv/block_pool.h"
#include "paged_kv/free_set.h"
#include "paged_kv/leaf_heap.h"

namespace millrace::paged_kv {

// Interned namespace keys, counted: one for each holder, one for each published root block.
// Thread: engine.
class BlockPool::Namespaces {
 public:
  NamespaceId Open(std::string_view key);
  void AddUse(NamespaceId space) { ++entries_[space.value()].uses; }
  void DropUse(NamespaceId space);
  Hash128 hash(NamespaceId space) const { return entries_[space.value()].hash; }
  // REQUIRES: the namespace is held, or has a published root.
  const std::string& key(NamespaceId space) const { return entries_[space.value()].key; }

 private:
  struct Entry {
    std::string key;
    Hash128 hash;
    int64_t uses = 0;
  };
  std::vector<Entry> entries_;
  std::vector<uint32_t> unused_;
  absl::flat_hash_map<std::string, uint32_t> ids_;  // looked up, never walked
};

enum class BlockState : uint8_t { kFree, kActive, kCached, kPending };

// Thread: engine.
class BlockPool::Group {
 public:
  // A spine has `namespaces`; another group has the spine it belongs to, if there is one.
  Group(const PoolConfig& config, uint32_t group, Namespaces* namespaces, Group* spine);

  bool CanReserve(int32_t count) const { return count <= stats_.available(); }
  // REQUIRES: CanReserve.
  void Reserve(int32_t count, std::vector<BlockId>& out);
  void Unreserve(std::span<const BlockId> blocks);
  void AddRefs(std::span<const BlockId> blocks);
  void DropRefs(std::span<const BlockId> blocks, StepId after_step, StepId completed);
  void AddPins(std::span<const BlockId> blocks);
  void DropPins(std::span<const BlockId> blocks, StepId after_step, StepId completed);
  void Complete(StepId step);
  // Of a spine: enters entry i, and says which block stands for it in the index; 0: none, ever.
  uint32_t PublishEntry(BlockTable& table, int32_t i, NamespaceId space,
                        std::span<const TokenId> verified);
  std::vector<BlockId> Chain(NamespaceId space, std::span<const TokenId> tokens,
                             int32_t blocks_max) const;
  // Of another group: entry i becomes the companion of `node`, if that has none.
  void Attach(const BlockTable& table, int32_t i, uint32_t node);
  BlockId CompanionOf(BlockId node) const { return BlockId(by_node_[node.value()]); }
  // The first of `blocks` whole blocks that the token after them sees.
  int32_t FirstSeenAfter(int32_t blocks) const {
    return FirstBlockSeen(blocks * block_tokens_, window_, block_tokens_);
  }
  int32_t block_tokens() const { return block_tokens_; }
  bool StillThere(uint32_t id, uint32_t generation) const {
    return blocks_[id].generation == generation;
  }
  int32_t CountUnheld(std::span<const BlockId> blocks) const;
  int32_t CountPinnedOnly(std::span<const BlockId> blocks) const;
  const PoolStats& stats() const { return stats_; }
  std::string CheckInvariants(std::span<const BlockTable* const> tables, uint32_t group) const;
  uint64_t Fingerprint(StepId completed) const;
  // A reserved block becomes the first reference of a table.
  void Activate(BlockId block);

 private:
  struct Block {
    int32_t refs = 0;      // live tables
    int32_t pins = 0;      // leases
    int32_t children = 0;  // published blocks whose parent this is
    BlockState state = BlockState::kFree;
    bool reserved = false;
    bool published = false;
    uint32_t parent = 0;      // 0: a root block; of a companion: its spine block
    uint32_t next = 0;        // in its bucket
    NamespaceId space;        // of a root block
    uint32_t generation = 0;  // times it left the index
    StepId fence;             // last step that may name it
    uint64_t stamp = 0;       // last use, in calls that gave it back
    Hash128 hash;
  };
  struct Key {
    uint32_t parent;
    NamespaceId space;
    Hash128 hash;
    std::span<const TokenId> tokens;
  };

  Key MakeKey(uint32_t parent, NamespaceId space, std::span<const TokenId> tokens) const;
  // The published block with exactly these tokens below that parent, or 0.
  uint32_t Find(const Key& key) const;
  void Insert(uint32_t id, const Key& key);
  void Unpublish(uint32_t id);
  void UnpublishCompanion(uint32_t id);
  void Evict();
  // Nobody holds the block any more.
  void Give(uint32_t id, StepId after_step, StepId completed);
  void Settle(uint32_t id);  // its fence has passed
  void Hold(uint32_t id);    // first reference or pin
  int32_t& Count(BlockState state);
  uint32_t& Bucket(const Hash128& hash) { return buckets_[hash.lo & (buckets_.size() - 1)]; }
  std::span<const TokenId> TokensOf(uint32_t id) const;
  std::string CheckBlock(uint32_t id, int32_t refs, int32_t children) const;
  std::string CheckPublished(uint32_t id) const;
  std::string CheckIndex() const;

  const int32_t block_tokens_;
  const int32_t window_;
  const BlockHashFn hash_;
  Namespaces* const namespaces_;    // null: not a spine
  Group* const spine_;              // of another group
  std::vector<Group*> companions_;  // of a spine: the other groups
  std::vector<uint32_t> by_node_;   // of another group: companion by spine block, 0: none
  std::vector<Block> blocks_;       // by id; [0] is the null block
  std::vector<TokenId> tokens_;     // [id * block_tokens_ + i], of published blocks
  std::vector<uint32_t> buckets_;   // head of each chain, 0: empty; a power of two of them
  FreeSet free_;
  LeafHeap leaves_;  // CACHED blocks without children
  struct Pending {
    StepId fence;
    uint32_t block;
  };
  std::deque<Pending> pending_;
  uint64_t clock_ = 0;  // counts releases
  PoolStats stats_;
};

}  // namespace millrace::paged_kv
