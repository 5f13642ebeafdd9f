// Fast products: integer dots of 32 columns, scaled and summed in fp32 in ascending order of
// blocks. Integers are exact and the fp32 steps are the same in each tile shape and chunk of
// columns, so the results do not depend on them. See gemm_body.h for how this file is included.
//   one scale:   sum += dot (weight's scale x token's)
//   two:         sum += (dot of the first 16 x scale + dot of the last 16 x scale) token's scale
//   an offset:   sum += offset x token's sum, after that
//
// A tile is R strips x M tokens whose sums stay in registers. It unpacks the codes in registers on
// their way to the dots: no byte of a weight is stored. With one tile of tokens it runs over all
// columns; with more, over kChunkBytes of weights at a time, so that all tiles find the weights in
// the first-level cache, while the next chunk is fetched from memory a few lines a block:
//
//            chunk 0   chunk 1   chunk 2
//   tile 0   1 ------  3 ------  5 ...       sums of a token wait in memory between its chunks
//   tile 1   2 ------  4 ------  6 ...
#pragma once

#include "kernels/cpu/gemm_body.h"

namespace millrace::kernels::body {

// Weights of the strips of a tile that stay in the first-level cache while all tokens pass, beside
// those that are fetched for the next chunk.
inline constexpr int64_t kChunkBytes = int64_t{16} << 10;

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
// As few tiles of at most N tokens as there can be, as even as they can be (4 + 4 rather than
// 6 + 2): small ones load and unpack a weight for few products. REQUIRES: tokens > 0.
template <int N, class Body>
inline __attribute__((always_inline)) void ForTiles(int64_t tokens, const Body& body) {
  const int64_t tiles = (tokens + N - 1) / N, most = tokens / tiles + 1;
  int64_t large = tokens % tiles;  // tiles with one token more
  for (int64_t token = 0; token < tokens; --large) {
    const int64_t here = large > 0 ? most : most - 1;
    OneTile<N>(here, token, body);
    token += here;
  }
}

// Where memory is asked for lines that are needed later: a cursor over groups of R strips.
template <class V>
struct Ahead {
  const std::byte* at;   // in the first strip
  const std::byte* end;  // of that strip
  int64_t pitch;         // bytes of a strip
  int64_t step;          // bytes of each strip to ask for at a block
  int64_t lines;         // that many bytes may touch; the same each time, for the branch predictor

  template <int R>
  inline __attribute__((always_inline)) void Step() {
    if (__builtin_expect(at >= end, 0)) {  // the next R strips follow
      at += (R - 1) * pitch;
      end += R * pitch;
    }
    for (int64_t i = 0; i < lines; ++i) {
      MILLRACE_UNROLL
      for (int r = 0; r < R; ++r) V::Prefetch(at + r * pitch + 64 * i);
    }
    at += step;
  }
};

// The sums of a tile between its chunks of columns lie in [tokens][R][kStripRows].
template <class V, int R, int M>
inline __attribute__((always_inline)) void TakeSums(bool first, const float* sums, int64_t token,
                                                    typename V::F (&sum)[R][M]) {
  MILLRACE_UNROLL
  for (int m = 0; m < M; ++m) {
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) {
      sum[r][m] = first ? V::Zero() : V::Load(sums + ((token + m) * R + r) * kStripRows);
    }
  }
}
template <class V, int R, int M>
inline __attribute__((always_inline)) void KeepSums(float* sums, int64_t token,
                                                    const typename V::F (&sum)[R][M]) {
  MILLRACE_UNROLL
  for (int m = 0; m < M; ++m) {
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) V::Store(sums + ((token + m) * R + r) * kStripRows, sum[r][m]);
  }
}
// After the last columns: to the output. `strip`: the first.
template <class V, int R, int M>
inline __attribute__((always_inline)) void EmitSums(const GemmRun& a, int64_t strip, int64_t token,
                                                    const typename V::F (&sum)[R][M]) {
  MILLRACE_UNROLL
  for (int m = 0; m < M; ++m) {
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) Emit<V>(a, strip + r, token + m, sum[r][m]);
  }
}

// Blocks [begin, begin + blocks) of some strips.
struct Columns {
  const std::byte* header;  // of the first strip's group with the first block
  int64_t block;            // that block in its group
  int64_t pitch;            // bytes from a strip to the next
  int64_t begin, blocks;
  int64_t strip;  // the first
};

template <class V>
struct Fast {
  using F = typename V::F;
  using I = typename V::I;

  // What the dots start with: the constant that codes are off, times the sum of the activations.
  template <class Format>
  static inline __attribute__((always_inline)) I Start(const QuantizedRows& x, int64_t block,
                                                       int part) {
    constexpr int kConstant = Format::kConstant;
    if constexpr (kConstant == 0 || (Format::kWide && !V::kBiasedQ8)) {
      return V::ZeroI();
    } else if constexpr (Format::Header::kScales == 2) {
      const I start = V::SetI(x.halves[2 * block + part]);
      return Shifted<V, __builtin_ctz(kConstant) - 2>(start);
    } else {
      return Shifted<V, __builtin_ctz(kConstant) - 3>(V::SetI(x.bias8[block]));
    }
  }

  // What Read's offset means for the sum: added once for each activation.
  template <class Format>
  static inline __attribute__((always_inline)) F Added(const BlockScales<V>& s) {
    if constexpr (Format::Header::kOffset == Offset::kMinimum) {
      return s.offset;
    } else {
      const F constant = V::Set(static_cast<float>(Format::kConstant));
      return V::Mul(V::Sub(constant, s.offset), s.scale[0]);
    }
  }

  // Lines whose products of neighbouring columns are summed in 16 bits before they are widened, in
  // tiers that have no dot of four; 0: each is a dot. Activations are -127 .. 127.
  template <class Format>
  static constexpr int PairLines() {
    if constexpr (!V::kDotsArePairs || Format::kWide) {
      return 0;
    } else {
      constexpr int kBits = Format::Codes::kBits, kLines = 8 / Format::Header::kScales;
      constexpr int kMost = 32767 / (2 * 127 * ((1 << kBits) - 1));
      static_assert(kMost >= 2);
      return kMost >= kLines ? kLines : kMost >= 4 ? 4 : 2;
    }
  }

  // Long: one loop nest whose registers a call would spill.
  template <class Format, int R, int M>
  static __attribute__((noinline)) void Tile(const GemmRun& a, const Columns& columns,
                                             int64_t token, float* sums, Ahead<V>& shared_ahead) {
    using Header = typename Format::Header;
    using Codes = typename Format::Codes;
    using Cursor = BlockCursor<Format>;
    constexpr int kPairLines = PairLines<Format>();
    const int64_t blocks = a.cols / kBlock;
    const QuantizedRows x = a.quantized;
    Ahead<V> ahead = shared_ahead;
    F sum[R][M];
    TakeSums<V>(columns.begin == 0, sums, token, sum);
    const std::byte* header = columns.header;
    int64_t in_group = columns.block, left = columns.blocks;
    int64_t at = token * blocks + columns.begin;  // block of token m: + m * blocks
    while (left > 0) {
      typename Header::Group group[R];
      MILLRACE_UNROLL
      for (int r = 0; r < R; ++r) group[r] = Header::Open(header + r * columns.pitch, a.group);
      const int64_t here = Cursor::GroupBlocks(a) - in_group;
      const int64_t end = in_group + (left < here ? left : here);
      left -= end - in_group;
      const std::byte* codes = header + Cursor::HeaderBytes(a) + in_group * Codes::kBytes;
      for (; in_group < end; ++in_group, ++at, codes += Codes::kBytes) {
        // Hides that `at` counts up: the compiler would keep a pointer for each token and array,
        // most of them in memory.
        __asm__("" : "+r"(at));
        const int8_t* q[M];
        MILLRACE_UNROLL
        for (int m = 0; m < M; ++m) q[m] = x.q + (at + m * blocks) * kBlock;
        ahead.template Step<R>();
        BlockScales<V> s[R];
        I c[R][M];
        typename Codes::State state[R];
        I pairs[R][M];
        F half[R][M];  // of two scales: the first columns, scaled
        Unrolled<0, 8>([&](auto index) __attribute__((always_inline)) {
          constexpr int j = decltype(index)::kValue;
          constexpr int kLines = 8 / Header::kScales;
          if constexpr (j % kLines == 0) {
            MILLRACE_UNROLL
            for (int m = 0; m < M; ++m) {
              const I start = Start<Format>(x, at + m * blocks, j / kLines);
              MILLRACE_UNROLL
              for (int r = 0; r < R; ++r) c[r][m] = start;
            }
          }
          I w[R];
          MILLRACE_UNROLL
          for (int r = 0; r < R; ++r) {
            w[r] = Codes::template Line<j>(codes + r * columns.pitch, state[r]);
          }
          MILLRACE_UNROLL
          for (int m = 0; m < M; ++m) {
            const I four = V::Broadcast4(q[m] + 4 * j);
            MILLRACE_UNROLL
            for (int r = 0; r < R; ++r) {
              if constexpr (kPairLines > 0) {
                const I pair = V::Pairs(w[r], four);
                pairs[r][m] = j % kPairLines == 0 ? pair : V::AddPairs(pairs[r][m], pair);
                if constexpr (j % kPairLines == kPairLines - 1) {
                  c[r][m] = V::AddI(c[r][m], V::SumPairs(pairs[r][m]));
                }
              } else if constexpr (Format::kWide) {
                c[r][m] = V::DotQ8(c[r][m], w[r], four);
              } else {
                c[r][m] = V::DotQ4(c[r][m], w[r], four);
              }
            }
          }
          if constexpr (j % kLines == kLines - 1) {
            MILLRACE_UNROLL
            for (int r = 0; r < R; ++r) {
              // Twice if there are two scales, of which each time one is used and made.
              Header::Read(group[r], header + r * columns.pitch, in_group, s[r]);
              MILLRACE_UNROLL
              for (int m = 0; m < M; ++m) {
                const F value = V::ToFloat(c[r][m]), token_scale = V::Set(x.scale[at + m * blocks]);
                if constexpr (Header::kScales == 1) {
                  sum[r][m] = V::Fma(value, V::Mul(s[r].scale[0], token_scale), sum[r][m]);
                } else if constexpr (j == kLines - 1) {
                  half[r][m] = V::Mul(value, s[r].scale[0]);
                } else {
                  const F both = V::Fma(value, s[r].scale[1], half[r][m]);
                  sum[r][m] = V::Fma(both, token_scale, sum[r][m]);
                }
              }
            }
          }
        });
        if constexpr (Header::kOffset != Offset::kConstant) {
          MILLRACE_UNROLL
          for (int r = 0; r < R; ++r) {
            const F added = Added<Format>(s[r]);
            MILLRACE_UNROLL
            for (int m = 0; m < M; ++m) {
              sum[r][m] = V::Fma(added, V::Set(x.sum[at + m * blocks]), sum[r][m]);
            }
          }
        }
      }
      header += Cursor::GroupBytes(a);
      in_group = 0;
    }
    shared_ahead = ahead;
    if (columns.begin + columns.blocks == blocks) {
      EmitSums<V>(a, columns.strip, token, sum);
    } else {
      KeepSums<V>(sums, token, sum);
    }
  }

  // All tokens against some columns. A strip that is left over sees few: code is not free either.
  template <class Format, int R>
  static void Tokens(const GemmRun& a, const Columns& columns, float* sums, Ahead<V>& ahead) {
    ForTiles<TileTokens<Format, R>()>(a.tokens, [&](auto tile, int64_t token) {
      Tile<Format, R, decltype(tile)::kTokens>(a, columns, token, sums, ahead);
    });
  }
  // Scales that are made need registers too: small tiles are faster for 5 and 6 tokens, as fast for
  // 8, and quicker to compile. Where many tokens have no panel, those of two scales alone are
  // small.
  template <class Format, int R>
  static constexpr int TileTokens() {
    using Header = typename Format::Header;
    constexpr bool kSmall = Header::kScales == 2 || (V::kPanelFrom > 0 && !Header::kCheap);
    constexpr int kTokens = kSmall && V::kFastTokens > 4 ? 4 : V::kFastTokens;
    return R == V::kFastStrips ? kTokens : (kTokens + 1) / 2;
  }

  // How far ahead of its use a strip is asked for while one tile runs: the latency of memory.
  static constexpr int64_t kAheadBytes = 2304;

  template <class Format, int R>
  static void Strips(const GemmRun& a, int64_t strip) {
    const auto pitch = static_cast<int64_t>(a.strip_bytes);
    const std::byte* first = a.strips + strip * pitch;
    const int64_t blocks = a.cols / kBlock, bytes = (pitch + blocks - 1) / blocks;
    constexpr int kMost = TileTokens<Format, R>();
    const int64_t tiles = (a.tokens + kMost - 1) / kMost;
    const int64_t chunks = tiles == 1 ? 1 : (R * pitch + kChunkBytes - 1) / kChunkBytes;
    const int64_t chunk = (blocks + chunks - 1) / chunks;
    for (int64_t begin = 0; begin < blocks; begin += chunk) {
      const int64_t count = blocks - begin < chunk ? blocks - begin : chunk;
      const BlockCursor<Format> cursor(a, strip, begin);
      const Columns columns = {cursor.header, cursor.block, pitch, begin, count, strip};
      const int64_t step = (bytes + tiles - 1) / tiles;
      Ahead<V> ahead = {first + (tiles == 1 ? kAheadBytes : (begin + count) * bytes), first + pitch,
                        pitch, step, (step + 63) / 64};
      Tokens<Format, R>(a, columns, a.scratch, ahead);
    }
  }

  template <class Format>
  static void Gemm(const GemmRun& a) {
    int64_t strip = a.strip_begin;
    for (; strip + V::kFastStrips <= a.strip_end; strip += V::kFastStrips) {
      Strips<Format, V::kFastStrips>(a, strip);
    }
    for (; strip < a.strip_end; ++strip) Strips<Format, 1>(a, strip);
  }
};

}  // namespace millrace::kernels::body
