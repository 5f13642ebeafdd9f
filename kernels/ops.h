#pragma once
// The ops of a decoder layer over a ragged batch: T tokens of many sequences, one row each. One
// args struct an op. All buffers are fp32, row-major, dense (leading dimension = last dimension)
// unless said; outputs must not alias inputs unless said. Every op is a total function of its
// arguments: it checks shapes (InvalidArgument) and never allocates except from the stream's
// scratch.

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/stream.h"
#include "kernels/weights.h"

namespace millrace::kernels {

// out[t, :] = row ids[t] of the table, times `scale`.
struct EmbedArgs {
  const PackedMatrix* table = nullptr;  // [vocab, dim]
  std::span<const int32_t> ids;         // [T]
  float* out = nullptr;                 // [T, dim]
  float scale = 1.0f;
};
absl::Status Embed(const EmbedArgs& args, Stream& stream);

// out = x / sqrt(mean(x^2) + eps) * weight (+ out). `out` may be `x`. Heads of a row that have a
// norm of their own are rows here: tokens = T * heads, dim = head_dim.
struct RmsNormArgs {
  const float* x = nullptr;  // [T, dim]
  const float* weight = nullptr;
  float* out = nullptr;
  int64_t tokens = 0;
  int64_t dim = 0;
  float eps = 0;
  bool accumulate = false;  // residual: out += norm
};
absl::Status RmsNorm(const RmsNormArgs& args, Stream& stream);

// y = x W^T (+ y). In kFast the activations are quantized once per call: give matrices that read
// the same x together (q,k,v; gate,up), up to 4.
struct GemmArgs {
  const float* x = nullptr;  // [T, K]
  int64_t tokens = 0;
  std::span<const PackedMatrix* const> weights;  // each [N_i, K]
  std::span<float* const> outputs;               // each [T, N_i]
  bool accumulate = false;                       // residual: y += x W^T
};
absl::Status Gemm(const GemmArgs& args, Stream& stream);

// x[t, :] += bias, in place.
struct AddBiasArgs {
  float* x = nullptr;  // [T, dim]
  const float* bias = nullptr;
  int64_t tokens = 0;
  int64_t dim = 0;
};
absl::Status AddBias(const AddBiasArgs& args, Stream& stream);

// Cosines and sines of position * inv_freq[i], for the Rope calls of all layers of a step.
struct RopeTableArgs {
  std::span<const int32_t> positions;  // [T]
  std::span<const float> inv_freq;     // [rotary_dim / 2]
  float* out = nullptr;                // [T, 2, rotary_dim / 2]: cosines, then sines
  float scale = 1.0f;                  // multiplies both
};
absl::Status RopeTable(const RopeTableArgs& args, Stream& stream);

// Rotates pairs (i, i + rotary_dim/2) of each head (NeoX order) or (2i, 2i+1) (interleaved) by
// position * inv_freq[i]. In place. Angles, sine and cosine in fp32, as the reference computes
// them.
struct RopeArgs {
  float* x = nullptr;                  // [T, heads, head_dim]
  std::span<const int32_t> positions;  // [T]
  std::span<const float> inv_freq;     // [rotary_dim / 2]
  int64_t heads = 0;
  int64_t head_dim = 0;
  bool interleaved = false;  // GGUF llama tensors are permuted for this order
  const float* table =
      nullptr;  // RopeTable of the same positions and inv_freq; null: computed here
};
absl::Status Rope(const RopeArgs& args, Stream& stream);

// kGeluTanh: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
enum class Activation : uint8_t { kSilu, kGeluTanh };

// out = activation(gate) * up. `out` may be `gate`.
struct GluArgs {
  const float* gate = nullptr;  // [T, dim]
  const float* up = nullptr;
  float* out = nullptr;
  int64_t tokens = 0;
  int64_t dim = 0;
  Activation activation = Activation::kSilu;
};
absl::Status Glu(const GluArgs& args, Stream& stream);

// x = cap * tanh(x / cap), in place.
struct SoftCapArgs {
  float* x = nullptr;
  int64_t count = 0;
  float cap = 0;
};
absl::Status SoftCap(const SoftCapArgs& args, Stream& stream);

enum class KvType : uint8_t { kF32, kBF16 };

// Geometry of one KV group's memory. A block holds `block_tokens` tokens of all KV heads of one
// layer; the layout inside a block is the kernels' own business.
struct KvLayout {
  KvType type = KvType::kF32;
  int32_t layers = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t block_tokens = 32;  // exact attention reduces in these fixed blocks of absolute position

  // Bytes of one block in one layer, K and V; a multiple of 64.
  size_t LayerBlockBytes() const;
  // Bytes of one block in all layers.
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
  std::byte* arena =
      nullptr;  // block b of this layer lies at (b * layers + layer) * LayerBlockBytes()
  std::span<const AttentionRow> rows;
};
absl::Status Attention(const AttentionArgs& args, Stream& stream);

// Copies a whole block, all layers (copy on write).
struct CopyBlockArgs {
  const KvLayout* layout = nullptr;
  std::byte* arena = nullptr;
  uint32_t source = 0;
  uint32_t target = 0;
};
absl::Status CopyBlock(const CopyBlockArgs& args, Stream& stream);

}  // namespace millrace::kernels
