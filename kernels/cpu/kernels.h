#pragma once
// What a CPU tier (scalar, AVX2, AVX-512 VNNI) offers: plain functions over plain pointers. The
// tier files are compiled with wider instruction sets than the rest, so this header and theirs hold
// no inline function of std or absl: the linker could keep the wide copy for everybody.
//
// A strip is 16 rows of a weight matrix side by side (weights.h). Every function here computes an
// output element by a sequence of operations that depends on the reduced length alone, and all
// tiers perform the very same sequence, so their results are equal byte for byte.

#include <cstddef>
#include <cstdint>

namespace millrace::kernels {

inline constexpr int kStripRows = 16;  // rows of a strip = lanes of a 512-bit register of fp32
inline constexpr int kBlock =
    32;  // values that share a scale in Q4_0, Q4_1, Q8_0 and in activations
inline constexpr int kMaxGroupStrips = 2;  // strips that one exact tile takes at most
inline constexpr int kExactChunk = 128;    // columns that exact products dequantize at a time; even

// Activations in 8 bits, one scale for 32 values: x ~ q * scale. Row-major [tokens, cols].
struct QuantizedRows {
  const int8_t* q = nullptr;       // [tokens, cols], in -127 .. 127
  const float* scale = nullptr;    // [tokens, cols / 32]
  const float* sum = nullptr;      // scale * (sum of q in the block): multiplies a block minimum
  const int32_t* bias8 = nullptr;  // -8 * (sum of q in the block): the zero point of Q4_0
  const int32_t* halves =
      nullptr;  // [tokens, cols / 16]: -4 * (sum of 16 q), for kinds that scale so
};

// The groups of a strip (payload.h).
struct GroupForm {
  enum class Scale : uint8_t { kF16, kBF16, kF32 };
  int64_t blocks = 1;  // of 32 columns in a group
  size_t header = 0;   // bytes
  size_t bytes = 0;    // of a whole group
  Scale scale = Scale::kF16;
};

// A run of strips times all tokens: out[t, 16 s + lane] (+)= sum over k of w * x.
struct GemmRun {
  const std::byte* strips = nullptr;  // strip 0 of the matrix
  size_t strip_bytes = 0;
  int64_t strip_begin = 0, strip_end = 0;
  int64_t rows = 0;  // of the matrix: the last strip may be part full
  int64_t cols = 0;  // K, packed
  GroupForm group;
  int64_t tokens = 0;
  const float* x = nullptr;  // [tokens, cols], for the exact run
  QuantizedRows quantized;   // for the fast run
  float* out = nullptr;      // [tokens, rows]
  bool accumulate = false;
  float* scratch = nullptr;  // GemmScratchFloats(tokens) of this worker, 64-byte aligned
};
// Of a panel of unpacked weights: beside it the first-level cache holds the sums and activations of
// a tile.
inline constexpr int64_t kPanelBytes = int64_t{20} << 10;
// Exact products: dequantized columns and two chains of each token and strip. Fast ones: a panel
// and one sum.
static constexpr int64_t GemmScratchFloats(int64_t tokens) {
  static_assert(kMaxGroupStrips * kStripRows * kExactChunk <= kPanelBytes / 4);
  return kPanelBytes / 4 + 2 * kMaxGroupStrips * kStripRows * tokens;
}
using GemmFunction = void (*)(const GemmRun& run);

// Quantizes one row of `cols` (a multiple of 32) values.
using QuantizeFunction = void (*)(const float* x, int64_t cols, int8_t* q, float* scale, float* sum,
                                  int32_t* bias8);
// Products of one payload kind; `fast` null: exact in both modes.
struct GemmKernels {
  GemmFunction exact = nullptr, fast = nullptr;
};
using RmsNormFunction = void (*)(const float* x, const float* weight, float* out, int64_t dim,
                                 float eps, bool accumulate);
// out[i] = activation(gate[i]) * up[i]
using GluFunction = void (*)(const float* gate, const float* up, float* out, int64_t count);
// x[i] = cap * tanh(x[i] / cap)
using SoftCapFunction = void (*)(float* x, int64_t count, float cap);
// Rotates one head; cosine and sine are [pairs].
using RotateFunction = void (*)(float* x, const float* cosine, const float* sine, int64_t pairs);
// out[i] = exp(x[i]); for tests of the tiers' one exponential.
using ExpFunction = void (*)(const float* x, float* out, int64_t count);

inline constexpr int kMaxQueryRows = 64;

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
  const std::byte* next = nullptr;  // where this worker reads on; null: unknown
  float* partial = nullptr;  // AttentionPartialFloats() of each split in turn, when out is null
  float* scratch = nullptr;  // AttentionScratchFloats()
};
using AttentionFunction = void (*)(const AttentionItem& item);

static constexpr int64_t RoundUp16(int64_t n) {
  return (n + 15) / 16 * 16;
}
// A query row's running state: maximum at [0], 16 lanes of the sum at [16], weighted values at
// [32].
static constexpr int64_t AttentionStateFloats(int64_t head_dim) {
  return 32 + RoundUp16(head_dim);
}
static constexpr int64_t AttentionPartialFloats(int64_t query_rows, int64_t head_dim) {
  return query_rows * AttentionStateFloats(head_dim);
}
// Two states a row (the split at hand and all before it) and the scores of up to 8 rows.
static constexpr int64_t AttentionScratchFloats(int64_t query_rows, int64_t head_dim,
                                                int64_t block_tokens) {
  return 2 * AttentionPartialFloats(query_rows, head_dim) + 8 * RoundUp16(block_tokens);
}
// Joins partial results in ascending order of splits and writes the rows to item.out.
using MergeFunction = void (*)(const AttentionItem& item);

}  // namespace millrace::kernels
