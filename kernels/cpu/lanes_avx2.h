#pragma once
// Sixteen lanes as two 256-bit registers: AVX2, FMA, F16C.

#include <immintrin.h>

#include <cstdint>

#if defined(__clang__)
#define MILLRACE_UNROLL _Pragma("unroll")
#else
#define MILLRACE_UNROLL _Pragma("GCC unroll 32")
#endif
#define MILLRACE_INLINE static inline __attribute__((always_inline))

namespace millrace::kernels::avx2 {

struct Lanes {
  struct F {
    __m256 a, b;
  };
  struct I {
    __m256i a, b;
  };
  // 16 registers: 12 accumulators at most. In fast products those are dots; the sums of four tokens
  // are used once a block, from memory.
  static constexpr int kExactStrips = 1, kExactTokens = 3;
  static constexpr int kFastStrips = 1, kFastTokens = 4;
  static constexpr int kPanelFrom = 0;  // no panel
  static constexpr int kQueryRows = 3, kValueVectors = 2, kValueSums = 6;
  static constexpr bool kBiasedQ8 = false;
  static constexpr bool kDotsArePairs = true;

  MILLRACE_INLINE F Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  MILLRACE_INLINE F Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  MILLRACE_INLINE F Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  MILLRACE_INLINE void Store(float* p, F x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
  }
  MILLRACE_INLINE __m128i Half(const uint16_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  MILLRACE_INLINE __m256 WidenBf16(__m128i h) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
  }
  MILLRACE_INLINE F LoadBf16(const uint16_t* p) {
    return {WidenBf16(Half(p)), WidenBf16(Half(p + 8))};
  }
  MILLRACE_INLINE __m256 RoundBf16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x), high = _mm256_set1_epi32(-0x10000);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256 rounded = _mm256_castsi256_ps(_mm256_and_si256(up, high));
    return _mm256_blendv_ps(x, rounded, _mm256_cmp_ps(x, x, _CMP_ORD_Q));
  }
  MILLRACE_INLINE F RoundBf16(F x) { return {RoundBf16(x.a), RoundBf16(x.b)}; }
  MILLRACE_INLINE F LoadF16(const uint16_t* p) {
    return {_mm256_cvtph_ps(Half(p)), _mm256_cvtph_ps(Half(p + 8))};
  }
  MILLRACE_INLINE F Add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  MILLRACE_INLINE F Sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  MILLRACE_INLINE F Mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  MILLRACE_INLINE F Div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  MILLRACE_INLINE F Fma(F x, F y, F z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
  }
  MILLRACE_INLINE F Max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  MILLRACE_INLINE F Min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  MILLRACE_INLINE F RoundEven(F x) {
    constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, kMode), _mm256_round_ps(x.b, kMode)};
  }
  MILLRACE_INLINE __m256 Exponent(__m256 n) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
  }
  MILLRACE_INLINE F PowerOfTwo(F n) { return {Exponent(n.a), Exponent(n.b)}; }
  MILLRACE_INLINE F Scale(F x, F n) {  // as in lanes_scalar.h
    const F half = RoundEven(Mul(n, Set(0.5f)));
    return Mul(Mul(x, PowerOfTwo(half)), PowerOfTwo(Sub(n, half)));
  }
  // All ones in the lanes of [begin, end) - offset.
  MILLRACE_INLINE __m256 RangeMask(int begin, int end, int offset) {
    const __m256i lane =
        _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(offset));
    const __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(begin), lane);
    const __m256i inside = _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane);
    return _mm256_castsi256_ps(_mm256_andnot_si256(below, inside));
  }
  MILLRACE_INLINE F Keep(F x, int begin, int end, float fill) {
    const __m256 f = _mm256_set1_ps(fill);
    return {_mm256_blendv_ps(f, x.a, RangeMask(begin, end, 0)),
            _mm256_blendv_ps(f, x.b, RangeMask(begin, end, 8))};
  }
  MILLRACE_INLINE float ReduceAdd(F x) {
    const __m256 eight = _mm256_add_ps(x.a, x.b);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  MILLRACE_INLINE float ReduceMax(F x) {
    const __m256 eight = _mm256_max_ps(x.a, x.b);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }

  MILLRACE_INLINE I ZeroI() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  MILLRACE_INLINE I SetI(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  MILLRACE_INLINE I LoadI(const void* p) {
    const __m256i* v = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
  }
  template <int kShift>
  MILLRACE_INLINE I ShiftRight(I x) {
    return {_mm256_srli_epi32(x.a, kShift), _mm256_srli_epi32(x.b, kShift)};
  }
  template <int kShift>
  MILLRACE_INLINE I ShiftLeft(I x) {
    return {_mm256_slli_epi32(x.a, kShift), _mm256_slli_epi32(x.b, kShift)};
  }
  MILLRACE_INLINE void StoreI(void* p, I x) {
    __m256i* v = static_cast<__m256i*>(p);
    _mm256_storeu_si256(v, x.a);
    _mm256_storeu_si256(v + 1, x.b);
  }
  MILLRACE_INLINE F LoadS8(const void* p) {
    const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
  }
  MILLRACE_INLINE I Or(I x, I y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
  MILLRACE_INLINE I Lookup16(I index, const void* table) {
    const __m256i bytes =
        _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(table)));
    return {_mm256_shuffle_epi8(bytes, index.a), _mm256_shuffle_epi8(bytes, index.b)};
  }
  MILLRACE_INLINE I And(I x, I y) {
    return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
  }
  // x | (y & mask)
  MILLRACE_INLINE I OrBits(I x, I y, I mask) { return Or(x, And(y, mask)); }
  MILLRACE_INLINE I AddI(I x, I y) {
    return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
  }
  MILLRACE_INLINE I MaxI(I x, I y) {
    return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)};
  }
  MILLRACE_INLINE I Bits(F x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
  MILLRACE_INLINE F FromBits(I x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
  MILLRACE_INLINE int32_t ReduceMaxI(I x) {
    const __m256i eight = _mm256_max_epi32(x.a, x.b);
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
  }
  MILLRACE_INLINE int32_t ReduceAddI(I x) {
    const __m256i eight = _mm256_add_epi32(x.a, x.b);
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
  }
  MILLRACE_INLINE F ToFloat(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
  MILLRACE_INLINE I ToInt(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
  MILLRACE_INLINE void StoreBytes(int8_t* p, I x) {
    const __m128i low =
        _mm_packs_epi32(_mm256_castsi256_si128(x.a), _mm256_extracti128_si256(x.a, 1));
    const __m128i high =
        _mm_packs_epi32(_mm256_castsi256_si128(x.b), _mm256_extracti128_si256(x.b, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(low, high));
  }
  MILLRACE_INLINE I Broadcast4(const int8_t* p) {
    int32_t x;
    __builtin_memcpy(&x, p, 4);
    return SetI(x);
  }
  // Keeps chains of sums: of a tree, which GCC makes of them, all terms wait in memory.
  MILLRACE_INLINE I Chained(I sum) {
    __asm__("" : "+x"(sum.a), "+x"(sum.b));
    return sum;
  }
  // Sums of two products each in 16 bits, where they must fit; of two sums in 32.
  MILLRACE_INLINE I Pairs(I w, I x) {
    return {_mm256_maddubs_epi16(w.a, x.a), _mm256_maddubs_epi16(w.b, x.b)};
  }
  MILLRACE_INLINE I AddPairs(I x, I y) {
    return Chained({_mm256_add_epi16(x.a, y.a), _mm256_add_epi16(x.b, y.b)});
  }
  MILLRACE_INLINE I SumPairs(I x) {
    const __m256i one = _mm256_set1_epi16(1);
    return {_mm256_madd_epi16(x.a, one), _mm256_madd_epi16(x.b, one)};
  }
  // maddubs saturates at 2 * 255 * 127, so the weight's sign moves to the activation: then a pair
  // is at most 2 * 128 * 127 = 32512, which fits 16 bits.
  MILLRACE_INLINE I DotQ8(I c, I biased, I x) {
    const __m256i off = _mm256_set1_epi8(-128);
    const I w = {_mm256_xor_si256(biased.a, off), _mm256_xor_si256(biased.b, off)};
    const I magnitude = {_mm256_abs_epi8(w.a), _mm256_abs_epi8(w.b)};
    const I other = {_mm256_sign_epi8(x.a, w.a), _mm256_sign_epi8(x.b, w.b)};
    return Chained(AddI(c, SumPairs(Pairs(magnitude, other))));
  }
  MILLRACE_INLINE void Prefetch(const void* p) {
    _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
  }
};

}  // namespace millrace::kernels::avx2
