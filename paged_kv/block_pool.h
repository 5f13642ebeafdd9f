#pragma once
// Who holds which KV block. Ids only: no bytes, devices or policy.
//
//            Reserve                     Release, fence passed
//   FREE ──────────────► ACTIVE ───────┬──────────────────────► FREE    (not published)
//     ▲                   ▲  ▲         ├──────────────────────► CACHED  (published; evictable)
//     │ evict             │  └─ Share ─┤
//   CACHED ───────────────┘            └─ fence not passed: PENDING until Complete(step)
//
// Invariants (names of reference/scheduler.md): S1 every block is in exactly one state and the
// counts add up; S2 references = live tables that contain the block; S4 nothing ACTIVE, pinned or
// PENDING is handed out; S5 a published block's tokens were verified, its parent is published; S6 a
// hit never crosses a namespace. A published block's parent is in every table that holds the block,
// so a CACHED block has only CACHED descendants, and free + cached can always be handed out.
//
// Several KV groups: the first global one (window 0) is the spine, whose chains are the index. A
// published block of another group is the companion of a spine block and means the same tokens; it
// is evicted alone, and with its spine block at the latest. Without a global group nothing is
// published.
//
//   spine        [ a ]─[ b ]─[ c ]─[ d ]      a hit of 4 blocks needs all of these
//   local group    ·     ·   [ x ] [ y ]      and those that the window before the next token needs
//
// Nothing here depends on a pointer value or on the order of a hash map.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "paged_kv/block_table.h"
#include "paged_kv/pool_types.h"

namespace millrace::paged_kv {

class BlockPool;

// Blocks set aside, returned by the destructor unless moved into a table. Thread: engine.
class Reservation {
 public:
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&&) = delete;
  Reservation(const Reservation&) = delete;
  ~Reservation();
  int32_t count(uint32_t group) const { return static_cast<int32_t>(blocks_[group].size()); }
  // Appends all blocks of the table's group to `table`.
  void MoveTo(BlockTable& table);

 private:
  friend class BlockPool;
  explicit Reservation(BlockPool* pool) : pool_(pool) {}
  BlockPool* pool_;
  std::vector<std::vector<BlockId>> blocks_;  // by group
};

// An interned prefix namespace: equal keys, equal ids, while anyone holds or published under it.
using NamespaceId = StrongId<struct NamespaceTag, uint32_t>;

// Thread: engine.
class BlockPool {
 public:
  explicit BlockPool(const PoolConfig& config);
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  // `counts[g]` fresh blocks of each group, evicting cached ones (least recently used leaf first),
  // or nullopt and no change at all.
  std::optional<Reservation> Reserve(std::span<const int32_t> counts);

  // Appends `blocks` to `table`, one more reference each. REQUIRES: they were in a Lookup or a live
  // table or are pinned, and are the whole prefix of `table` (which is empty).
  void Share(BlockTable& table, std::span<const BlockId> blocks);

  // Enters the full blocks of `verified` (the tokens from position 0 whose KV an applied step
  // wrote) into the index. `tables`: one sequence's, by group. Where an equal chain of another
  // sequence is there already, only companions that it lacks are entered.
  void Publish(std::span<BlockTable> tables, NamespaceId space, std::span<const TokenId> verified);
  // Whether Publish has something to do once the first `full` blocks are full of verified tokens.
  bool WantsPublish(std::span<const BlockTable> tables, int32_t full) const;

  // The longest prefix of `tokens`, at most `blocks_max` long, of which every group has what the
  // next token sees. Pure.
  PrefixHit Lookup(NamespaceId space, std::span<const TokenId> tokens, int32_t blocks_max) const;

  // A lease that keeps a block from being reused without being in a table (source of a copy). The
  // whole chain from position 0 is pinned at once. `after_step`: as for Release.
  void Pin(std::span<const BlockId> blocks, uint32_t group = 0);
  void Unpin(std::span<const BlockId> blocks, StepId after_step, uint32_t group = 0);

  // Drops the table's references and empties it. Blocks that nobody else holds can be handed out
  // once every step up to `after_step` has completed.
  void Release(BlockTable& table, StepId after_step);
  // The same for the first `count` entries alone, which become null: the window has left them.
  void ReleaseFront(BlockTable& table, int32_t count, StepId after_step);
  // Steps up to `step` have been applied.
  void Complete(StepId step);

  // Every distinct `key` is a namespace of its own; hold it while tables publish or look up in it.
  NamespaceId OpenNamespace(std::string_view key);
  void CloseNamespace(NamespaceId space);

  const PoolStats& Stats(uint32_t group = 0) const;
  // Of `blocks`, how many nobody holds (they count as available until shared).
  int32_t CountUnheld(std::span<const BlockId> blocks, uint32_t group = 0) const;
  // Of `blocks`, how many are held by pins alone.
  int32_t CountPinnedOnly(std::span<const BlockId> blocks, uint32_t group = 0) const;
  // Empty, or what is broken. `tables`: all live tables. Pure.
  std::string CheckInvariants(std::span<const BlockTable* const> tables) const;
  // Of everything that later calls can see; step ids enter relative to the last completed one.
  uint64_t Fingerprint() const;
  // What a table knows beside its entries.
  uint64_t Fingerprint(const BlockTable& table) const;

 private:
  friend class Reservation;
  class Group;
  class Namespaces;
  int32_t LongestSeen(std::span<const BlockId> chain) const;

  static constexpr uint32_t kNone = UINT32_MAX;
  StepId completed_;
  uint32_t spine_ = kNone;  // the group of the index
  std::vector<std::unique_ptr<Group>> groups_;
  std::unique_ptr<Namespaces> namespaces_;
};

}  // namespace millrace::paged_kv
