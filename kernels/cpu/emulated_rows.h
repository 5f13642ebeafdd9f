// One row of an emulated tile product (emulated_tiles.h), a row of tokens times all of b added to
// the 16 sums of c: in plain code, and with AVX-512 VNNI where the including file has it.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __AVX512VNNI__
#include <immintrin.h>
#endif

namespace millrace::kernels {
namespace {  // each including file has instructions of its own

inline uint32_t Word(const std::byte* p) {
  uint32_t word;
  __builtin_memcpy(&word, p, 4);
  return word;
}
// What DAZ and FTZ make of a number: denormals are zero.
inline float Flush(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const bool denormal = (bits & 0x7f800000u) == 0;
  return __builtin_bit_cast(float, denormal ? bits & 0x80000000u : bits);
}
// Of a pair of bf16.
inline float Low(uint32_t pair) {
  return Flush(__builtin_bit_cast(float, pair << 16));
}
inline float High(uint32_t pair) {
  return Flush(__builtin_bit_cast(float, pair & 0xffff0000u));
}

#ifdef __AVX512VNNI__
// vpdpbusd wants one operand without sign: b + 128, whose share of the sum is taken off again.
inline void DotRow(int quads, const std::byte* a, const std::byte (*b)[64], std::byte* c) {
  const __m512i bias = _mm512_set1_epi32(static_cast<int>(0x80808080u));
  __m512i sum = _mm512_loadu_si512(c), off = _mm512_setzero_si512();
  for (int k = 0; k < quads; ++k) {
    const __m512i x = _mm512_set1_epi32(static_cast<int>(Word(a + 4 * k)));
    const __m512i w = _mm512_xor_si512(_mm512_loadu_si512(b[k]), bias);
    sum = _mm512_dpbusd_epi32(sum, w, x);
    off = _mm512_dpbusd_epi32(off, bias, x);
  }
  _mm512_storeu_si512(c, _mm512_sub_epi32(sum, off));
}

inline __m512 Flush(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x), sign = _mm512_set1_epi32(INT32_MIN);
  const __mmask16 denormal = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7f800000));
  return _mm512_castsi512_ps(_mm512_mask_and_epi32(bits, denormal, bits, sign));
}
inline void PairsRow(int pairs, const std::byte* a, const float (&b)[2][16][16], std::byte* c) {
  __m512 even = _mm512_setzero_ps(), odd = even;
  for (int k = 0; k < pairs; ++k) {
    const uint32_t pair = Word(a + 4 * k);
    even = Flush(_mm512_fmadd_ps(_mm512_set1_ps(Low(pair)), _mm512_loadu_ps(b[0][k]), even));
    odd = Flush(_mm512_fmadd_ps(_mm512_set1_ps(High(pair)), _mm512_loadu_ps(b[1][k]), odd));
  }
  const __m512 sum = Flush(_mm512_add_ps(even, odd));
  _mm512_storeu_ps(c, Flush(_mm512_add_ps(Flush(_mm512_loadu_ps(c)), sum)));
}
#else
inline void PairsRow(int pairs, const std::byte* a, const float (&b)[2][16][16], std::byte* c) {
  for (int n = 0; n < 16; ++n) {
    float even = 0, odd = 0, sum;
    for (int k = 0; k < pairs; ++k) {
      const uint32_t pair = Word(a + 4 * k);
      even = Flush(__builtin_fmaf(Low(pair), b[0][k][n], even));
      odd = Flush(__builtin_fmaf(High(pair), b[1][k][n], odd));
    }
    __builtin_memcpy(&sum, c + 4 * n, 4);
    sum = Flush(Flush(sum) + Flush(even + odd));
    __builtin_memcpy(c + 4 * n, &sum, 4);
  }
}
inline void DotRow(int quads, const std::byte* a, const std::byte (*b)[64], std::byte* c) {
  for (int n = 0; n < 16; ++n) {
    uint32_t sum = Word(c + 4 * n);
    for (int i = 0; i < 4 * quads; ++i) {
      const auto x = static_cast<int8_t>(a[i]);
      const auto w = static_cast<int8_t>(b[i / 4][4 * n + i % 4]);
      sum += static_cast<uint32_t>(x * w);
    }
    __builtin_memcpy(c + 4 * n, &sum, 4);
  }
}
#endif

}  // namespace
}  // namespace millrace::kernels
