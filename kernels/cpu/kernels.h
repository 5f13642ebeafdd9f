#pragma once
// What a CPU tier (scalar, AVX2, AVX-512 VNNI) offers: plain functions over plain pointers. The
// tier files are compiled with wider instruction sets than the rest, so this header and theirs hold
// no inline function of std or absl: the linker could keep the wide copy for everybody.
//
// A strip is 16 rows of a weight matrix side by side (weights.h). Every function here computes an
// output element by a sequence of operations that depends on the reduced length alone, and all
// tiers perform the very same sequence, so their results are equal byte for byte (products on tiles
// apart: tiled.h).

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention_item.h"

namespace millrace::kernels {

inline constexpr int kStripRows = 16;  // rows of a strip = lanes of a 512-bit register of fp32
inline constexpr int kBlock = 32;      // values with one scale in Q4_0, Q4_1, Q8_0 and activations
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

struct GemmRun;
// Dequantizes columns of a strip for tiles of bf16 (pairs_body.h), those beyond `count` as zeros.
// REQUIRES: plain, or whole blocks of 32 columns; begin is a multiple of 32.
using FillFunction = void (*)(const GemmRun& run, int64_t strip, int64_t begin, int64_t count,
                              std::byte* out);

// A run of strips times all tokens: out[t, 16 s + lane] (+)= sum over k of w * x.
struct GemmRun {
  const std::byte* strips = nullptr;  // strip 0 of the matrix
  size_t strip_bytes = 0;
  int64_t strip_begin = 0, strip_end = 0;
  int64_t rows = 0;  // of the matrix: the last strip may be part full
  int64_t cols = 0;  // K, packed
  GroupForm group;
  int64_t tokens = 0;
  const float* x = nullptr;                 // [tokens, cols], for the exact run
  QuantizedRows quantized;                  // for the fast run
  const struct TiledRows* tiled = nullptr;  // for the run on tiles (tiled.h)
  FillFunction fill = nullptr;              // the same
  float* out = nullptr;                     // [tokens, rows]
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
  FillFunction fill = nullptr;
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

}  // namespace millrace::kernels
