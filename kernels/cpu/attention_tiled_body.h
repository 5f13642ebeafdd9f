// Attention of many query rows on tiles (tiled.h): prompts, whose rows read the same keys. See
// gemm_body.h for how this file is included. V are lanes of the including file alone, T the tile
// operations, kElse what takes all other items.
//
// Where attention_body.h rescales what it has for each block, here a split is one: its scores, then
// one maximum, then its weights and values. Splits are joined as there. The operands are rounded
// as there: queries and weights to bf16, sums in fp32.
#pragma once

#include "kernels/cpu/attention_body.h"
#include "kernels/cpu/tiled.h"

namespace millrace::kernels::body {

template <class V, class T, AttentionFunction kElse>
struct TiledAttend {
  using F = typename V::F;
  using I = typename V::I;
  using Plain = Attend<V, KvPairs<V>>;
  using Rows = typename Plain::Rows;

  static constexpr int kMostPositions = 256, kMostDims = 128;  // of a split, of a head
  static constexpr int kFewestRows = 16;
  static constexpr int kStride = kMostPositions + 16;  // of scores: off the cache's powers of two

  // On the stack: 190 KiB.
  struct Memory {
    alignas(64) std::byte queries[kMaxQueryRows / 16][kMostDims / 32][kTileBytes];
    alignas(64) std::byte keys[kMostPositions / 16][kMostDims / 32][kTileBytes];
    alignas(64) std::byte values[kMostPositions / 32][kMostDims / 16][kTileBytes];
    alignas(64) std::byte weights[kMostPositions / 32][kTileBytes];
    alignas(64) float scores[16][kStride];
    alignas(64) float sums[kMostDims / 16][16][16];
  };

  // Positions of a split that some row sees, counted from `start`, the first of a block. Whole
  // pairs of tiles are made of them; what none sees is zero there.
  struct Span {
    int32_t start, begin, end;
    int tiles() const { return (end + 31) / 32 * 2; }
  };

  static bool Takes(const AttentionItem& a) {
    return a.sharer_count == 0 && a.tokens * a.group >= kFewestRows && a.head_dim % 32 == 0 &&
           a.head_dim <= kMostDims && a.block_tokens % 16 == 0 &&
           a.split_blocks * a.block_tokens <= kMostPositions;
  }

  static inline I PairOf(const uint16_t* even, const uint16_t* odd) {
    return V::Or(V::template ShiftRight<16>(V::Bits(V::LoadBf16(even))), V::Bits(V::LoadBf16(odd)));
  }
  // Numbers that are bf16 already, 32 of them, as a row of pairs.
  static inline void StorePairs(const float* x, std::byte* out) {
    V::StoreI(out,
              V::Or(V::template ShiftRight<16>(V::Bits(V::Load(x))), V::Bits(V::Load(x + 16))));
  }

  static void MakeQueries(const AttentionItem& a, const Rows& rows, Memory& m) {
    for (int r = 0; r < (rows.count + 15) / 16 * 16; ++r) {
      for (int64_t i = 0; i < a.head_dim / 32; ++i) {
        std::byte* const out = m.queries[r / 16][i] + r % 16 * kTileRowBytes;
        if (r < rows.count) {
          StorePairs(rows.q[r] + 32 * i, out);
        } else {
          V::StoreI(out, V::ZeroI());
        }
      }
    }
  }

  static inline const std::byte* BlockAt(const AttentionItem& a, int32_t position) {
    return a.base + a.table[position / a.block_tokens] * a.block_stride;
  }

  static void MakeKeys(const AttentionItem& a, const Span& span, Memory& m) {
    for (int c = 0; c < span.tiles(); ++c) {
      if (16 * c >= span.end) {  // the second of a last pair
        __builtin_memset(m.keys[c], 0, static_cast<size_t>(a.head_dim / 32 * kTileBytes));
        continue;
      }
      const int32_t position = span.start + 16 * c;
      const auto* keys =
          reinterpret_cast<const uint16_t*>(BlockAt(a, position)) + position % a.block_tokens;
      for (int64_t i = 0; i < a.head_dim / 32; ++i) {
        for (int64_t j = 0; j < 16; ++j) {
          const uint16_t* even = keys + (32 * i + j) * a.block_tokens;
          V::StoreI(m.keys[c][i] + j * kTileRowBytes, PairOf(even, even + 16 * a.block_tokens));
        }
      }
    }
  }

  // The values of a position; zeros where none is seen, for what lies there may be no number.
  static inline const uint16_t* ValuesAt(const AttentionItem& a, const Span& span, int32_t i) {
    alignas(64) static constexpr uint16_t kZeros[kMostDims] = {};
    if (i < span.begin || i >= span.end) return kZeros;
    const int32_t position = span.start + i;
    return reinterpret_cast<const uint16_t*>(BlockAt(a, position) + a.value_offset) +
           position % a.block_tokens * int64_t{a.head_dim};
  }
  static void MakeValues(const AttentionItem& a, const Span& span, Memory& m) {
    for (int c = 0; c < span.tiles() / 2; ++c) {
      for (int j = 0; j < 16; ++j) {
        const uint16_t* even = ValuesAt(a, span, 32 * c + j);
        const uint16_t* odd = ValuesAt(a, span, 32 * c + 16 + j);
        for (int64_t d = 0; d < a.head_dim / 16; ++d) {
          V::StoreI(m.values[c][d] + j * kTileRowBytes, PairOf(even + 16 * d, odd + 16 * d));
        }
      }
    }
  }

  // Scores of 16 rows for the first `tiles` tiles of positions, an even number.
  static void Scores(const AttentionItem& a, int piece, int tiles, Memory& m, T& t) {
    const int64_t depth = a.head_dim / 32;
    constexpr int64_t kBytes = kStride * static_cast<int64_t>(sizeof(float));
    for (int c = 0; c < tiles; c += 2) {
      t.template Zero<0>();
      t.template Zero<1>();
      for (int64_t i = 0; i < depth; ++i) {
        t.template Load<4>(m.queries[piece][i], kTileRowBytes);
        t.template Load<6>(m.keys[c][i], kTileRowBytes);
        t.template Load<7>(m.keys[c + 1][i], kTileRowBytes);
        t.template DotBf16<0, 4, 6>();
        t.template DotBf16<1, 4, 7>();
      }
      t.template Store<0>(m.scores[0] + 16 * c, kBytes);
      t.template Store<1>(m.scores[0] + 16 * c + 16, kBytes);
    }
  }

  // A row's scores to weights and their sum; the weights as pairs for the products.
  static void Weigh(const AttentionItem& a, int begin, int end, int tiles, float* scores, int row,
                    float* state, Memory& m) {
    const F infinity = V::Set(-__builtin_inff()), cap = V::Set(a.soft_cap);
    F top = infinity, sum = V::Zero();
    const int first = begin / 16 * 16;
    for (int j = first; j < end; j += 16) {
      F s = V::Load(scores + j);
      if (a.soft_cap > 0) s = body::Rows<V>::SoftCap(s, cap);
      if (j < begin || j + 16 > end) s = V::Keep(s, begin - j, end - j, -__builtin_inff());
      V::Store(scores + j, s);
      top = V::Max(top, s);
    }
    state[0] = V::ReduceMax(top);
    const F max = V::Set(state[0]);
    for (int j = 0; j < 16 * tiles; j += 16) {
      if (j < first || j >= end) {
        V::Store(scores + j, V::Zero());
      } else {
        const F below = V::Sub(V::Load(scores + j), max);
        sum = V::Add(sum, KvPairs<V>::Put(scores + j, body::Rows<V>::ExpOfNegative(below)));
      }
    }
    V::Store(state + 16, sum);
    for (int c = 0; c < tiles / 2; ++c) {
      StorePairs(scores + 32 * c, m.weights[c] + row * kTileRowBytes);
    }
  }

  // Weights times values, four tiles of dimensions at a time at most.
  template <int N>
  static void Values(int64_t d, int chunks, Memory& m, T& t) {
    Unrolled<0, N>([&](auto index) __attribute__((always_inline)) {
      t.template Zero<decltype(index)::kValue>();
    });
    for (int c = 0; c < chunks; ++c) {
      t.template Load<4>(m.weights[c], kTileRowBytes);
      Unrolled<0, N>([&](auto index) __attribute__((always_inline)) {
        constexpr int kTile = decltype(index)::kValue, kB = 6 + kTile % 2;
        t.template Load<kB>(m.values[c][d + kTile], kTileRowBytes);
        t.template DotBf16<kTile, 4, kB>();
      });
    }
    Unrolled<0, N>([&](auto index) __attribute__((always_inline)) {
      constexpr int kTile = decltype(index)::kValue;
      t.template Store<kTile>(m.sums[d + kTile], kTileRowBytes);
    });
  }

  // The states of all rows for one split.
  static void Split(const AttentionItem& a, const Rows& rows, int32_t split, float* states,
                    Memory& m, T& t) {
    Plain::Reset(a, rows, states);
    const int32_t past = split * a.split_blocks * a.block_tokens;
    const int32_t last = rows.last[rows.count - 1] + 1;
    const int32_t most = a.split_blocks * a.block_tokens;
    Span span;
    span.start = rows.first[0] / a.block_tokens * a.block_tokens;
    if (span.start < past) span.start = past;
    span.begin = rows.first[0] > span.start ? rows.first[0] - span.start : 0;
    span.end = (last < past + most ? last : past + most) - span.start;
    if (span.begin >= span.end) return;
    MakeKeys(a, span, m);
    MakeValues(a, span, m);
    const int64_t stride = AttentionStateFloats(a.head_dim);
    for (int first = 0; first < rows.count; first += 16) {
      const int count = rows.count - first < 16 ? rows.count - first : 16;
      const int32_t sees = rows.last[first + count - 1] + 1 - span.start;
      const Span seen = {span.start, span.begin, sees < span.end ? sees : span.end};
      if (seen.end <= 0) continue;
      Scores(a, first / 16, seen.tiles(), m, t);
      for (int r = 0; r < 16; ++r) {
        const int32_t from = r < count ? rows.first[first + r] - span.start : 0;
        const int32_t to = r < count ? rows.last[first + r] + 1 - span.start : 0;
        const int begin = from > 0 ? from : 0, end = to < seen.end ? to : seen.end;
        if (begin < end) {
          Weigh(a, begin, end, seen.tiles(), m.scores[r], r, states + (first + r) * stride, m);
        } else {
          for (int c = 0; c < seen.tiles() / 2; ++c) {
            V::StoreI(m.weights[c] + r * kTileRowBytes, V::ZeroI());
          }
        }
      }
      for (int64_t d = 0; d < a.head_dim / 16;) {
        if (d + 4 <= a.head_dim / 16) {
          Values<4>(d, seen.tiles() / 2, m, t), d += 4;
        } else {
          Values<2>(d, seen.tiles() / 2, m, t), d += 2;
        }
      }
      for (int r = 0; r < count; ++r) {
        float* const out = states + (first + r) * stride + 32;
        for (int64_t d = 0; d < a.head_dim / 16; ++d) {
          V::Store(out + 16 * d, V::Load(m.sums[d][r]));
        }
      }
    }
  }

  static void Run(const AttentionItem& a) {
    if (!Takes(a)) return kElse(a);
    auto memory = Plain::Cut(a, a.tokens * a.group);
    Rows rows;
    Plain::Describe(a, memory.queries, &rows);
    Memory m;
    MakeQueries(a, rows, m);
    T tiles;
    tiles.Configure(TileConfig());
    if (a.out == nullptr) {
      float* states = a.partial;
      for (int32_t s = a.split_begin; s < a.split_end; ++s) {
        Split(a, rows, s, states, m, tiles);
        states += AttentionPartialFloats(rows.count, a.head_dim);
      }
    } else {
      Plain::Reset(a, rows, memory.total);
      for (int32_t s = a.split_begin; s < a.split_end; ++s) {
        Split(a, rows, s, memory.states, m, tiles);
        Plain::Join(a, rows, s, memory.states, memory.total);
      }
      Plain::Write(a, rows, memory.total);
    }
    tiles.Release();
  }
};

}  // namespace millrace::kernels::body
