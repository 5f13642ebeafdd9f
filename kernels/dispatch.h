#pragma once
// The one table (op, format, tier) -> kernel, and the rules that pick from it. Pure functions.

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/tiled.h"
#include "kernels/ops.h"
#include "kernels/payload.h"

namespace millrace::kernels {

// The tiers with the same bytes.
inline constexpr IsaTier kAllTiers[] = {IsaTier::kScalar, IsaTier::kAvx2, IsaTier::kAvxVnni,
                                        IsaTier::kAvx512, IsaTier::kAvx512Vnni};

// What a product runs: exact kernels for plain weights in both modes.
struct GemmChoice {
  GemmFunction function = nullptr;
  bool quantized = false;  // reads GemmRun::quantized instead of GemmRun::x
  bool halves = false;     // reads QuantizedRows::halves
};
GemmChoice ChooseGemm(PayloadKind kind, ComputeMode mode, IsaTier tier);

// From so many tokens a product runs on tiles, where the tier has them: a tile takes the time of 16
// whatever it holds, and weights that are no 16 bits or bytes yet are made so for each product,
// which takes the time of some 20 tokens (docs/performance.md).
inline constexpr int64_t kTiledTokens = 16, kTiledTokensCoded = 24;
struct TiledChoice {
  const TiledKernels* kernels = nullptr;  // null: not on tiles
  bool bytes = false;                     // else bf16
  FillFunction fill = nullptr;
};
TiledChoice ChooseTiled(const PackedMatrix::Payload& weights, int64_t tokens,
                        const StreamShape& stream);
// One scale for a token instead of one for 32 of its values.
QuantizeFunction ChooseQuantizeToken(IsaTier tier);
struct AttentionChoice {
  AttentionFunction function = nullptr;
  bool flush = false;  // with subnormals as zeros
};
AttentionChoice ChooseAttention(KvType type, ComputeMode mode, IsaTier tier);
// The ops without formats.
struct RowKernels {
  QuantizeFunction quantize;
  RmsNormFunction rms_norm;
  GluFunction swiglu;
  GluFunction geglu_tanh;
  SoftCapFunction soft_cap;
  RotateFunction rotate_halves;
  RotateFunction rotate_interleaved;
  ExpFunction exp;
  MergeFunction attention_merge;
};
const RowKernels& ChooseRowKernels(IsaTier tier);

}  // namespace millrace::kernels
