#pragma once
// The merge rules of a byte-level BPE vocabulary and their application to one piece of text.

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/ids.h"

namespace millrace::text {

// Working memory of one Encode call, reused from piece to piece.
struct MergeScratch {
  std::vector<TokenId> ids;    // symbol at each place; -1 when merged into an earlier one
  std::vector<uint32_t> next;  // place of the following symbol
  std::vector<uint32_t> prev;
  // The pairs that a rule applies to, by its rank. A long run of one letter has many pairs of few
  // ranks: a heap of all pairs would spend most of its time in cache misses.
  struct Bucket {
    uint32_t rank = 0;
    std::vector<uint32_t> places;  // of left symbols, from `done` on not yet tried
    size_t done = 0;
  };
  std::vector<Bucket> buckets;
  absl::flat_hash_map<uint32_t, uint32_t> bucket_of;  // rank, index into buckets
  std::vector<uint64_t> heap;                         // rank << 32 | bucket, each rank once
};

// Thread: immutable once filled.
class BpeMerges {
 public:
  BpeMerges();
  void SetByte(uint8_t byte, TokenId id) { byte_ids_[byte] = id; }
  // A pair's first rule counts. REQUIRES: ranks are added in ascending order, the merged token is
  // longer than both its parts.
  void Add(TokenId left, TokenId right, TokenId merged);

  // Appends the ids of `piece`: always the rule of lowest rank first, the leftmost place first
  // among equals, until none applies. A byte without a token is left out, as the reference does.
  // O(n log n) for n bytes.
  void Apply(std::string_view piece, MergeScratch& scratch, std::vector<TokenId>& out) const;

 private:
  struct Rule {
    uint32_t rank;
    TokenId merged;
  };
  const Rule* Find(TokenId left, TokenId right) const;
  void MergeShort(std::vector<TokenId>& ids) const;
  void MergeLong(MergeScratch& scratch) const;
  void PushPair(MergeScratch& scratch, uint32_t left, uint32_t right) const;
  void MergePair(MergeScratch& scratch, uint32_t left, uint32_t rank) const;

  TokenId byte_ids_[256];
  uint32_t rules_added_ = 0;
  absl::flat_hash_map<uint64_t, Rule> rules_;  // left << 32 | right
};

}  // namespace millrace::text
