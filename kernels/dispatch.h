#pragma once
// The one table (op, format, tier) -> kernel, and the rules that pick from it. Pure functions.

#include "kernels/cpu/kernels.h"
#include "kernels/ops.h"
#include "kernels/payload.h"

namespace millrace::kernels {

inline constexpr IsaTier kAllTiers[] = {IsaTier::kScalar, IsaTier::kAvx2, IsaTier::kAvxVnni,
                                        IsaTier::kAvx512, IsaTier::kAvx512Vnni};

// What a product runs: exact kernels for plain weights in both modes.
struct GemmChoice {
  GemmFunction function = nullptr;
  bool quantized = false;  // reads GemmRun::quantized instead of GemmRun::x
  bool halves = false;     // reads QuantizedRows::halves
};
GemmChoice ChooseGemm(PayloadKind kind, ComputeMode mode, IsaTier tier);
// One scale for a token instead of one for 32 of its values.
QuantizeFunction ChooseQuantizeToken(IsaTier tier);
AttentionFunction ChooseAttention(KvType type, IsaTier tier);
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
