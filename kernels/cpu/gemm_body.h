// Plain strips and exact products of a tier; the fast products are in tile_body.h. Included once by
// each tier file with its own `Lanes`; no include guard's worth of shared code: every template
// below is instantiated with a type of the tier, so that no two files define the same symbol.
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/payload_body.h"

namespace millrace::kernels::body {

// ---- Plain strips: one k of 16 rows after the other.
template <class V>
struct PlainF32 {
  static constexpr int kBytes = 64;
  static inline typename V::F Load(const std::byte* p) {
    return V::Load(reinterpret_cast<const float*>(p));
  }
};
template <class V>
struct PlainF16 {
  static constexpr int kBytes = 32;
  static inline typename V::F Load(const std::byte* p) {
    return V::LoadF16(reinterpret_cast<const uint16_t*>(p));
  }
};
template <class V>
struct PlainBF16 {
  static constexpr int kBytes = 32;
  static inline typename V::F Load(const std::byte* p) {
    return V::LoadBf16(reinterpret_cast<const uint16_t*>(p));
  }
};

// The rows of a last strip that is part full. Out of line: it would swell every tile.
template <class V>
__attribute__((noinline, cold)) void EmitPart(const GemmRun& a, int64_t row, int64_t token,
                                              const typename V::F& value) {
  float lanes[kStripRows];
  V::Store(lanes, value);
  float* out = a.out + token * a.rows;
  for (int i = 0; row < a.rows; ++i, ++row)
    out[row] = a.accumulate ? out[row] + lanes[i] : lanes[i];
}

// Writes (or adds) the 16 lanes of strip `strip` for token `token`.
template <class V>
inline __attribute__((always_inline)) void Emit(const GemmRun& a, int64_t strip, int64_t token,
                                                typename V::F value) {
  const int64_t row = strip * kStripRows;
  if (row + kStripRows > a.rows) {
    EmitPart<V>(a, row, token, value);
    return;
  }
  float* out = a.out + token * a.rows + row;
  V::Store(out, a.accumulate ? V::Add(V::Load(out), value) : value);
}

// ---- Exact: fp32, two chains of fused multiply-adds over even and over odd k, ascending, then one
// sum. Weights are dequantized kChunk columns at a time into the first-level cache; the chains of
// all tokens wait in memory between chunks, which changes nothing.
template <class V>
struct Exact {
  using F = typename V::F;

  // Columns [begin, begin + count) of the strips, dequantized: [R][kChunk][16].
  struct Chunk {
    const float* weights;
    int64_t begin, count;
  };
  // chains[2 r], chains[2 r + 1]: even and odd, of 16 lanes each, for R strips of each token.
  template <int R>
  static constexpr int64_t kChainFloats = 2 * R* kStripRows;

  template <int R, int M>
  static inline void Tile(const GemmRun& a, const Chunk& chunk, int64_t token, float* chains) {
    F sum[2][R][M];
    const float* x[M];
    MILLRACE_UNROLL
    for (int m = 0; m < M; ++m) {
      x[m] = a.x + (token + m) * a.cols + chunk.begin;
      MILLRACE_UNROLL
      for (int r = 0; r < R; ++r) {
        const float* chain = chains + (token + m) * kChainFloats<R> + 2 * r * kStripRows;
        sum[0][r][m] = V::Load(chain);
        sum[1][r][m] = V::Load(chain + kStripRows);
      }
    }
    for (int64_t k = 0; k + 1 < chunk.count; k += 2) {
      Step<R, M>(chunk.weights, k, x, sum[0]);
      Step<R, M>(chunk.weights, k + 1, x, sum[1]);
    }
    if (chunk.count % 2 != 0) Step<R, M>(chunk.weights, chunk.count - 1, x, sum[0]);
    MILLRACE_UNROLL
    for (int m = 0; m < M; ++m) {
      MILLRACE_UNROLL
      for (int r = 0; r < R; ++r) {
        float* chain = chains + (token + m) * kChainFloats<R> + 2 * r * kStripRows;
        V::Store(chain, sum[0][r][m]);
        V::Store(chain + kStripRows, sum[1][r][m]);
      }
    }
  }

  template <int R, int M>
  static inline __attribute__((always_inline)) void Step(const float* w, int64_t k,
                                                         const float* const (&x)[M],
                                                         F (&sum)[R][M]) {
    F v[R];
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) v[r] = V::Load(w + (r * kExactChunk + k) * kStripRows);
    MILLRACE_UNROLL
    for (int m = 0; m < M; ++m) {
      const F b = V::Set(x[m][k]);
      MILLRACE_UNROLL
      for (int r = 0; r < R; ++r) sum[r][m] = V::Fma(v[r], b, sum[r][m]);
    }
  }

  // All tokens in tiles of at most M, the rest in smaller ones.
  template <int R, int M>
  static inline void Tokens(const GemmRun& a, const Chunk& chunk, int64_t token, float* chains) {
    for (; token + M <= a.tokens; token += M) Tile<R, M>(a, chunk, token, chains);
    if constexpr (M > 1) {
      if (token < a.tokens) Tokens<R, M - 1>(a, chunk, token, chains);
    }
  }

  // Columns [begin, begin + count) of a strip.
  template <class Plain>
  struct FillPlain {
    static inline void Run(const GemmRun& a, int64_t strip, int64_t begin, int64_t count,
                           float* out) {
      const std::byte* p =
          a.strips + static_cast<size_t>(strip) * a.strip_bytes + begin * Plain::kBytes;
      for (int64_t k = 0; k < count; ++k, p += Plain::kBytes) {
        V::Prefetch(p + 2304);
        V::Store(out + k * kStripRows, Plain::Load(p));
      }
    }
  };
  template <class Format>
  struct FillCoded {
    static inline void Run(const GemmRun& a, int64_t strip, int64_t begin, int64_t count,
                           float* out) {
      Dequantize<V, Format>(a, strip, begin, count, out);
    }
  };

  template <class Fill, int R>
  static void Strips(const GemmRun& a, int64_t strip) {
    float* weights = a.scratch;
    float* chains = weights + R * kExactChunk * kStripRows;
    for (int64_t i = 0; i < a.tokens * kChainFloats<R>; i += kStripRows) {
      V::Store(chains + i, V::Zero());
    }
    for (int64_t begin = 0; begin < a.cols; begin += kExactChunk) {
      const int64_t left = a.cols - begin;
      const Chunk chunk = {weights, begin, left < kExactChunk ? left : kExactChunk};
      for (int r = 0; r < R; ++r) {
        Fill::Run(a, strip + r, begin, chunk.count, weights + r * kExactChunk * kStripRows);
      }
      Tokens<R, V::kExactTokens>(a, chunk, 0, chains);
    }
    for (int64_t t = 0; t < a.tokens; ++t) {
      for (int r = 0; r < R; ++r) {
        const float* chain = chains + t * kChainFloats<R> + 2 * r * kStripRows;
        Emit<V>(a, strip + r, t, V::Add(V::Load(chain), V::Load(chain + kStripRows)));
      }
    }
  }

  template <class Fill>
  static void Gemm(const GemmRun& a) {
    int64_t strip = a.strip_begin;
    for (; strip + V::kExactStrips <= a.strip_end; strip += V::kExactStrips) {
      Strips<Fill, V::kExactStrips>(a, strip);
    }
    for (; strip < a.strip_end; ++strip) Strips<Fill, 1>(a, strip);
  }
};

}  // namespace millrace::kernels::body
