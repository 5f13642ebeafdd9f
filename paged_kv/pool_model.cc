#include "paged_kv/pool_model.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

namespace millrace::paged_kv {
namespace {

Hash128 Collide(Hash128, std::span<const TokenId>) {
  return {7, 7};
}

}  // namespace

PoolModel::PoolModel(Choose choose, bool colliding) : choose_(std::move(choose)) {
  block_tokens_ = 1 + static_cast<int32_t>(choose_(3));
  blocks_ = 1 + static_cast<int32_t>(choose_(12));
  PoolConfig config;
  config.groups.push_back({blocks_, block_tokens_});
  if (colliding) config.hash = &Collide;
  pool_ = std::make_unique<BlockPool>(config);
  spaces_.push_back(pool_->OpenNamespace("one"));
  spaces_.push_back(pool_->OpenNamespace("two"));
  for (int32_t id = 1; id <= blocks_; ++id) shadow_[static_cast<uint32_t>(id)];
}

bool PoolModel::IsFree(const Shadow& block) const {
  return block.refs == 0 && block.pins == 0 && !block.pending && !block.published.has_value();
}
bool PoolModel::IsCached(const Shadow& block) const {
  return block.refs == 0 && block.pins == 0 && !block.pending && block.published.has_value();
}
int32_t PoolModel::Count(bool cached) const {
  int32_t count = 0;
  for (const auto& entry : shadow_) {
    count += cached ? IsCached(entry.second) : IsFree(entry.second);
  }
  return count;
}

// What nobody holds leaves PENDING when its fence has passed.
void PoolModel::Settle() {
  for (auto& entry : shadow_) {
    Shadow& block = entry.second;
    const bool held = block.refs > 0 || block.pins > 0;
    block.pending = !held && block.fence > completed_;
    if (held) continue;
    if (!block.pending) block.fence = 0;
  }
}

// The least recently used cached block that is no prefix of another one, until enough are free.
void PoolModel::Evict(int32_t free_wanted) {
  while (Count(false) < free_wanted) {
    Shadow* oldest = nullptr;
    for (auto& entry : shadow_) {
      Shadow& block = entry.second;
      if (!IsCached(block)) continue;
      const Prefix& mine = *block.published;
      const bool leaf = std::none_of(shadow_.begin(), shadow_.end(), [&](const auto& other) {
        if (!other.second.published || other.second.published->first != mine.first) return false;
        const std::vector<TokenId>& longer = other.second.published->second;
        return longer.size() > mine.second.size() &&
               std::equal(mine.second.begin(), mine.second.end(), longer.begin());
      });
      if (leaf && (oldest == nullptr || block.stamp < oldest->stamp)) oldest = &block;
    }
    oldest->published.reset();
  }
}

std::vector<BlockId> PoolModel::NaiveLookup(uint32_t space,
                                            const std::vector<TokenId>& tokens) const {
  std::vector<BlockId> chain;
  for (size_t end = static_cast<size_t>(block_tokens_); end <= tokens.size();
       end += static_cast<size_t>(block_tokens_)) {
    const Prefix wanted(space, {tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(end)});
    const auto found = std::find_if(shadow_.begin(), shadow_.end(), [&](const auto& entry) {
      return entry.second.published == wanted;
    });
    if (found == shadow_.end()) break;
    chain.push_back(BlockId(found->first));
  }
  return chain;
}

std::vector<TokenId> PoolModel::DrawTokens(uint32_t blocks) {
  std::vector<TokenId> tokens(blocks * static_cast<uint32_t>(block_tokens_), 0);
  // Two values in two places: many prefixes in common, every length of them.
  tokens[choose_(static_cast<uint32_t>(tokens.size()))] = static_cast<TokenId>(choose_(2));
  tokens.back() = static_cast<TokenId>(choose_(2));
  return tokens;
}

// A new holder: as much as possible from the index, the rest fresh.
std::string PoolModel::Take() {
  const uint32_t space = choose_(2);
  const uint32_t length = 1 + choose_(5);
  Holder holder;
  holder.space = space;
  holder.tokens = DrawTokens(length);
  holder.last_step = step_;
  std::string broken = CheckLookup(space, holder.tokens);
  if (!broken.empty()) return broken;
  const std::vector<BlockId> hit =
      pool_->Lookup(spaces_[space], holder.tokens, static_cast<int32_t>(length));
  const auto fresh = static_cast<int32_t>(length) - static_cast<int32_t>(hit.size());
  const int32_t room = Count(false) + Count(true) - pool_->CountUnheld(hit);
  pool_->Share(holder.table, hit);
  for (const BlockId id : hit) ++shadow_[id.value()].refs;
  hits_ += static_cast<int64_t>(hit.size());
  Settle();
  const uint64_t before = pool_->Fingerprint();
  const std::array<int32_t, 1> counts = {fresh};
  std::optional<Reservation> reserved = pool_->Reserve(counts);
  if (reserved.has_value() != (fresh <= room)) return "Reserve and the model differ on room";
  if (!reserved.has_value()) {
    if (pool_->Fingerprint() != before) return "a refused reservation left a trace";
    holders_.push_back(std::move(holder));
    return ReleaseOne(holders_.size() - 1);
  }
  Evict(fresh);
  if (choose_(6) == 0) {
    reserved.reset();  // unused: comes back by itself
    holders_.push_back(std::move(holder));
    return ReleaseOne(holders_.size() - 1);
  }
  reserved->MoveTo(holder.table);
  for (size_t i = hit.size(); i < length; ++i) {
    Shadow& block = shadow_[holder.table[static_cast<int32_t>(i)].value()];
    if (!IsFree(block)) return "handed out a block that was not free (S4)";
    block.refs = 1;
    block.fence = 0;
  }
  holders_.push_back(std::move(holder));
  return "";
}

std::string PoolModel::PublishSome() {
  if (holders_.empty()) return "";
  Holder& holder = holders_[choose_(static_cast<uint32_t>(holders_.size()))];
  const uint32_t verified = choose_(static_cast<uint32_t>(holder.tokens.size()) + 1);
  const auto whole = static_cast<int32_t>(verified) / block_tokens_;
  // Ours enter one after another until an equal block of someone else is there.
  for (int32_t i = 0; i < whole && i < holder.table.size(); ++i) {
    const auto end = static_cast<ptrdiff_t>((i + 1) * block_tokens_);
    const Prefix prefix(holder.space, {holder.tokens.begin(), holder.tokens.begin() + end});
    Shadow& block = shadow_[holder.table[i].value()];
    if (block.published == prefix) continue;
    const bool taken = std::any_of(shadow_.begin(), shadow_.end(), [&](const auto& entry) {
      return entry.second.published == prefix;
    });
    if (taken || !holder.table.WantsPublish(i + 1)) break;
    block.published = prefix;
  }
  const auto count = static_cast<size_t>(std::min(whole, holder.table.size()) * block_tokens_);
  pool_->Publish(holder.table, spaces_[holder.space],
                 std::span<const TokenId>(holder.tokens).first(count));
  return "";
}

std::string PoolModel::ReleaseOne(size_t at) {
  Holder& holder = holders_[at];
  ++clock_;
  for (const BlockId id : holder.table.blocks()) {
    Shadow& block = shadow_[id.value()];
    --block.refs;
    block.fence = std::max(block.fence, holder.last_step);
    block.stamp = clock_;
  }
  pool_->Release(holder.table, StepId(holder.last_step));
  if (!holder.table.empty()) return "a released table is not empty";
  holders_.erase(holders_.begin() + static_cast<ptrdiff_t>(at));
  Settle();
  return "";
}

std::string PoolModel::PinOne() {
  if (holders_.empty() || leases_.size() > 3) return "";
  const Holder& holder = holders_[choose_(static_cast<uint32_t>(holders_.size()))];
  const uint32_t count = choose_(static_cast<uint32_t>(holder.table.size()) + 1);
  Lease lease;
  for (uint32_t i = 0; i < count; ++i)
    lease.blocks.push_back(holder.table[static_cast<int32_t>(i)]);
  pool_->Pin(lease.blocks);
  for (const BlockId id : lease.blocks) ++shadow_[id.value()].pins;
  leases_.push_back(std::move(lease));
  return "";
}

std::string PoolModel::UnpinOne(size_t at) {
  ++clock_;
  for (const BlockId id : leases_[at].blocks) {
    Shadow& block = shadow_[id.value()];
    block.fence = std::max(block.fence, step_);
    if (--block.pins == 0 && block.refs == 0) block.stamp = clock_;
  }
  pool_->Unpin(leases_[at].blocks, StepId(step_));
  leases_.erase(leases_.begin() + static_cast<ptrdiff_t>(at));
  Settle();
  return "";
}

std::string PoolModel::CheckLookup(uint32_t space, const std::vector<TokenId>& tokens) {
  const std::vector<BlockId> expected = NaiveLookup(space, tokens);
  const auto most = static_cast<int32_t>(tokens.size());
  if (pool_->Lookup(spaces_[space], tokens, most) != expected) return "another hit than the model";
  return "";
}

std::string PoolModel::Act() {
  std::string broken;
  const uint32_t what = choose_(16);
  if (what < 5) {
    broken = Take();
  } else if (what < 9) {
    broken = PublishSome();
  } else if (what < 12) {
    if (!holders_.empty()) broken = ReleaseOne(choose_(static_cast<uint32_t>(holders_.size())));
  } else if (what < 13) {
    broken = PinOne();
  } else if (what < 14) {
    if (!leases_.empty()) broken = UnpinOne(choose_(static_cast<uint32_t>(leases_.size())));
  } else if (what < 15) {
    ++step_;
    for (Holder& holder : holders_) {
      if (choose_(2) == 0) holder.last_step = step_;
    }
  } else {
    completed_ += choose_(static_cast<uint32_t>(step_ - completed_) + 1);
    pool_->Complete(StepId(completed_));
    Settle();
  }
  return broken.empty() ? Check() : broken;
}

std::string PoolModel::Check() {
  std::vector<const BlockTable*> tables;
  for (const Holder& holder : holders_) tables.push_back(&holder.table);
  std::string broken = pool_->CheckInvariants(tables);
  if (!broken.empty()) return broken;
  const PoolStats& stats = pool_->Stats();
  if (stats.free != Count(false) || stats.cached != Count(true)) return "counts differ";
  int32_t pending = 0;
  for (const auto& entry : shadow_) pending += entry.second.pending;
  if (stats.pending != pending) return "pending differs";
  return CheckLookup(choose_(2), DrawTokens(1 + choose_(5)));
}

std::string PoolModel::Finish() {
  while (!leases_.empty()) UnpinOne(leases_.size() - 1);
  while (!holders_.empty()) ReleaseOne(holders_.size() - 1);
  completed_ = step_;
  pool_->Complete(StepId(completed_));
  Settle();
  const PoolStats& stats = pool_->Stats();
  if (stats.available() != stats.total) return "blocks leak";
  return Check();
}

}  // namespace millrace::paged_kv
