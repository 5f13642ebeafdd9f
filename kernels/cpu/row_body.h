// Row-wise ops of a tier; see gemm_body.h for how it is included.
#pragma once

#include "kernels/cpu/kernels.h"

namespace millrace::kernels::body {

template <class V>
struct Rows {
  using F = typename V::F;
  using I = typename V::I;

  // e^x to within 1 unit in the last place, for every x: 2^n e^r with n = round(x / ln 2),
  // |r| <= ln 2 / 2 and the Taylor series to r^7 (its remainder, r^8 / 8!, is below 6e-9).
  // Subnormal results round once. NaN gives NaN, 0 gives 1.
  static inline __attribute__((always_inline)) F Exp(F x) {
    x = V::Min(V::Set(89.0f), V::Max(V::Set(-104.5f), x));
    const F n = V::RoundEven(V::Mul(x, V::Set(1.44269504f)));
    F r = V::Fma(n, V::Set(-0.693359375f), x);  // ln 2, its upper 9 bits: n times it is exact
    r = V::Fma(n, V::Set(2.12194440e-4f), r);
    F p = V::Set(1.0f / 5040.0f);
    p = V::Fma(p, r, V::Set(1.0f / 720.0f));
    p = V::Fma(p, r, V::Set(1.0f / 120.0f));
    p = V::Fma(p, r, V::Set(1.0f / 24.0f));
    p = V::Fma(p, r, V::Set(1.0f / 6.0f));
    p = V::Fma(p, r, V::Set(0.5f));
    p = V::Add(V::Fma(V::Mul(r, r), p, r), V::Set(1.0f));
    return V::Scale(p, n);
  }

  // e^x for x <= 0, to within 4e-6 of itself (the series to r^5, n ln 2 rounded once): for results
  // that become bf16.
  static inline __attribute__((always_inline)) F ExpOfNegative(F x) {
    x = V::Max(V::Set(-104.5f), x);
    const F n = V::RoundEven(V::Mul(x, V::Set(1.44269504f)));
    const F r = V::Fma(n, V::Set(-0.693147182f), x);
    F p = V::Set(1.0f / 120.0f);
    p = V::Fma(p, r, V::Set(1.0f / 24.0f));
    p = V::Fma(p, r, V::Set(1.0f / 6.0f));
    p = V::Fma(p, r, V::Set(0.5f));
    p = V::Fma(p, r, V::Set(1.0f));
    p = V::Fma(p, r, V::Set(1.0f));
    return V::Scale(p, n);
  }

  static inline F LoadPart(const float* p, int64_t count) {
    float lanes[16] = {};
    for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
    return V::Load(lanes);
  }
  static inline void StorePart(float* p, int64_t count, F value) {
    float lanes[16];
    V::Store(lanes, value);
    for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
  }

  static void ExpArray(const float* x, float* out, int64_t count) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) V::Store(out + i, Exp(V::Load(x + i)));
    if (i < count) StorePart(out + i, count - i, Exp(LoadPart(x + i, count - i)));
  }

  // Lane i sums the squares of x[i], x[i + 16], ...; then the tree.
  static void RmsNorm(const float* x, const float* weight, float* out, int64_t dim, float eps,
                      bool accumulate) {
    F squares = V::Zero();
    int64_t i = 0;
    for (; i + 16 <= dim; i += 16) {
      const F v = V::Load(x + i);
      squares = V::Fma(v, v, squares);
    }
    if (i < dim) {
      const F v = LoadPart(x + i, dim - i);
      squares = V::Fma(v, v, squares);
    }
    const float mean = V::ReduceAdd(squares) / static_cast<float>(dim);
    const F inverse = V::Set(1.0f / __builtin_sqrtf(mean + eps));
    for (i = 0; i + 16 <= dim; i += 16) {
      const F v = V::Mul(V::Mul(V::Load(x + i), inverse), V::Load(weight + i));
      V::Store(out + i, accumulate ? V::Add(V::Load(out + i), v) : v);
    }
    if (i < dim) {
      const F v = V::Mul(V::Mul(LoadPart(x + i, dim - i), inverse), LoadPart(weight + i, dim - i));
      StorePart(out + i, dim - i, accumulate ? V::Add(LoadPart(out + i, dim - i), v) : v);
    }
  }

  static inline F Silu(F g) {
    const F one = V::Set(1.0f);
    return V::Div(g, V::Add(one, Exp(V::Sub(V::Zero(), g))));
  }
  // (1 + tanh u) / 2 = 1 / (1 + e^-2u): no tanh, whose sum with 1 would cancel.
  static inline F GeluTanh(F x) {
    const F one = V::Set(1.0f);
    const F u2 = V::Mul(x, V::Fma(V::Mul(x, x), V::Set(0.0713548163f), V::Set(1.59576912f)));
    return V::Div(x, V::Add(one, Exp(V::Sub(V::Zero(), u2))));
  }
  template <F (*kActivation)(F)>
  static void Glu(const float* gate, const float* up, float* out, int64_t count) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
      V::Store(out + i, V::Mul(kActivation(V::Load(gate + i)), V::Load(up + i)));
    }
    if (i < count) {
      const F s = kActivation(LoadPart(gate + i, count - i));
      StorePart(out + i, count - i, V::Mul(s, LoadPart(up + i, count - i)));
    }
  }

  // cap tanh(x / cap), with tanh y = 1 - 2 / (e^2y + 1): within 2e-7 cap, which is the rounding of
  // values near the cap. Small values keep that absolute error; a softmax sees no other.
  static inline __attribute__((always_inline)) F SoftCap(F x, F cap) {
    const F y = V::Div(x, cap), one = V::Set(1.0f);
    const F t = V::Div(V::Set(2.0f), V::Add(Exp(V::Add(y, y)), one));
    return V::Mul(cap, V::Sub(one, t));
  }
  static void SoftCapArray(float* x, int64_t count, float limit) {
    const F cap = V::Set(limit);
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) V::Store(x + i, SoftCap(V::Load(x + i), cap));
    if (i < count) StorePart(x + i, count - i, SoftCap(LoadPart(x + i, count - i), cap));
  }

  static void RotateHalves(float* x, const float* cosine, const float* sine, int64_t pairs) {
    float* y = x + pairs;
    for (int64_t i = 0; i < pairs; ++i) {
      const float a = x[i], b = y[i];
      x[i] = a * cosine[i] - b * sine[i];
      y[i] = b * cosine[i] + a * sine[i];
    }
  }
  static void RotateInterleaved(float* x, const float* cosine, const float* sine, int64_t pairs) {
    for (int64_t i = 0; i < pairs; ++i) {
      const float a = x[2 * i], b = x[2 * i + 1];
      x[2 * i] = a * cosine[i] - b * sine[i];
      x[2 * i + 1] = b * cosine[i] + a * sine[i];
    }
  }

  // REQUIRES: cols is a multiple of 32. A NaN or infinity turns the block's scale into NaN, so that
  // it reaches every product of the row. (As integers, absolute values order like the floats, then
  // infinity, then NaN.)
  static void Quantize(const float* x, int64_t cols, int8_t* q, float* scale, float* sum,
                       int32_t* bias8) {
    const I magnitude = V::SetI(0x7fffffff);
    for (int64_t k = 0; k < cols; k += kBlock, ++scale, ++sum, ++bias8) {
      const F a = V::Load(x + k), b = V::Load(x + k + 16);
      const I top = V::MaxI(V::And(V::Bits(a), magnitude), V::And(V::Bits(b), magnitude));
      const int32_t bits = V::ReduceMaxI(top);
      float largest;
      __builtin_memcpy(&largest, &bits, 4);
      if (bits >= 0x7f800000) {
        V::StoreBytes(q + k, V::ZeroI());
        V::StoreBytes(q + k + 16, V::ZeroI());
        *scale = *sum = largest - largest;
        *bias8 = 0;
        continue;
      }
      // 1 / scale overflows for subnormal blocks; they count as zero (below 1e-36 in magnitude).
      const F inverse = V::Set(largest > 1e-36f ? 127.0f / largest : 0.0f);
      const I qa = V::ToInt(V::Mul(a, inverse)), qb = V::ToInt(V::Mul(b, inverse));
      V::StoreBytes(q + k, qa);
      V::StoreBytes(q + k + 16, qb);
      const int32_t total = V::ReduceAddI(V::AddI(qa, qb));
      *scale = largest / 127.0f;
      *sum = *scale * static_cast<float>(total);
      *bias8 = -8 * total;
    }
  }
};

}  // namespace millrace::kernels::body
