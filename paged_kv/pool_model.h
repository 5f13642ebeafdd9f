#pragma once
// For tests only: random operations on a BlockPool beside a naive twin that keeps sets and whole
// prefixes and recounts everything each time.

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "paged_kv/block_pool.h"

namespace millrace::paged_kv {

using Choose = std::function<uint32_t(uint32_t n)>;  // a number in [0, n)

// Thread: one.
class PoolModel {
 public:
  // `colliding`: every block hashes to the same value.
  PoolModel(Choose choose, bool colliding);

  // One random operation, checked. Empty, or what broke.
  std::string Act();
  // Gives everything back; the pool must then be all free or cached.
  std::string Finish();
  int64_t hits() const { return hits_; }
  int64_t slides() const { return slides_; }
  int64_t evictions() const;

 private:
  // The text of a block: its namespace and all tokens from position 0 to its end.
  using Prefix = std::pair<uint32_t, std::vector<TokenId>>;
  struct Holder {
    std::vector<BlockTable> tables;  // by group
    std::vector<TokenId> tokens;     // of the whole table, decided at birth
    uint32_t space = 0;
    uint64_t last_step = 0;
    bool kept_private = false;
    int32_t published = 0;  // leading blocks done
    bool stopped = false;
    uint64_t foreign = 0;  // serial of the equal block of someone else that was passed last
  };
  struct Lease {
    uint32_t group = 0;
    std::vector<BlockId> blocks;
  };
  struct Shadow {
    int refs = 0;
    int pins = 0;
    uint64_t fence = 0;
    uint64_t stamp = 0;
    uint64_t serial = 0;  // of its entry into the index
    std::optional<Prefix> published;
    bool pending = false;
  };
  using Shadows = std::map<uint32_t, Shadow>;
  struct Found {
    int32_t blocks = 0;
    std::vector<std::vector<BlockId>> tables;
  };

  std::string Take();
  std::string Fill(Holder& holder, const std::vector<int32_t>& fresh);
  std::string PublishSome();
  bool PublishOne(Holder& holder, int32_t i);
  std::string ReleaseOne(size_t at);
  std::string SlideOne();
  std::string PinOne();
  std::string UnpinOne(size_t at);
  std::string CheckLookup(uint32_t space, const std::vector<TokenId>& tokens);
  std::string Check();
  void DropRefs(Shadows& group, std::span<const BlockId> blocks, uint64_t fence);
  void Settle();
  void Evict(uint32_t group, int32_t free_wanted);
  bool IsLeaf(uint32_t group, const Shadow& block) const;
  bool IsFree(const Shadow& block) const;
  bool IsCached(const Shadow& block) const;
  int32_t Count(uint32_t group, bool cached) const;
  Shadow* Find(uint32_t group, const Prefix& prefix);
  BlockId IdOf(uint32_t group, const Prefix& prefix) const;
  Prefix PrefixOf(const Holder& holder, int32_t i) const;
  Found NaiveLookup(uint32_t space, const std::vector<TokenId>& tokens) const;
  std::vector<TokenId> DrawTokens(uint32_t blocks);

  Choose choose_;
  int32_t block_tokens_;
  std::vector<GroupConfig> groups_;
  std::optional<uint32_t> spine_;
  std::unique_ptr<BlockPool> pool_;
  std::vector<NamespaceId> spaces_;
  std::vector<Shadows> shadow_;  // by group
  std::vector<Holder> holders_;
  std::vector<Lease> leases_;
  uint64_t step_ = 1;
  uint64_t completed_ = 0;
  uint64_t clock_ = 0;
  uint64_t serial_ = 0;
  int64_t hits_ = 0;
  int64_t slides_ = 0;
};

}  // namespace millrace::paged_kv
