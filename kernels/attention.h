#pragma once
// Attention over paged keys and values: the geometry of their memory and the ops on it. The rules
// for all ops are in kernels/ops.h.

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/stream.h"

namespace millrace::kernels {

// kInt8: each key and each value (one token, one KV head) in 8 bits with an fp32 scale of its own,
// largest magnitude / 127, rounded to nearest even.
enum class KvType : uint8_t { kF32, kBF16, kInt8 };
// "f32", "bf16", "int8".
const char* KvTypeName(KvType type);

// Geometry of one KV group's memory. A block holds `block_tokens` tokens of all KV heads of one
// layer; the layout inside a block is the kernels' own business. A layer's blocks lie together, so
// that a step walks few pages for each layer: block b of layer l at (l * blocks + b) *
// LayerBlockBytes().
struct KvLayout {
  KvType type = KvType::kF32;
  int32_t layers = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t block_tokens = 32;  // exact attention reduces in these fixed blocks of absolute position
  int64_t blocks = 0;         // in the arena, the null block 0 among them; 0: there is no arena yet

  // Bytes of one block in one layer, K and V; a multiple of 64.
  size_t LayerBlockBytes() const;
  // Bytes of one block in all layers, which are in as many places.
  size_t BlockBytes() const { return LayerBlockBytes() * static_cast<size_t>(layers); }
};

// One row (run of consecutive tokens of a sequence) of the batch.
struct AttentionRow {
  int32_t token_begin = 0;  // first row of q/k/v
  int32_t token_count = 0;
  int32_t position = 0;      // of the first token
  int32_t first_needed = 0;  // positions before are not attended to; 0: all
  // Block ids by position / block_tokens. An entry may be null (0) if all its positions lie before
  // first_needed or before the window of the first token.
  const uint32_t* table = nullptr;
};

// Writes k and v of every row to the arena, then out = softmax(cap(q k^T * scale)) v, causal, over
// all positions [first_needed, own position], of them the last `window`. Grouped queries: heads is
// a multiple of kv_heads.
struct AttentionArgs {
  const float* q = nullptr;  // [T, heads, head_dim]
  const float* k = nullptr;  // [T, kv_heads, head_dim]
  const float* v = nullptr;
  float* out = nullptr;  // [T, heads, head_dim]
  int64_t tokens = 0;
  int64_t heads = 0;
  float scale = 0;
  float soft_cap = 0;  // scores become soft_cap * tanh(score / soft_cap); 0: as they are
  int32_t window = 0;  // positions that a token sees, its own included; 0: all
  const KvLayout* layout = nullptr;
  int32_t layer = 0;
  std::byte* arena = nullptr;  // layout->blocks * layout->BlockBytes()
  std::span<const AttentionRow> rows;
};
absl::Status Attention(const AttentionArgs& args, Stream& stream);
// What Attention takes of a stream's scratch, at most, for any rows of up to `tokens` in all that
// end at up to `positions`. Of the layout, only what a block looks like counts.
struct AttentionBounds {
  int64_t tokens = 0;
  int64_t heads = 0;
  int64_t positions = 0;
  KvLayout layout;
};
size_t AttentionScratchBytes(const AttentionBounds& bounds, const StreamShape& stream);

// Copies a whole block, all layers (copy on write).
struct CopyBlockArgs {
  const KvLayout* layout = nullptr;
  std::byte* arena = nullptr;
  uint32_t source = 0;
  uint32_t target = 0;
};
absl::Status CopyBlock(const CopyBlockArgs& args, Stream& stream);

}  // namespace millrace::kernels
