#pragma once
// The names of every tier's kernels, for the dispatch table. Each lives in kernels_<tier>.cc;
// the products are in gemm_tiers.h.

#include "kernels/cpu/kernels.h"

namespace millrace::kernels {

#define MILLRACE_DECLARE_TIER(tier)                                                        \
  namespace tier {                                                                         \
  void Quantize(const float* x, int64_t cols, int8_t* q, float* scale, float* sum,         \
                int32_t* bias8);                                                           \
  void RmsNorm(const float* x, const float* weight, float* out, int64_t dim, float eps,    \
               bool accumulate);                                                           \
  void SwiGlu(const float* gate, const float* up, float* out, int64_t count);              \
  void GeGluTanh(const float* gate, const float* up, float* out, int64_t count);           \
  void SoftCap(float* x, int64_t count, float cap);                                        \
  void RotateHalves(float* x, const float* cosine, const float* sine, int64_t pairs);      \
  void RotateInterleaved(float* x, const float* cosine, const float* sine, int64_t pairs); \
  void Exp(const float* x, float* out, int64_t count);                                     \
  void AttendF32(const AttentionItem& item);                                               \
  void AttendBF16(const AttentionItem& item);                                              \
  void AttendPairs(const AttentionItem& item);                                             \
  void AttendInt8(const AttentionItem& item);                                              \
  void MergeSplits(const AttentionItem& item);                                             \
  }
MILLRACE_DECLARE_TIER(scalar)
MILLRACE_DECLARE_TIER(avx2)
MILLRACE_DECLARE_TIER(avx512)
#undef MILLRACE_DECLARE_TIER
namespace avx512bf16 {
void AttendPairs(const AttentionItem& item);
}

}  // namespace millrace::kernels
