#include "paged_kv/pool_model.h"

#include <algorithm>
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
  const uint32_t count = choose_(2) == 0 ? 1 : 1 + choose_(3);
  for (uint32_t g = 0; g < count; ++g) {
    const auto blocks = 1 + static_cast<int32_t>(choose_(12));
    const bool local = count > 1 && choose_(3) != 0;
    const int32_t window = local ? 1 + static_cast<int32_t>(choose_(8)) : 0;
    groups_.push_back({blocks, block_tokens_, window});
    if (!local && !spine_.has_value()) spine_ = g;
    Shadows& shadows = shadow_.emplace_back();
    for (int32_t id = 1; id <= blocks; ++id) shadows[static_cast<uint32_t>(id)];
  }
  PoolConfig config;
  config.groups = groups_;
  if (colliding) config.hash = &Collide;
  pool_ = std::make_unique<BlockPool>(config);
  spaces_.push_back(pool_->OpenNamespace("one"));
  spaces_.push_back(pool_->OpenNamespace("two"));
}

int64_t PoolModel::evictions() const {
  int64_t sum = 0;
  for (uint32_t g = 0; g < groups_.size(); ++g) sum += pool_->Stats(g).evictions;
  return sum;
}

bool PoolModel::IsFree(const Shadow& block) const {
  return block.refs == 0 && block.pins == 0 && !block.pending && !block.published.has_value();
}
bool PoolModel::IsCached(const Shadow& block) const {
  return block.refs == 0 && block.pins == 0 && !block.pending && block.published.has_value();
}
int32_t PoolModel::Count(uint32_t group, bool cached) const {
  int32_t count = 0;
  for (const auto& entry : shadow_[group]) {
    count += cached ? IsCached(entry.second) : IsFree(entry.second);
  }
  return count;
}

// What nobody holds leaves PENDING when its fence has passed.
void PoolModel::Settle() {
  for (Shadows& shadows : shadow_) {
    for (auto& entry : shadows) {
      Shadow& block = entry.second;
      const bool held = block.refs > 0 || block.pins > 0;
      block.pending = !held && block.fence > completed_;
      if (held) continue;
      if (!block.pending) block.fence = 0;
    }
  }
}

// Of the spine: no longer prefix is in the index. Elsewhere blocks do not depend on one another.
bool PoolModel::IsLeaf(uint32_t group, const Shadow& block) const {
  if (group != spine_) return true;
  const Prefix& mine = *block.published;
  return std::none_of(shadow_[group].begin(), shadow_[group].end(), [&](const auto& other) {
    if (!other.second.published || other.second.published->first != mine.first) return false;
    const std::vector<TokenId>& longer = other.second.published->second;
    return longer.size() > mine.second.size() &&
           std::equal(mine.second.begin(), mine.second.end(), longer.begin());
  });
}

// The least recently used cached leaf, until enough are free.
void PoolModel::Evict(uint32_t group, int32_t free_wanted) {
  while (Count(group, false) < free_wanted) {
    Shadow* oldest = nullptr;
    for (auto& entry : shadow_[group]) {
      Shadow& block = entry.second;
      if (!IsCached(block) || !IsLeaf(group, block)) continue;
      if (oldest == nullptr || block.stamp < oldest->stamp) oldest = &block;
    }
    const Prefix prefix = *oldest->published;
    oldest->published.reset();
    if (group != spine_) continue;
    for (uint32_t g = 0; g < groups_.size(); ++g) {
      Shadow* companion = Find(g, prefix);
      if (companion != nullptr) companion->published.reset();
    }
  }
}

PoolModel::Shadow* PoolModel::Find(uint32_t group, const Prefix& prefix) {
  const BlockId id = IdOf(group, prefix);
  return id == kNullBlock ? nullptr : &shadow_[group].at(id.value());
}

BlockId PoolModel::IdOf(uint32_t group, const Prefix& prefix) const {
  for (const auto& entry : shadow_[group]) {
    if (entry.second.published == prefix) return BlockId(entry.first);
  }
  return kNullBlock;
}

PoolModel::Prefix PoolModel::PrefixOf(const Holder& holder, int32_t i) const {
  const auto end = static_cast<ptrdiff_t>((i + 1) * block_tokens_);
  return {holder.space, {holder.tokens.begin(), holder.tokens.begin() + end}};
}

PoolModel::Found PoolModel::NaiveLookup(uint32_t space, const std::vector<TokenId>& tokens) const {
  Found found;
  found.tables.resize(groups_.size());
  if (!spine_.has_value()) return found;
  // Each length by itself.
  for (int32_t blocks = static_cast<int32_t>(tokens.size()) / block_tokens_; blocks > 0; --blocks) {
    bool all = true;
    for (uint32_t g = 0; g < groups_.size(); ++g) {
      found.tables[g].clear();
      const int32_t window = groups_[g].window;
      for (int32_t i = 0; i < blocks; ++i) {
        const int32_t end = (i + 1) * block_tokens_;
        const bool seen = window == 0 || end > blocks * block_tokens_ - window + 1;
        const Prefix prefix(space, {tokens.begin(), tokens.begin() + end});
        found.tables[g].push_back(seen ? IdOf(g, prefix) : kNullBlock);
        all = all && (!seen || found.tables[g].back() != kNullBlock);
      }
    }
    found.blocks = blocks;
    if (all) return found;
  }
  found.blocks = 0;
  for (std::vector<BlockId>& table : found.tables) table.clear();
  return found;
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
  const uint32_t length = 1 + choose_(5);
  Holder holder;
  holder.space = choose_(2);
  holder.tokens = DrawTokens(length);
  holder.last_step = step_;
  std::string broken = CheckLookup(holder.space, holder.tokens);
  if (!broken.empty()) return broken;
  const PrefixHit hit =
      pool_->Lookup(spaces_[holder.space], holder.tokens, static_cast<int32_t>(length));
  const std::vector<int32_t> fresh(groups_.size(), static_cast<int32_t>(length) - hit.blocks);
  holder.kept_private = groups_.size() > 1 && choose_(4) == 0;
  bool room = true;
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    room =
        room && fresh[g] <= Count(g, false) + Count(g, true) - pool_->CountUnheld(hit.tables[g], g);
    BlockTable& table = holder.tables.emplace_back(g);
    pool_->Share(table, hit.tables[g]);
    if (holder.kept_private && groups_[g].window > 0) table.KeepPrivate();
    for (const BlockId id : hit.tables[g]) {
      if (id != kNullBlock) ++shadow_[g][id.value()].refs;
    }
  }
  hits_ += hit.blocks;
  Settle();
  const uint64_t before = pool_->Fingerprint();
  holders_.push_back(std::move(holder));
  {
    std::optional<Reservation> reserved = pool_->Reserve(fresh);
    if (reserved.has_value() != room) return "Reserve and the model differ on room";
    if (!room && pool_->Fingerprint() != before) return "a refused reservation left a trace";
    if (room) {
      for (uint32_t g = 0; g < groups_.size(); ++g) Evict(g, fresh[g]);
    }
    if (room && choose_(6) != 0) {
      for (BlockTable& table : holders_.back().tables) reserved->MoveTo(table);
      return Fill(holders_.back(), fresh);
    }
  }
  return ReleaseOne(holders_.size() - 1);  // an unused reservation comes back by itself
}

std::string PoolModel::Fill(Holder& holder, const std::vector<int32_t>& fresh) {
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    const BlockTable& table = holder.tables[g];
    for (int32_t i = table.size() - fresh[g]; i < table.size(); ++i) {
      Shadow& block = shadow_[g].at(table[i].value());
      if (!IsFree(block)) return "handed out a block that was not free (S4)";
      block.refs = 1;
      block.fence = 0;
    }
  }
  return "";
}

std::string PoolModel::PublishSome() {
  if (holders_.empty()) return "";
  Holder& holder = holders_[choose_(static_cast<uint32_t>(holders_.size()))];
  const uint32_t verified = choose_(static_cast<uint32_t>(holder.tokens.size()) + 1);
  const int32_t whole =
      std::min(static_cast<int32_t>(verified) / block_tokens_, holder.tables[0].size());
  while (spine_.has_value() && holder.published < whole && !holder.stopped) {
    holder.stopped = !PublishOne(holder, holder.published);
    if (!holder.stopped) ++holder.published;
  }
  const auto count = static_cast<size_t>(whole * block_tokens_);
  pool_->Publish(holder.tables, spaces_[holder.space],
                 std::span<const TokenId>(holder.tokens).first(count));
  return "";
}

// Ours enter one after another until an equal block of someone else is there. From then on only
// companions enter, as long as the blocks passed stay.
bool PoolModel::PublishOne(Holder& holder, int32_t i) {
  const Prefix prefix = PrefixOf(holder, i);
  Shadow* node = Find(*spine_, prefix);
  Shadow& own = shadow_[*spine_].at(holder.tables[*spine_][i].value());
  if (holder.foreign != 0) {
    const Shadow* above = Find(*spine_, PrefixOf(holder, i - 1));
    if (above == nullptr || above->serial != holder.foreign || node == nullptr) return false;
    holder.foreign = node->serial;
  } else if (node == nullptr) {
    own.published = prefix;
    own.serial = ++serial_;
  } else if (node != &own) {
    if (groups_.size() == 1) return false;
    holder.foreign = node->serial;
  }
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    const BlockId id = holder.tables[g][i];
    const bool kept = holder.kept_private && groups_[g].window > 0;
    if (g == *spine_ || id == kNullBlock || kept || Find(g, prefix) != nullptr) continue;
    Shadow& block = shadow_[g].at(id.value());
    if (!block.published.has_value()) block.published = prefix;
  }
  return true;
}

void PoolModel::DropRefs(Shadows& group, std::span<const BlockId> blocks, uint64_t fence) {
  ++clock_;
  for (const BlockId id : blocks) {
    if (id == kNullBlock) continue;
    Shadow& block = group.at(id.value());
    --block.refs;
    block.fence = std::max(block.fence, fence);
    block.stamp = clock_;
  }
}

std::string PoolModel::ReleaseOne(size_t at) {
  Holder& holder = holders_[at];
  for (BlockTable& table : holder.tables) {
    DropRefs(shadow_[table.group()], table.blocks(), holder.last_step);
    pool_->Release(table, StepId(holder.last_step));
    if (!table.empty()) return "a released table is not empty";
  }
  holders_.erase(holders_.begin() + static_cast<ptrdiff_t>(at));
  Settle();
  return "";
}

// The window leaves some of a table's blocks.
std::string PoolModel::SlideOne() {
  if (holders_.empty()) return "";
  Holder& holder = holders_[choose_(static_cast<uint32_t>(holders_.size()))];
  const uint32_t g = choose_(static_cast<uint32_t>(groups_.size()));
  BlockTable& table = holder.tables[g];
  if (groups_[g].window == 0) return "";
  const auto count = static_cast<int32_t>(choose_(static_cast<uint32_t>(table.size()) + 1));
  DropRefs(shadow_[g], table.blocks().first(static_cast<size_t>(count)), holder.last_step);
  pool_->ReleaseFront(table, count, StepId(holder.last_step));
  ++slides_;
  Settle();
  return table.nulls() >= count ? "" : "released entries are not null";
}

std::string PoolModel::PinOne() {
  if (holders_.empty() || leases_.size() > 3) return "";
  const Holder& holder = holders_[choose_(static_cast<uint32_t>(holders_.size()))];
  Lease lease;
  lease.group = choose_(static_cast<uint32_t>(groups_.size()));
  const BlockTable& table = holder.tables[lease.group];
  const uint32_t count = choose_(static_cast<uint32_t>(table.size()) + 1);
  for (uint32_t i = 0; i < count; ++i) lease.blocks.push_back(table[static_cast<int32_t>(i)]);
  pool_->Pin(lease.blocks, lease.group);
  for (const BlockId id : lease.blocks) {
    if (id != kNullBlock) ++shadow_[lease.group].at(id.value()).pins;
  }
  leases_.push_back(std::move(lease));
  return "";
}

std::string PoolModel::UnpinOne(size_t at) {
  ++clock_;
  const Lease& lease = leases_[at];
  for (const BlockId id : lease.blocks) {
    if (id == kNullBlock) continue;
    Shadow& block = shadow_[lease.group].at(id.value());
    block.fence = std::max(block.fence, step_);
    if (--block.pins == 0 && block.refs == 0) block.stamp = clock_;
  }
  pool_->Unpin(lease.blocks, StepId(step_), lease.group);
  leases_.erase(leases_.begin() + static_cast<ptrdiff_t>(at));
  Settle();
  return "";
}

std::string PoolModel::CheckLookup(uint32_t space, const std::vector<TokenId>& tokens) {
  const Found expected = NaiveLookup(space, tokens);
  const auto most = static_cast<int32_t>(tokens.size());
  const PrefixHit hit = pool_->Lookup(spaces_[space], tokens, most);
  const bool same = hit.blocks == expected.blocks && hit.tables == expected.tables;
  return same ? "" : "another hit than the model";
}

std::string PoolModel::Act() {
  std::string broken;
  const uint32_t what = choose_(18);
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
  } else if (what < 17) {
    broken = SlideOne();
  } else {
    completed_ += choose_(static_cast<uint32_t>(step_ - completed_) + 1);
    pool_->Complete(StepId(completed_));
    Settle();
  }
  return broken.empty() ? Check() : broken;
}

std::string PoolModel::Check() {
  std::vector<const BlockTable*> tables;
  for (const Holder& holder : holders_) {
    for (const BlockTable& table : holder.tables) tables.push_back(&table);
  }
  std::string broken = pool_->CheckInvariants(tables);
  if (!broken.empty()) return broken;
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    const PoolStats& stats = pool_->Stats(g);
    if (stats.free != Count(g, false) || stats.cached != Count(g, true)) return "counts differ";
    int32_t pending = 0;
    for (const auto& entry : shadow_[g]) pending += entry.second.pending;
    if (stats.pending != pending) return "pending differs";
  }
  return CheckLookup(choose_(2), DrawTokens(1 + choose_(5)));
}

std::string PoolModel::Finish() {
  while (!leases_.empty()) UnpinOne(leases_.size() - 1);
  while (!holders_.empty()) ReleaseOne(holders_.size() - 1);
  completed_ = step_;
  pool_->Complete(StepId(completed_));
  Settle();
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    const PoolStats& stats = pool_->Stats(g);
    if (stats.available() != stats.total) return "blocks leak";
  }
  return Check();
}

}  // namespace millrace::paged_kv
