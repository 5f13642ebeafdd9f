#pragma once
// The merge rules of a BPE vocabulary and their application to one piece of text.

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/ids.h"

namespace millrace::text {

// Working memory of one Encode call, reused from piece to piece.
struct MergeScratch {
  size_t piece_begin = 0;      // where the ids of the present piece begin in the output
  std::vector<TokenId> ids;    // symbol at each place; -1 when merged into an earlier one
  std::vector<uint32_t> next;  // place of the following symbol
  std::vector<uint32_t> prev;
  // The pairs that a rule applies to, by its rank. A long run of one letter has many pairs of few
  // ranks: a heap of all pairs would spend most of its time in cache misses.
  struct Bucket {
    uint32_t rank = 0;
    std::vector<uint32_t> places;  // of left symbols, from `done` on not yet tried
    size_t done = 0;
    std::vector<uint32_t> late;  // a heap: places left of one that came before them
  };
  std::vector<Bucket> buckets;
  absl::flat_hash_map<uint32_t, uint32_t> bucket_of;  // rank, index into buckets
  std::vector<uint64_t> heap;                         // rank << 32 | bucket, each rank once
};

// Thread: immutable once filled.
class BpeMerges {
 public:
  // REQUIRES: ranks ascend from rule to rule, several rules may share one; the merged token is
  // longer than both its parts. A pair's first rule counts.
  void Add(TokenId left, TokenId right, TokenId merged, uint32_t rank);
  size_t size() const { return rules_.size(); }

  // Merges scratch.ids (symbols, none negative) and appends what remains: always the rule of lowest
  // rank first, the leftmost place first among equals, until none applies. O(n log n).
  void Apply(MergeScratch& scratch, std::vector<TokenId>& out) const;

 private:
  struct Rule {
    uint32_t rank;
    TokenId merged;
  };
  const Rule* Find(TokenId left, TokenId right) const;
  void MergeShort(std::vector<TokenId>& ids) const;
  void MergeLong(MergeScratch& scratch) const;
  void PushPair(MergeScratch& scratch, uint32_t left, uint32_t right) const;
  static bool TakePlace(MergeScratch::Bucket& bucket, uint32_t& place);
  void MergePair(MergeScratch& scratch, uint32_t left, uint32_t rank) const;

  absl::flat_hash_map<uint64_t, Rule> rules_;  // left << 32 | right
};

}  // namespace millrace::text
