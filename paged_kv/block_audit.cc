// The deep checks and the fingerprint of a group: slow, and free of side effects.

#include <algorithm>
#include <array>

#include "paged_kv/block_group.h"

namespace millrace::paged_kv {
namespace {

std::string Broken(const char* what, uint32_t id) {
  return std::string("block ") + std::to_string(id) + ": " + what;
}

// A running 64-bit digest over small integers.
class Digest {
 public:
  void Add(uint64_t value) {
    value_ = (value_ ^ value) * 0x9e3779b97f4a7c15ULL;
    value_ ^= value_ >> 29;
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0x2545f4914f6cdd1dULL;
};

}  // namespace

std::string BlockPool::Group::CheckBlock(uint32_t id, int32_t refs, int32_t children) const {
  const Block& block = blocks_[id];
  if (block.refs != refs) return Broken("references differ from the tables (S2)", id);
  if (block.children != children) return Broken("children miscounted", id);
  const bool held = refs > 0 || block.pins > 0 || block.reserved;
  if (held != (block.state == BlockState::kActive)) return Broken("held, but not ACTIVE (S4)", id);
  if (free_.Contains(id) != (block.state == BlockState::kFree)) return Broken("free list", id);
  if (block.state == BlockState::kFree && block.published) return Broken("free, published", id);
  if (block.state == BlockState::kCached && !block.published) return Broken("cached, unknown", id);
  const bool leaf = block.state == BlockState::kCached && block.children == 0;
  if (leaves_.Contains(id) != leaf) return Broken("leaf heap", id);
  if (block.state == BlockState::kPending) {
    const auto waits = [&](const Pending& p) { return p.block == id && p.fence == block.fence; };
    if (std::none_of(pending_.begin(), pending_.end(), waits)) return Broken("lost fence", id);
  }
  return block.published ? CheckPublished(id) : "";
}

std::string BlockPool::Group::CheckPublished(uint32_t id) const {
  const Block& block = blocks_[id];
  if (spine_ != nullptr) {
    if (by_node_[block.parent] != id) return Broken("not where its spine block looks", id);
    return spine_->blocks_[block.parent].published ? "" : Broken("of an unknown spine block", id);
  }
  if (block.parent == 0) return "";
  const Block& above = blocks_[block.parent];
  if (!above.published) return Broken("parent not published (S5)", id);
  if (block.state == BlockState::kActive && above.state != BlockState::kActive) {
    return Broken("held, but its parent is not", id);
  }
  if (block.state == BlockState::kPending && above.state == BlockState::kCached) {
    return Broken("pending below a cached parent", id);
  }
  return "";
}

std::string BlockPool::Group::CheckIndex() const {
  size_t indexed = 0;
  for (size_t b = 0; b < buckets_.size(); ++b) {
    for (uint32_t id = buckets_[b]; id != 0; id = blocks_[id].next) {
      const Block& block = blocks_[id];
      if (!block.published) return Broken("indexed, not published", id);
      if (++indexed > blocks_.size()) return "a bucket's chain is a cycle";
      const Hash128 above =
          block.parent == 0 ? namespaces_->hash(block.space) : blocks_[block.parent].hash;
      if (!(hash_(above, TokensOf(id)) == block.hash)) return Broken("tokens and hash differ", id);
      const Key key{block.parent, block.space, block.hash, TokensOf(id)};
      if (Find(key) != id) return Broken("published twice or in a wrong bucket", id);
    }
  }
  size_t published = 0;
  for (const Block& block : blocks_) published += block.published;
  for (const uint32_t id : by_node_) indexed += id != 0;
  return published == indexed ? "" : "published blocks are missing in the index";
}

std::string BlockPool::Group::CheckInvariants(std::span<const BlockTable* const> tables,
                                              uint32_t group) const {
  std::vector<int32_t> refs(blocks_.size());
  std::vector<int32_t> children(blocks_.size());
  for (const BlockTable* table : tables) {
    if (table->group() != group) continue;
    for (const BlockId id : table->blocks()) {
      if (id.value() >= blocks_.size()) return "a table names a block that does not exist";
      if (id != kNullBlock) ++refs[id.value()];
    }
  }
  for (const Block& block : blocks_) {
    if (spine_ == nullptr && block.published && block.parent != 0) ++children[block.parent];
  }
  std::array<int32_t, 4> counts{};
  int32_t pinned = 0;
  for (uint32_t id = 1; id < blocks_.size(); ++id) {
    std::string broken = CheckBlock(id, refs[id], children[id]);
    if (!broken.empty()) return broken;
    ++counts[static_cast<size_t>(blocks_[id].state)];
    pinned += blocks_[id].pins > 0 && blocks_[id].refs == 0;
  }
  if (blocks_[0].refs != 0 || blocks_[0].published) return "the null block is in use";
  const std::array<int32_t, 4> expected = {stats_.free, stats_.active, stats_.cached,
                                           stats_.pending};
  if (counts != expected) return "block counts do not add up (S1)";
  if (pinned != stats_.pinned) return "pinned blocks miscounted";
  return CheckIndex();
}

uint64_t BlockPool::Group::Fingerprint(StepId completed) const {
  Digest digest;
  std::vector<uint32_t> used;  // by last use: only the order matters to what comes
  for (uint32_t id = 1; id < blocks_.size(); ++id) {
    const Block& block = blocks_[id];
    if (block.published) used.push_back(id);
    if (block.state == BlockState::kFree) continue;
    digest.Add(id);
    digest.Add(static_cast<uint64_t>(block.state) << 2 |
               static_cast<uint64_t>(block.published) << 1 | static_cast<uint64_t>(block.reserved));
    digest.Add(static_cast<uint64_t>(block.refs) << 32 | static_cast<uint32_t>(block.pins));
    digest.Add(block.fence > completed ? block.fence.value() - completed.value() : 0);
    if (!block.published) continue;
    digest.Add(block.parent);
    if (spine_ != nullptr) continue;
    if (block.parent == 0) {
      for (const char c : namespaces_->key(block.space)) digest.Add(static_cast<uint8_t>(c));
    }
    for (const TokenId token : TokensOf(id)) digest.Add(static_cast<uint32_t>(token));
  }
  std::sort(used.begin(), used.end(), [this](uint32_t x, uint32_t y) {
    return blocks_[x].stamp != blocks_[y].stamp ? blocks_[x].stamp < blocks_[y].stamp : x < y;
  });
  uint64_t stamp = 0;
  for (const uint32_t id : used) {
    // Equal stamps are one release: which blocks share one is part of the order.
    digest.Add(static_cast<uint64_t>(id) << 1 | (blocks_[id].stamp == stamp));
    stamp = blocks_[id].stamp;
  }
  return digest.value();
}

}  // namespace millrace::paged_kv
