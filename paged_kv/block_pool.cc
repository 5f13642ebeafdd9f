#include "paged_kv/block_pool.h"

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
  for (const GroupConfig& group : config.groups) {
    groups_.push_back(std::make_unique<Group>(group, config.hash, namespaces_.get()));
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
}

void BlockPool::Publish(BlockTable& table, NamespaceId space, std::span<const TokenId> verified) {
  groups_[table.group()]->Publish(table, space, verified);
}

std::vector<BlockId> BlockPool::Lookup(NamespaceId space, std::span<const TokenId> tokens,
                                       int32_t blocks_max, uint32_t group) const {
  return groups_[group]->Lookup(space, tokens, blocks_max);
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
  table.published_ = 0;
  table.publish_stopped_ = false;
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

}  // namespace millrace::paged_kv
