#pragma once
// Sixteen lanes as one 512-bit register, with products of bf16: AVX-512 F, BW, VL, DQ and BF16.

#include "kernels/cpu/lanes_avx512.h"

namespace millrace::kernels::avx512bf16 {

struct Lanes : avx512::Lanes {
  static constexpr int kQueryRows = 8;
  // x rounded to bf16, in memory and as fp32.
  MILLRACE_INLINE F StoreBf16(uint16_t* p, F x) {
    const auto rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), rounded);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
  }
  // The first row's number in the lower half of a lane, the second row's in the upper. Of 32 lanes:
  MILLRACE_INLINE void Pair(I first, I second, I& low, I& high) {
    const I lower = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8,
                                     39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const I upper = _mm512_add_epi16(lower, _mm512_set1_epi16(16));
    low = _mm512_permutex2var_epi16(first, lower, second);
    high = _mm512_permutex2var_epi16(first, upper, second);
  }
  MILLRACE_INLINE I Pair(__m256i first, __m256i second) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(first),
                           _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
  }
  // sum + the pairs' products with the two numbers at `by`, the upper ones first.
  MILLRACE_INLINE F DotBf16(F sum, I pairs, const uint16_t* by) {
    int32_t two;
    __builtin_memcpy(&two, by, 4);
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(pairs),
                            reinterpret_cast<__m512bh>(_mm512_set1_epi32(two)));
  }
};

}  // namespace millrace::kernels::avx512bf16
