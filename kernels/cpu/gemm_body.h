// Products of a tier. Included once by each tier file with its own `Lanes`; no include guard's
// worth of shared code: every template below is instantiated with a type of the tier, so that no
// two files define the same symbol.
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

// ---- Formats whose codes are unpacked in registers on their way to the products; the other
// payloads take the way of panel_body.h. A strip is a run of blocks {header, 32 columns}.

// Dots of one block in integers: c[r][m] over R strips and M tokens. `q[m]` are the token's 32
// bytes.
template <class V, int R, int M>
struct NibbleDots {
  static inline void Run(const std::byte* const (&p)[R], const int8_t* const (&q)[M],
                         typename V::I (&c)[R][M]) {
    const typename V::I mask = V::SetI(0x0f0f0f0f);
    MILLRACE_UNROLL
    for (int j = 0; j < 4; ++j) {
      typename V::I low[R], high[R];
      MILLRACE_UNROLL
      for (int r = 0; r < R; ++r) {
        const typename V::I v = V::LoadI(p[r] + 64 * j);
        low[r] = V::And(v, mask);
        high[r] = V::And(V::template ShiftRight<4>(v), mask);
      }
      MILLRACE_UNROLL
      for (int m = 0; m < M; ++m) {
        const typename V::I x = V::Broadcast4(q[m] + 8 * j);
        MILLRACE_UNROLL
        for (int r = 0; r < R; ++r) c[r][m] = V::DotQ4(c[r][m], low[r], x);
      }
      MILLRACE_UNROLL
      for (int m = 0; m < M; ++m) {
        const typename V::I x = V::Broadcast4(q[m] + 8 * j + 4);
        MILLRACE_UNROLL
        for (int r = 0; r < R; ++r) c[r][m] = V::DotQ4(c[r][m], high[r], x);
      }
    }
  }
};

// {16 fp16 d, 256 B nibbles}: (q - 8) d
template <class V>
struct Q4_0 {
  static constexpr int kHeader = 32, kBytes = 288;
  static inline typename V::I Start(int32_t bias8) { return V::SetI(bias8); }
  template <int R, int M>
  using Dots = NibbleDots<V, R, M>;
  static constexpr bool kMinimum = false;
};

// {16 fp16 d, 16 fp16 m, 256 B nibbles}: q d + m
template <class V>
struct Q4_1 {
  static constexpr int kHeader = 64, kBytes = 320;
  static inline typename V::I Start(int32_t) { return V::ZeroI(); }
  template <int R, int M>
  using Dots = NibbleDots<V, R, M>;
  static constexpr bool kMinimum = true;
};

template <class V, int R, int M>
struct ByteDots {
  static inline void Run(const std::byte* const (&p)[R], const int8_t* const (&q)[M],
                         typename V::I (&c)[R][M]) {
    MILLRACE_UNROLL
    for (int j = 0; j < 8; ++j) {
      typename V::I w[R];
      MILLRACE_UNROLL
      for (int r = 0; r < R; ++r) w[r] = V::LoadI(p[r] + 64 * j);
      MILLRACE_UNROLL
      for (int m = 0; m < M; ++m) {
        const typename V::I x = V::Broadcast4(q[m] + 4 * j);
        MILLRACE_UNROLL
        for (int r = 0; r < R; ++r) c[r][m] = V::DotQ8(c[r][m], w[r], x);
      }
    }
  }
};

// {16 fp16 d, 512 B q + 128}: q d
template <class V>
struct Q8_0 {
  static constexpr int kHeader = 32, kBytes = 544;
  // -128 sum = 16 * (-8 sum)
  static inline typename V::I Start(int32_t bias8) {
    return V::kBiasedQ8 ? V::template ShiftLeft<4>(V::SetI(bias8)) : V::ZeroI();
  }
  template <int R, int M>
  using Dots = ByteDots<V, R, M>;
  static constexpr bool kMinimum = false;
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

template <int N>
struct TokenTile {
  static constexpr int kTokens = N;
};
// Calls body(TokenTile<tokens>, token) for tokens <= N.
template <int N, class Body>
inline __attribute__((always_inline)) void OneTile(int64_t tokens, int64_t token,
                                                   const Body& body) {
  if (tokens == N) {
    body(TokenTile<N>(), token);
  } else if constexpr (N > 1) {
    OneTile<N - 1>(tokens, token, body);
  }
}
// Tiles of N tokens while two more would fit; the rest in halves, as 4 + 4 rather than 6 + 2: small
// tiles load and unpack a weight for few products.
template <int N, class Body>
inline __attribute__((always_inline)) void ForTiles(int64_t tokens, const Body& body) {
  int64_t token = 0;
  for (; tokens - token >= 2 * N; token += N) body(TokenTile<N>(), token);
  const int64_t left = tokens - token;
  if (left > N) {
    OneTile<N>((left + 1) / 2, token, body);
    token += (left + 1) / 2;
  }
  OneTile<N>(tokens - token, token, body);
}

// ---- Fast: integer dots of a block, scaled and summed in fp32 in ascending order of blocks.
// Integers are exact and the fp32 steps are the same in each tile shape, so these too do not depend
// on it.
template <class V>
struct Fast {
  using F = typename V::F;
  using I = typename V::I;

  template <class Format, int R, int M>
  static inline void Tile(const GemmRun& a, int64_t strip, int64_t token) {
    const int64_t blocks = a.cols / kBlock;
    F sum[R][M];
    const std::byte* p[R];
    const int8_t* q[M];
    MILLRACE_UNROLL
    for (int m = 0; m < M; ++m) q[m] = a.quantized.q + (token + m) * a.cols;
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) {
      p[r] = a.strips + static_cast<size_t>(strip + r) * a.strip_bytes + Format::kHeader;
      MILLRACE_UNROLL
      for (int m = 0; m < M; ++m) sum[r][m] = V::Zero();
    }
    const float* scale = a.quantized.scale + token * blocks;
    const float* block_sum = a.quantized.sum + token * blocks;
    const int32_t* bias8 = a.quantized.bias8 + token * blocks;
    const auto strip_bytes = static_cast<int64_t>(a.strip_bytes);
    for (int64_t b = 0; b < blocks; ++b) {
      I c[R][M];
      MILLRACE_UNROLL
      for (int m = 0; m < M; ++m) {
        const I start = Format::Start(bias8[m * blocks + b]);
        MILLRACE_UNROLL
        for (int r = 0; r < R; ++r) c[r][m] = start;
      }
      if (token == 0) {  // later tiles find the strips in the cache
        const int64_t skip = b * Format::kBytes + kAhead < strip_bytes ? 0 : (R - 1) * strip_bytes;
        MILLRACE_UNROLL
        for (int r = 0; r < R; ++r) PrefetchBlock<Format>(p[r] + kAhead + skip);
      }
      Format::template Dots<R, M>::Run(p, q, c);
      MILLRACE_UNROLL
      for (int r = 0; r < R; ++r) {
        const uint16_t* d = reinterpret_cast<const uint16_t*>(p[r] - Format::kHeader);
        const F weight_scale = V::LoadF16(d);
        MILLRACE_UNROLL
        for (int m = 0; m < M; ++m) {
          const F s = V::Mul(weight_scale, V::Set(scale[m * blocks + b]));
          sum[r][m] = V::Fma(V::ToFloat(c[r][m]), s, sum[r][m]);
        }
        if constexpr (Format::kMinimum) {
          const F minimum = V::LoadF16(d + kStripRows);
          MILLRACE_UNROLL
          for (int m = 0; m < M; ++m) {
            sum[r][m] = V::Fma(minimum, V::Set(block_sum[m * blocks + b]), sum[r][m]);
          }
        }
        p[r] += Format::kBytes;
      }
      MILLRACE_UNROLL
      for (int m = 0; m < M; ++m) q[m] += kBlock;
    }
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) {
      MILLRACE_UNROLL
      for (int m = 0; m < M; ++m) Emit<V>(a, strip + r, token + m, sum[r][m]);
    }
  }

  // How far ahead of its use a strip is asked for: about the latency of memory. Past the end of R
  // strips that are read together, the next R follow.
  static constexpr int64_t kAhead = 2304;

  template <class Format>
  static inline void PrefetchBlock(const std::byte* p) {
    MILLRACE_UNROLL
    for (int offset = 0; offset < Format::kBytes; offset += 64) V::Prefetch(p + offset);
  }

  template <class Format, int R>
  static inline void Tokens(const GemmRun& a, int64_t strip) {
    ForTiles<V::kFastTokens>(a.tokens, [&](auto tile, int64_t token) {
      Tile<Format, R, decltype(tile)::kTokens>(a, strip, token);
    });
  }

  template <class Format>
  static void Gemm(const GemmRun& a) {
    int64_t strip = a.strip_begin;
    for (; strip + V::kFastStrips <= a.strip_end; strip += V::kFastStrips) {
      Tokens<Format, V::kFastStrips>(a, strip);
    }
    for (; strip < a.strip_end; ++strip) Tokens<Format, 1>(a, strip);
  }
};

}  // namespace millrace::kernels::body
