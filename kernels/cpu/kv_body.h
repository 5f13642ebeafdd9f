// What attention of a tier multiplies: the element types of keys and values; see gemm_body.h for
// how this file is included. A kind takes kStep rows of keys (dimensions) or of values (tokens) at
// a time, as N vectors of 16 lanes, and multiplies them by as many numbers of a query or of its
// weights, which it wants as Words.
#pragma once

#include "kernels/cpu/kernels.h"

namespace millrace::kernels::body {

// Multiplied in fp32.
template <class V, class ElementType>
struct KvSingle {
  using F = typename V::F;
  using Element = ElementType;
  using Word = float;
  using Taken = F;
  static constexpr int kStep = 1;
  static constexpr bool kScaled = false;

  template <int N>
  static inline __attribute__((always_inline)) void Take(const Element* p, const Element*,
                                                         Taken (&out)[N]) {
    MILLRACE_UNROLL
    for (int n = 0; n < N; ++n) out[n] = Load(p + 16 * n);
  }
  static inline __attribute__((always_inline)) F Add(F sum, Taken taken, const Word* by) {
    return V::Fma(taken, V::Set(*by), sum);
  }

 private:
  static inline __attribute__((always_inline)) F Load(const float* p) { return V::Load(p); }
  static inline __attribute__((always_inline)) F Load(const uint16_t* p) { return V::LoadBf16(p); }
  static inline __attribute__((always_inline)) F Load(const int8_t* p) { return V::LoadS8(p); }
};

template <class V>
struct KvF32 : KvSingle<V, float> {};
template <class V>
struct KvBF16 : KvSingle<V, uint16_t> {};
// A token's scale multiplies its score, and its weight before the values are added up: scales cost
// a product a token, not one an element.
template <class V>
struct KvInt8 : KvSingle<V, int8_t> {
  static constexpr bool kScaled = true;
};

// Queries and weights are rounded to bf16 and multiplied as the instruction vdpbf16ps does: rows in
// pairs, of which the second is added first, both by fused multiply-adds; subnormals are zero, for
// which the caller sets the mode of all other instructions. The plain form of it: equal bytes.
template <class V>
struct KvPairs {
  using F = typename V::F;
  using Element = uint16_t;
  using Word = float;  // a bf16
  struct Taken {
    F first, second;
  };
  static constexpr int kStep = 2;
  static constexpr bool kScaled = false;

  // Stores x as Words; what they are worth.
  static inline __attribute__((always_inline)) F Put(Word* out, F x) {
    const F rounded = V::RoundBf16(x);
    V::Store(out, rounded);
    return rounded;
  }
  template <int N>
  static inline __attribute__((always_inline)) void Take(const Element* first,
                                                         const Element* second, Taken (&out)[N]) {
    MILLRACE_UNROLL
    for (int n = 0; n < N; ++n) {
      out[n] = {V::LoadBf16(first + 16 * n), V::LoadBf16(second + 16 * n)};
    }
  }
  static inline __attribute__((always_inline)) F Add(F sum, const Taken& taken, const Word* by) {
    return V::Fma(taken.first, V::Set(by[0]), V::Fma(taken.second, V::Set(by[1]), sum));
  }
};

// By that instruction.
template <class V>
struct KvDots {
  using F = typename V::F;
  using Element = uint16_t;
  using Word = uint16_t;
  using Taken = typename V::I;
  static constexpr int kStep = 2;
  static constexpr bool kScaled = false;

  static inline __attribute__((always_inline)) F Put(Word* out, F x) {
    return V::StoreBf16(out, x);
  }
  template <int N>
  static inline __attribute__((always_inline)) void Take(const Element* first,
                                                         const Element* second, Taken (&out)[N]) {
    MILLRACE_UNROLL
    for (int n = 0; n + 2 <= N; n += 2) {
      V::Pair(V::LoadI(first + 16 * n), V::LoadI(second + 16 * n), out[n], out[n + 1]);
    }
    if constexpr (N % 2 != 0) {
      out[N - 1] = V::Pair(V::Half(first + 16 * (N - 1)), V::Half(second + 16 * (N - 1)));
    }
  }
  static inline __attribute__((always_inline)) F Add(F sum, Taken taken, const Word* by) {
    return V::DotBf16(sum, taken, by);
  }
};

}  // namespace millrace::kernels::body
