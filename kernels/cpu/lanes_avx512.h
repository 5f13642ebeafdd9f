#pragma once
// Sixteen lanes as one 512-bit register: AVX-512 F, BW, VL, DQ and VNNI.

#include <immintrin.h>

#include <cstdint>

#if defined(__clang__)
#define MILLRACE_UNROLL _Pragma("unroll")
#else
#define MILLRACE_UNROLL _Pragma("GCC unroll 32")
#endif
#define MILLRACE_INLINE static inline __attribute__((always_inline))

namespace millrace::kernels::avx512 {

struct Lanes {
  using F = __m512;
  using I = __m512i;
  // 32 registers: 24 accumulators at most. 2 strips x 6 tokens need 2 + 6 loads for 12 products,
  // which keeps both multiply pipes busy at two loads a cycle.
  static constexpr int kExactStrips = 2, kExactTokens = 6;
  static constexpr int kFastStrips = 2, kFastTokens = 6;
  // A panel is filled at 10 cycles a block and strip, and a tile of it runs 66 a block.
  static constexpr int kPanelStrips = 2, kPanelTokens = 6, kPanelFrom = 24, kCheapPanelFrom = 40;
  static constexpr int kQueryRows = 6, kValueVectors = 4, kValueSums = 24;
  static constexpr bool kDotsArePairs = false;
  static constexpr bool kBiasedQ8 = true;  // the unsigned operand of vpdpbusd is the weight + 128

  MILLRACE_INLINE F Set(float x) { return _mm512_set1_ps(x); }
  MILLRACE_INLINE F Zero() { return _mm512_setzero_ps(); }
  MILLRACE_INLINE F Load(const float* p) { return _mm512_loadu_ps(p); }
  MILLRACE_INLINE void Store(float* p, F x) { _mm512_storeu_ps(p, x); }
  MILLRACE_INLINE __m256i Half(const uint16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  MILLRACE_INLINE F LoadBf16(const uint16_t* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(Half(p)), 16));
  }
  // To the nearest bf16, ties to even, as fp32. A NaN stays one.
  MILLRACE_INLINE F RoundBf16(F x) {
    const __m512i bits = _mm512_castps_si512(x), high = _mm512_set1_epi32(-0x10000);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 number = _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q);
    return _mm512_mask_mov_ps(x, number, _mm512_castsi512_ps(_mm512_and_si512(up, high)));
  }
  MILLRACE_INLINE F LoadF16(const uint16_t* p) { return _mm512_cvtph_ps(Half(p)); }
  MILLRACE_INLINE F Add(F x, F y) { return _mm512_add_ps(x, y); }
  MILLRACE_INLINE F Sub(F x, F y) { return _mm512_sub_ps(x, y); }
  MILLRACE_INLINE F Mul(F x, F y) { return _mm512_mul_ps(x, y); }
  MILLRACE_INLINE F Div(F x, F y) { return _mm512_div_ps(x, y); }
  MILLRACE_INLINE F Fma(F x, F y, F z) { return _mm512_fmadd_ps(x, y, z); }
  MILLRACE_INLINE F Max(F x, F y) { return _mm512_max_ps(x, y); }
  MILLRACE_INLINE F Min(F x, F y) { return _mm512_min_ps(x, y); }
  MILLRACE_INLINE F RoundEven(F x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  MILLRACE_INLINE F Scale(F x, F n) { return _mm512_scalef_ps(x, n); }
  MILLRACE_INLINE F Keep(F x, int begin, int end, float fill) {
    const unsigned up_to = end <= 0 ? 0u : end >= 16 ? 0xffffu : (1u << end) - 1;
    const unsigned before = begin <= 0 ? 0u : begin >= 16 ? 0xffffu : (1u << begin) - 1;
    return _mm512_mask_blend_ps(static_cast<__mmask16>(up_to & ~before), _mm512_set1_ps(fill), x);
  }
  MILLRACE_INLINE float ReduceAdd(F x) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  MILLRACE_INLINE float ReduceMax(F x) { return _mm512_reduce_max_ps(x); }

  MILLRACE_INLINE I ZeroI() { return _mm512_setzero_si512(); }
  MILLRACE_INLINE I SetI(int32_t x) { return _mm512_set1_epi32(x); }
  MILLRACE_INLINE I LoadI(const void* p) { return _mm512_loadu_si512(p); }
  template <int kShift>
  MILLRACE_INLINE I ShiftRight(I x) {
    return _mm512_srli_epi32(x, kShift);
  }
  template <int kShift>
  MILLRACE_INLINE I ShiftLeft(I x) {
    return _mm512_slli_epi32(x, kShift);
  }
  MILLRACE_INLINE void StoreI(void* p, I x) { _mm512_storeu_si512(p, x); }
  MILLRACE_INLINE F LoadS8(const void* p) {
    const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
  }
  MILLRACE_INLINE I LoadHalves(const void* low, const void* high) {
    const __m256i first = _mm256_loadu_si256(static_cast<const __m256i*>(low));
    const __m256i second = _mm256_loadu_si256(static_cast<const __m256i*>(high));
    return _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
  }
  // even[0], odd[0], even[1] ...
  MILLRACE_INLINE void StoreInTurn(float* p, F even, F odd) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    Store(p, _mm512_permutex2var_ps(even, low, odd));
    Store(p + 16, _mm512_permutex2var_ps(even, high, odd));
  }
  MILLRACE_INLINE I Or(I x, I y) { return _mm512_or_si512(x, y); }
  MILLRACE_INLINE I Lookup16(I index, const void* table) {
    const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(table));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(bytes), index);
  }
  MILLRACE_INLINE I And(I x, I y) { return _mm512_and_si512(x, y); }
  // x | (y & mask); y comes first because the instruction overwrites it, and x may be a constant.
  MILLRACE_INLINE I OrBits(I x, I y, I mask) { return _mm512_ternarylogic_epi32(y, mask, x, 0xea); }
  MILLRACE_INLINE I AddI(I x, I y) { return _mm512_add_epi32(x, y); }
  MILLRACE_INLINE I MaxI(I x, I y) { return _mm512_max_epi32(x, y); }
  MILLRACE_INLINE I Bits(F x) { return _mm512_castps_si512(x); }
  MILLRACE_INLINE F FromBits(I x) { return _mm512_castsi512_ps(x); }
  MILLRACE_INLINE int32_t ReduceMaxI(I x) { return _mm512_reduce_max_epi32(x); }
  MILLRACE_INLINE int32_t ReduceAddI(I x) { return _mm512_reduce_add_epi32(x); }
  MILLRACE_INLINE F ToFloat(I x) { return _mm512_cvtepi32_ps(x); }
  MILLRACE_INLINE I ToInt(F x) { return _mm512_cvtps_epi32(x); }
  MILLRACE_INLINE void StoreBytes(int8_t* p, I x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(x));
  }
  MILLRACE_INLINE I Broadcast4(const int8_t* p) {
    int32_t x;
    __builtin_memcpy(&x, p, 4);
    return _mm512_set1_epi32(x);
  }
#ifdef __AVX512VNNI__  // lanes_avx512bw.h has others
  MILLRACE_INLINE I DotQ4(I c, I w, I x) {
    return _mm512_dpbusd_epi32(c, w, x);
  }
  MILLRACE_INLINE I DotQ8(I c, I w, I x) {
    return _mm512_dpbusd_epi32(c, w, x);
  }
#endif
  MILLRACE_INLINE void Prefetch(const void* p) {
    _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
  }
};

}  // namespace millrace::kernels::avx512
