#include "paged_kv/block_group.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace millrace::paged_kv {

NamespaceId BlockPool::Namespaces::Open(std::string_view key) {
  const auto found = ids_.find(std::string(key));
  if (found != ids_.end()) {
    ++entries_[found->second].uses;
    return NamespaceId(found->second);
  }
  uint32_t id = static_cast<uint32_t>(entries_.size());
  if (unused_.empty()) {
    entries_.emplace_back();
  } else {
    id = unused_.back();
    unused_.pop_back();
  }
  entries_[id] = {std::string(key), MixBytes({}, key), 1};
  ids_.emplace(std::string(key), id);
  return NamespaceId(id);
}

void BlockPool::Namespaces::DropUse(NamespaceId space) {
  Entry& entry = entries_[space.value()];
  CHECK(entry.uses > 0);
  if (--entry.uses > 0) return;
  ids_.erase(entry.key);
  entry.key.clear();
  unused_.push_back(space.value());
}

BlockPool::Group::Group(const PoolConfig& config, uint32_t group, Namespaces* namespaces,
                        Group* spine)
    : block_tokens_(config.groups[group].block_tokens),
      window_(config.groups[group].window),
      hash_(config.hash),
      namespaces_(namespaces),
      spine_(spine),
      blocks_(static_cast<size_t>(config.groups[group].blocks) + 1),
      free_(static_cast<uint32_t>(config.groups[group].blocks)),
      leaves_(static_cast<uint32_t>(config.groups[group].blocks)) {
  const int32_t blocks = config.groups[group].blocks;
  CHECK(block_tokens_ > 0 && blocks >= 0 && window_ >= 0);
  if (namespaces != nullptr) {
    tokens_.resize(blocks_.size() * static_cast<size_t>(block_tokens_));
    buckets_.resize(std::bit_ceil(blocks_.size() * 2));
  } else if (spine != nullptr) {
    CHECK(spine->block_tokens_ == block_tokens_);
    by_node_.resize(spine->blocks_.size());
    spine->companions_.push_back(this);
  }
  for (uint32_t id = 1; id < blocks_.size(); ++id) free_.Insert(id);
  stats_.total = stats_.free = blocks;
}

int32_t& BlockPool::Group::Count(BlockState state) {
  switch (state) {
    case BlockState::kFree:
      return stats_.free;
    case BlockState::kActive:
      return stats_.active;
    case BlockState::kCached:
      return stats_.cached;
    case BlockState::kPending:
      break;
  }
  return stats_.pending;
}

void BlockPool::Group::Reserve(int32_t count, std::vector<BlockId>& out) {
  CHECK(CanReserve(count));
  while (stats_.free < count) Evict();
  for (int32_t i = 0; i < count; ++i) {
    const uint32_t id = free_.TakeLowest();
    Block& block = blocks_[id];
    DCHECK(block.state == BlockState::kFree && block.refs == 0 && block.pins == 0);
    block.state = BlockState::kActive;
    block.reserved = true;
    out.push_back(BlockId(id));
  }
  stats_.free -= count;
  stats_.active += count;
}

void BlockPool::Group::Unreserve(std::span<const BlockId> blocks) {
  for (const BlockId id : blocks) {
    Block& block = blocks_[id.value()];
    CHECK(block.reserved && block.refs == 0);
    block.reserved = false;
    Settle(id.value());
  }
}

void BlockPool::Group::Activate(BlockId id) {
  Block& block = blocks_[id.value()];
  CHECK(block.reserved && block.refs == 0);
  block.reserved = false;
  block.refs = 1;
  block.fence = StepId(0);
}

void BlockPool::Group::Hold(uint32_t id) {
  Block& block = blocks_[id];
  --Count(block.state);
  leaves_.Erase(id);
  block.state = BlockState::kActive;
  ++stats_.active;
}

void BlockPool::Group::AddRefs(std::span<const BlockId> blocks) {
  for (const BlockId id : blocks) {
    if (id == kNullBlock) continue;
    Block& block = blocks_[id.value()];
    CHECK(block.state != BlockState::kFree && !block.reserved);
    if (block.state != BlockState::kActive) Hold(id.value());
    if (block.refs == 0 && block.pins > 0) --stats_.pinned;
    ++block.refs;
  }
}

void BlockPool::Group::AddPins(std::span<const BlockId> blocks) {
  for (const BlockId id : blocks) {
    if (id == kNullBlock) continue;
    Block& block = blocks_[id.value()];
    CHECK(block.state != BlockState::kFree && !block.reserved);
    if (block.state != BlockState::kActive) Hold(id.value());
    if (block.refs == 0 && block.pins == 0) ++stats_.pinned;
    ++block.pins;
  }
}

// Last blocks first: within one release the deepest are the oldest, though the heap of leaves alone
// already keeps children before parents.
void BlockPool::Group::DropRefs(std::span<const BlockId> blocks, StepId after_step,
                                StepId completed) {
  ++clock_;
  for (size_t i = blocks.size(); i-- > 0;) {
    const uint32_t id = blocks[i].value();
    if (id == 0) continue;
    Block& block = blocks_[id];
    CHECK(block.refs > 0);
    block.fence = std::max(block.fence, after_step);
    block.stamp = clock_;
    if (--block.refs > 0) continue;
    if (block.pins > 0) {
      ++stats_.pinned;
    } else {
      Give(id, block.fence, completed);
    }
  }
}

void BlockPool::Group::DropPins(std::span<const BlockId> blocks, StepId after_step,
                                StepId completed) {
  ++clock_;
  for (size_t i = blocks.size(); i-- > 0;) {
    const uint32_t id = blocks[i].value();
    if (id == 0) continue;
    Block& block = blocks_[id];
    CHECK(block.pins > 0);
    block.fence = std::max(block.fence, after_step);
    if (--block.pins > 0 || block.refs > 0) continue;
    --stats_.pinned;
    block.stamp = clock_;
    Give(id, block.fence, completed);
  }
}

void BlockPool::Group::Give(uint32_t id, StepId after_step, StepId completed) {
  if (after_step <= completed) {
    Settle(id);
    return;
  }
  blocks_[id].state = BlockState::kPending;
  --stats_.active;
  ++stats_.pending;
  pending_.push_back({after_step, id});
}

void BlockPool::Group::Settle(uint32_t id) {
  Block& block = blocks_[id];
  --Count(block.state);
  block.fence = StepId(0);
  if (block.published) {
    block.state = BlockState::kCached;
    ++stats_.cached;
    if (block.children == 0) leaves_.Push(id, block.stamp);
  } else {
    block.state = BlockState::kFree;
    block.stamp = 0;
    ++stats_.free;
    free_.Insert(id);
  }
}

// Entries are only roughly ordered by fence, and a block that was shared while PENDING may come
// again with a later one: an entry counts only while its block still waits for that very fence.
void BlockPool::Group::Complete(StepId step) {
  if (pending_.empty()) return;
  size_t kept = 0;
  for (size_t i = 0; i < pending_.size(); ++i) {
    const Pending entry = pending_[i];
    const Block& block = blocks_[entry.block];
    const bool current = block.state == BlockState::kPending && block.fence == entry.fence;
    if (!current) continue;
    if (entry.fence <= step) {
      Settle(entry.block);
    } else {
      pending_[kept++] = entry;
    }
  }
  pending_.resize(kept);
}

std::span<const TokenId> BlockPool::Group::TokensOf(uint32_t id) const {
  return std::span<const TokenId>(tokens_).subspan(
      static_cast<size_t>(id) * static_cast<size_t>(block_tokens_),
      static_cast<size_t>(block_tokens_));
}

BlockPool::Group::Key BlockPool::Group::MakeKey(uint32_t parent, NamespaceId space,
                                                std::span<const TokenId> tokens) const {
  const Hash128 above = parent == 0 ? namespaces_->hash(space) : blocks_[parent].hash;
  return {parent, space, hash_(above, tokens), tokens};
}

// The parent's id stands for everything above: a parent cannot leave the index before its children.
uint32_t BlockPool::Group::Find(const Key& key) const {
  for (uint32_t id = buckets_[key.hash.lo & (buckets_.size() - 1)]; id != 0;
       id = blocks_[id].next) {
    const Block& block = blocks_[id];
    if (!(block.hash == key.hash) || block.parent != key.parent) continue;
    if (key.parent == 0 && block.space != key.space) continue;
    if (std::ranges::equal(TokensOf(id), key.tokens)) return id;
  }
  return 0;
}

void BlockPool::Group::Insert(uint32_t id, const Key& key) {
  Block& block = blocks_[id];
  block.published = true;
  block.parent = key.parent;
  block.space = key.space;
  block.hash = key.hash;
  block.next = Bucket(key.hash);
  Bucket(key.hash) = id;
  std::ranges::copy(key.tokens, tokens_.begin() + static_cast<ptrdiff_t>(id) * block_tokens_);
  if (key.parent == 0) {
    namespaces_->AddUse(key.space);
  } else {
    ++blocks_[key.parent].children;
  }
}

// Its tokens can no longer be told. Who still holds it, keeps it.
void BlockPool::Group::UnpublishCompanion(uint32_t id) {
  Block& block = blocks_[id];
  by_node_[block.parent] = 0;
  block.parent = 0;
  block.published = false;
}

void BlockPool::Group::Unpublish(uint32_t id) {
  if (spine_ != nullptr) return UnpublishCompanion(id);
  for (Group* group : companions_) {
    const uint32_t companion = group->by_node_[id];
    if (companion == 0) continue;
    group->UnpublishCompanion(companion);
    if (group->blocks_[companion].state != BlockState::kCached) continue;
    group->leaves_.Erase(companion);
    group->Settle(companion);
  }
  ++blocks_[id].generation;
  Block& block = blocks_[id];
  CHECK(block.published && block.children == 0);
  uint32_t* link = &Bucket(block.hash);
  while (*link != id) link = &blocks_[*link].next;
  *link = block.next;
  const uint32_t parent = block.parent;
  if (parent == 0) namespaces_->DropUse(block.space);
  block.published = false;
  block.parent = block.next = 0;
  block.space = NamespaceId(0);
  block.hash = {};
  if (parent == 0) return;
  Block& above = blocks_[parent];
  if (--above.children == 0 && above.state == BlockState::kCached) {
    leaves_.Push(parent, above.stamp);
  }
}

void BlockPool::Group::Evict() {
  CHECK(!leaves_.empty());  // else a CACHED block has a held descendant: a broken invariant
  const uint32_t id = leaves_.Oldest();
  leaves_.Erase(id);
  Unpublish(id);
  ++stats_.evictions;
  Settle(id);
}

uint32_t BlockPool::Group::PublishEntry(BlockTable& table, int32_t i, NamespaceId space,
                                        std::span<const TokenId> verified) {
  const uint32_t id = table[i].value();
  const bool ours = table.foreign_ == 0;
  if (ours && blocks_[id].published) return id;
  if (!ours && !StillThere(table.foreign_, table.foreign_generation_)) return 0;
  const uint32_t parent = !ours ? table.foreign_ : i == 0 ? 0 : table[i - 1].value();
  const auto step = static_cast<size_t>(block_tokens_);
  const Key key = MakeKey(parent, space, verified.subspan(static_cast<size_t>(i) * step, step));
  const uint32_t found = Find(key);
  if (found == 0) {
    if (ours) Insert(id, key);
    return ours ? id : 0;
  }
  if (companions_.empty()) return 0;
  table.foreign_ = found;
  table.foreign_generation_ = blocks_[found].generation;
  return found;
}

void BlockPool::Group::Attach(const BlockTable& table, int32_t i, uint32_t node) {
  const uint32_t id = table[i].value();
  if (table.private_ || id == 0 || blocks_[id].published || by_node_[node] != 0) return;
  blocks_[id].published = true;
  blocks_[id].parent = node;
  by_node_[node] = id;
}

std::vector<BlockId> BlockPool::Group::Chain(NamespaceId space, std::span<const TokenId> tokens,
                                             int32_t blocks_max) const {
  std::vector<BlockId> chain;
  const auto step = static_cast<size_t>(block_tokens_);
  const size_t most = std::min<size_t>(static_cast<size_t>(blocks_max), tokens.size() / step);
  uint32_t parent = 0;
  for (size_t i = 0; i < most; ++i) {
    parent = Find(MakeKey(parent, space, tokens.subspan(i * step, step)));
    if (parent == 0) break;
    chain.push_back(BlockId(parent));
  }
  return chain;
}

int32_t BlockPool::Group::CountUnheld(std::span<const BlockId> blocks) const {
  int32_t count = 0;
  for (const BlockId id : blocks) count += blocks_[id.value()].state == BlockState::kCached;
  return count;
}

int32_t BlockPool::Group::CountPinnedOnly(std::span<const BlockId> blocks) const {
  int32_t count = 0;
  for (const BlockId id : blocks) {
    count += blocks_[id.value()].refs == 0 && blocks_[id.value()].pins > 0;
  }
  return count;
}

}  // namespace millrace::paged_kv
