#pragma once
// Sixteen lanes as one 512-bit register without VNNI: AVX-512 F, BW, VL and DQ.

#include "kernels/cpu/lanes_avx512.h"

namespace millrace::kernels::avx512bw {

struct Lanes : avx512::Lanes {
  static constexpr bool kBiasedQ8 = false;
  static constexpr bool kDotsArePairs = true;
  static constexpr int kPanelFrom = 0;  // no panel

  // As in lanes_avx2.h.
  MILLRACE_INLINE I Chained(I sum) {
    __asm__("" : "+v"(sum));
    return sum;
  }
  MILLRACE_INLINE I Pairs(I w, I x) { return _mm512_maddubs_epi16(w, x); }
  MILLRACE_INLINE I AddPairs(I x, I y) { return Chained(_mm512_add_epi16(x, y)); }
  MILLRACE_INLINE I SumPairs(I x) { return _mm512_madd_epi16(x, _mm512_set1_epi16(1)); }
  MILLRACE_INLINE I DotQ8(I c, I biased, I x) {
    const I w = _mm512_xor_si512(biased, _mm512_set1_epi8(-128));
    const __mmask64 negative = _mm512_movepi8_mask(w);
    const I signed_x = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
    return Chained(AddI(c, SumPairs(Pairs(_mm512_abs_epi8(w), signed_x))));
  }
};

}  // namespace millrace::kernels::avx512bw
