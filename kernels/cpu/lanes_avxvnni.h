#pragma once
// Sixteen lanes as two 256-bit registers whose products of bytes are one instruction: AVX-VNNI.

#include "kernels/cpu/lanes_avx2.h"

namespace millrace::kernels::avxvnni {

struct Lanes : avx2::Lanes {
  static constexpr bool kDotsArePairs = false;
  static constexpr bool kBiasedQ8 = true;  // the unsigned operand of vpdpbusd is the weight + 128

  MILLRACE_INLINE I DotQ4(I c, I w, I x) {
    return {_mm256_dpbusd_avx_epi32(c.a, w.a, x.a), _mm256_dpbusd_avx_epi32(c.b, w.b, x.b)};
  }
  MILLRACE_INLINE I DotQ8(I c, I w, I x) { return DotQ4(c, w, x); }
};

}  // namespace millrace::kernels::avxvnni
