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
  int64_t evictions() const { return pool_->Stats().evictions; }

 private:
  // The text of a block: its namespace and all tokens from position 0 to its end.
  using Prefix = std::pair<uint32_t, std::vector<TokenId>>;
  struct Holder {
    BlockTable table;
    std::vector<TokenId> tokens;  // of the whole table, decided at birth
    uint32_t space = 0;
    uint64_t last_step = 0;
  };
  struct Lease {
    std::vector<BlockId> blocks;
  };
  struct Shadow {
    int refs = 0;
    int pins = 0;
    uint64_t fence = 0;
    uint64_t stamp = 0;
    std::optional<Prefix> published;
    bool pending = false;
  };

  std::string Take();
  std::string PublishSome();
  std::string ReleaseOne(size_t at);
  std::string PinOne();
  std::string UnpinOne(size_t at);
  std::string CheckLookup(uint32_t space, const std::vector<TokenId>& tokens);
  std::string Check();
  void Settle();
  void Evict(int32_t free_wanted);
  bool IsFree(const Shadow& block) const;
  bool IsCached(const Shadow& block) const;
  int32_t Count(bool cached) const;
  std::vector<BlockId> NaiveLookup(uint32_t space, const std::vector<TokenId>& tokens) const;
  std::vector<TokenId> DrawTokens(uint32_t blocks);

  Choose choose_;
  int32_t block_tokens_;
  int32_t blocks_;
  std::unique_ptr<BlockPool> pool_;
  std::vector<NamespaceId> spaces_;
  std::map<uint32_t, Shadow> shadow_;
  std::vector<Holder> holders_;
  std::vector<Lease> leases_;
  uint64_t step_ = 1;
  uint64_t completed_ = 0;
  uint64_t clock_ = 0;
  int64_t hits_ = 0;
};

}  // namespace millrace::paged_kv
