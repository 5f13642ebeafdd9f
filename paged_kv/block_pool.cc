#include "paged_kv/block_pool.h"

#include <algorithm>

#include "base/check.h"
#include "paged_kv/block_group.h"

namespace millrace::paged_kv {

Reservation::Reservation(Reservation&& other) noexcept
    : pool_(other.pool_), blocks_(std::move(other.blocks_)) {
  other.blocks_.clear();
}

Reservation::~Reservation() {
  for (size_t g = 0; g < blocks_.size(); ++g) pool_->groups_[g]->Unreserve(blocks_[g]);
}

void Reservation::MoveTo(BlockTable& table) {
  std::vector<BlockId>& blocks = blocks_[table.group()];
  for (const BlockId id : blocks) {
    pool_->groups_[table.group()]->Activate(id);
    table.blocks_.push_back(id);
  }
  blocks.clear();
}

BlockPool::BlockPool(const PoolConfig& config) : namespaces_(std::make_unique<Namespaces>()) {
  const auto count = static_cast<uint32_t>(config.groups.size());
  groups_.resize(count);
  for (uint32_t g = count; g-- > 0;) {
    if (config.groups[g].window == 0) spine_ = g;
  }
  if (spine_ != kNone) {
    groups_[spine_] = std::make_unique<Group>(config, spine_, namespaces_.get(), nullptr);
  }
  for (uint32_t g = 0; g < count; ++g) {
    if (g == spine_) continue;
    Group* const spine = spine_ == kNone ? nullptr : groups_[spine_].get();
    groups_[g] = std::make_unique<Group>(config, g, nullptr, spine);
  }
}

BlockPool::~BlockPool() = default;

std::optional<Reservation> BlockPool::Reserve(std::span<const int32_t> counts) {
  CHECK(counts.size() == groups_.size());
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (!groups_[g]->CanReserve(counts[g])) return std::nullopt;
  }
  Reservation reservation(this);
  reservation.blocks_.resize(groups_.size());
  for (size_t g = 0; g < groups_.size(); ++g) {
    groups_[g]->Reserve(counts[g], reservation.blocks_[g]);
  }
  return reservation;
}

void BlockPool::Share(BlockTable& table, std::span<const BlockId> blocks) {
  CHECK(table.empty());
  groups_[table.group()]->AddRefs(blocks);
  table.blocks_.assign(blocks.begin(), blocks.end());
  while (table.nulls_ < table.size() && table[table.nulls_] == kNullBlock) ++table.nulls_;
}

void BlockPool::Publish(std::span<BlockTable> tables, NamespaceId space,
                        std::span<const TokenId> verified) {
  CHECK(tables.size() == groups_.size());
  if (spine_ == kNone) return;
  BlockTable& chain = tables[spine_];
  Group& spine = *groups_[spine_];
  const auto full = static_cast<int32_t>(verified.size()) / spine.block_tokens();
  for (int32_t i = chain.published_; i < full && !chain.publish_stopped_; ++i) {
    const uint32_t node = spine.PublishEntry(chain, i, space, verified);
    chain.publish_stopped_ = node == 0;
    if (node == 0) return;
    chain.published_ = i + 1;
    for (uint32_t g = 0; g < groups_.size(); ++g) {
      if (g != spine_) groups_[g]->Attach(tables[g], i, node);
    }
  }
}

bool BlockPool::WantsPublish(std::span<const BlockTable> tables, int32_t full) const {
  return spine_ != kNone && full > tables[spine_].published_ && !tables[spine_].publish_stopped_;
}

PrefixHit BlockPool::Lookup(NamespaceId space, std::span<const TokenId> tokens,
                            int32_t blocks_max) const {
  PrefixHit hit;
  hit.tables.resize(groups_.size());
  if (spine_ == kNone) return hit;
  std::vector<BlockId> chain = groups_[spine_]->Chain(space, tokens, blocks_max);
  hit.blocks = static_cast<int32_t>(chain.size());
  if (groups_.size() > 1) hit.blocks = LongestSeen(chain);
  chain.resize(static_cast<size_t>(hit.blocks));
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    if (g == spine_) continue;
    const int32_t first = groups_[g]->FirstSeenAfter(hit.blocks);
    for (int32_t i = 0; i < hit.blocks; ++i) {
      const BlockId node = chain[static_cast<size_t>(i)];
      hit.tables[g].push_back(i < first ? kNullBlock : groups_[g]->CompanionOf(node));
    }
  }
  hit.tables[spine_] = std::move(chain);
  return hit;
}

// Of the lengths for which each group has the companions that the next token sees, the largest.
int32_t BlockPool::LongestSeen(std::span<const BlockId> chain) const {
  std::vector<int32_t> run(groups_.size());  // companions without a gap, up to the last block
  int32_t longest = 0;
  for (int32_t blocks = 1; blocks <= static_cast<int32_t>(chain.size()); ++blocks) {
    bool all = true;
    for (uint32_t g = 0; g < groups_.size(); ++g) {
      if (g == spine_) continue;
      const BlockId node = chain[static_cast<size_t>(blocks) - 1];
      run[g] = groups_[g]->CompanionOf(node) == kNullBlock ? 0 : run[g] + 1;
      all = all && run[g] >= blocks - groups_[g]->FirstSeenAfter(blocks);
    }
    if (all) longest = blocks;
  }
  return longest;
}

void BlockPool::Pin(std::span<const BlockId> blocks, uint32_t group) {
  groups_[group]->AddPins(blocks);
}

void BlockPool::Unpin(std::span<const BlockId> blocks, StepId after_step, uint32_t group) {
  groups_[group]->DropPins(blocks, after_step, completed_);
}

void BlockPool::Release(BlockTable& table, StepId after_step) {
  groups_[table.group()]->DropRefs(table.blocks_, after_step, completed_);
  table.blocks_.clear();
  table.nulls_ = table.published_ = 0;
  table.publish_stopped_ = table.private_ = false;
  table.foreign_ = table.foreign_generation_ = 0;
}

void BlockPool::ReleaseFront(BlockTable& table, int32_t count, StepId after_step) {
  CHECK(count <= table.size());
  if (count <= table.nulls_) return;
  const std::span<BlockId> front = std::span<BlockId>(table.blocks_)
                                       .first(static_cast<size_t>(count))
                                       .subspan(static_cast<size_t>(table.nulls_));
  groups_[table.group()]->DropRefs(front, after_step, completed_);
  std::fill(front.begin(), front.end(), kNullBlock);
  table.nulls_ = count;
}

void BlockPool::Complete(StepId step) {
  CHECK(step >= completed_);
  completed_ = step;
  for (const auto& group : groups_) group->Complete(step);
}

NamespaceId BlockPool::OpenNamespace(std::string_view key) {
  return namespaces_->Open(key);
}

void BlockPool::CloseNamespace(NamespaceId space) {
  namespaces_->DropUse(space);
}

const PoolStats& BlockPool::Stats(uint32_t group) const {
  return groups_[group]->stats();
}

int32_t BlockPool::CountUnheld(std::span<const BlockId> blocks, uint32_t group) const {
  return groups_[group]->CountUnheld(blocks);
}

int32_t BlockPool::CountPinnedOnly(std::span<const BlockId> blocks, uint32_t group) const {
  return groups_[group]->CountPinnedOnly(blocks);
}

std::string BlockPool::CheckInvariants(std::span<const BlockTable* const> tables) const {
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    std::string broken = groups_[g]->CheckInvariants(tables, g);
    if (!broken.empty()) return broken;
  }
  return "";
}

uint64_t BlockPool::Fingerprint() const {
  uint64_t value = 0;
  for (const auto& group : groups_) {
    value = value * 0x9e3779b97f4a7c15ULL + group->Fingerprint(completed_);
  }
  return value;
}

uint64_t BlockPool::Fingerprint(const BlockTable& table) const {
  const bool passed = table.group() == spine_ && table.foreign_ != 0 &&
                      groups_[spine_]->StillThere(table.foreign_, table.foreign_generation_);
  return uint64_t{passed ? table.foreign_ : 0} * 8 + (table.foreign_ != 0 ? 4u : 0u) +
         (table.publish_stopped_ ? 2u : 0u) + (table.private_ ? 1u : 0u);
}

}  // namespace millrace::paged_kv
