#pragma once
// The products of every tier, for the dispatch table. Each lives in gemm_<tier>.cc.

#include "kernels/cpu/kernels.h"

namespace millrace::kernels {

inline constexpr int kGemmKinds = 18;  // of PayloadKind, whose order the tables have

#define MILLRACE_DECLARE_TIER(tier)                                                     \
  namespace tier {                                                                      \
  extern const GemmKernels kGemm[kGemmKinds];                                           \
  void QuantizeToken(const float* x, int64_t cols, int8_t* q, float* scale, float* sum, \
                     int32_t* bias8);                                                   \
  }
MILLRACE_DECLARE_TIER(scalar)
MILLRACE_DECLARE_TIER(avx2)
MILLRACE_DECLARE_TIER(avxvnni)
MILLRACE_DECLARE_TIER(avx512bw)
MILLRACE_DECLARE_TIER(avx512)
#undef MILLRACE_DECLARE_TIER

}  // namespace millrace::kernels
