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
#include "kernels/attention.h"
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
// What Gemm takes of a stream's scratch. The matrices need no bytes (PackedMatrix::Describe).
size_t GemmScratchBytes(std::span<const PackedMatrix* const> weights, int64_t tokens,
                        const StreamShape& stream);

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

}  // namespace millrace::kernels
