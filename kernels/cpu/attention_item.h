#pragma once
// What attention asks of a CPU tier; part of kernels.h, whose rules hold here.

#include <cstddef>
#include <cstdint>

namespace millrace::kernels {

static constexpr int64_t RoundUp16(int64_t n) {
  return (n + 15) / 16 * 16;
}
inline constexpr int kMaxQueryRows = 64;
inline constexpr int kMaxTileRows = 8;  // query rows whose sums a tier keeps in registers, at most

// A sequence that shares leading blocks with that of an item, and has one token as well.
struct AttentionSharer {
  const float* q = nullptr;  // as in the item
  float* out = nullptr;
  const uint32_t* table = nullptr;
  int32_t position = 0;
};

// One work item of attention: the queries of `tokens` consecutive tokens and of `group` heads that
// read one KV head, against the positions of split `split_begin` .. `split_end` (see attention.cc).
// With sharers, all splits of each of them too; the blocks that all share are walked once.
// REQUIRES: tokens * group <= kMaxQueryRows, and every token sees a position in one of the splits;
// with sharers also tokens = 1, (1 + sharer_count) * group <= kMaxQueryRows, no window, and
// split_begin = first_needed = 0.
struct AttentionItem {
  const float* q = nullptr;  // first token's first head of the group
  float* out = nullptr;      // same place in the output; null: leave partial results instead
  int64_t token_stride = 0;  // floats from a token to the next in q and out
  int32_t tokens = 0;
  int32_t group = 0;
  int32_t position = 0;  // of the first token
  int32_t first_needed = 0;
  int32_t window = 0;  // positions that a token sees at most, its own included; 0: all
  float scale = 0;
  float soft_cap = 0;  // 0: none
  int32_t head_dim = 0;
  int32_t block_tokens = 0;
  int32_t split_blocks = 0;  // blocks in a split
  int32_t split_begin = 0, split_end = 0;
  const uint32_t* table = nullptr;
  const std::byte* base = nullptr;  // K of this KV head in block 0
  size_t block_stride = 0;          // bytes from a block to the next
  size_t value_offset = 0;          // bytes from K to V
  size_t scale_offset = 0;          // bytes from K to the scales of K, then of V; int8 only
  const AttentionSharer* sharers = nullptr;
  int32_t sharer_count = 0;
  int32_t shared_blocks = 0;        // all before every one of the tokens; used with sharers alone
  const std::byte* next = nullptr;  // where this worker may read on; null: unknown
  float* partial = nullptr;  // AttentionPartialFloats() of each split in turn, when out is null
  float* scratch = nullptr;  // AttentionScratchFloats()
};
using AttentionFunction = void (*)(const AttentionItem& item);

// A query row's running state: maximum at [0], 16 lanes of the sum at [16], weighted values at
// [32].
static constexpr int64_t AttentionStateFloats(int64_t head_dim) {
  return 32 + RoundUp16(head_dim);
}
static constexpr int64_t AttentionPartialFloats(int64_t query_rows, int64_t head_dim) {
  return query_rows * AttentionStateFloats(head_dim);
}
// Two states a row (the split at hand and all before it), the scores of two tiles, and the queries
// once more, rounded.
static constexpr int64_t AttentionScratchFloats(int64_t query_rows, int64_t head_dim,
                                                int64_t block_tokens) {
  return 2 * AttentionPartialFloats(query_rows, head_dim) +
         2 * kMaxTileRows * RoundUp16(block_tokens) + query_rows * RoundUp16(head_dim);
}
// Joins partial results in ascending order of splits and writes the rows to item.out.
using MergeFunction = void (*)(const AttentionItem& item);

}  // namespace millrace::kernels
