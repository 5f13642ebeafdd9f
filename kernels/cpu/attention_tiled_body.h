// Attention on tiles (tiled.h). See gemm_body.h for how this file is included. V are lanes of the
// including file alone, T the tile operations, Kv what keys and values are (below), kElse what
// takes the items that do not fit.
//
// Where attention_body.h rescales what it has for each block, here a split is one: its scores, then
// one maximum, then its weights and values. Splits are joined as there. The operands are rounded
// as there: queries and weights to bf16, sums in fp32.
//
// Keys and values become B operands 32 positions and 32 dimensions at a time: two tiles, whose rows
// are pairs of dimensions of 16 positions, and pairs of positions in 16 dimensions.
#pragma once

#include "kernels/cpu/attention_body.h"
#include "kernels/cpu/payload_body.h"
#include "kernels/cpu/tiled.h"

namespace millrace::kernels::body {

// In bf16. A vector has two positions of keys, or dimensions of values, in each lane: the first of
// them all become one tile, the second the other.
template <class V>
struct TilesOfBf16 {
  using I = typename V::I;
  using Element = uint16_t;
  static constexpr bool kInTurn = true, kScaled = false;

  // A row of both tiles: 32 elements of x, in two pieces, paired with those of y.
  static inline __attribute__((always_inline)) void Pair(const Element* x, const Element* x_high,
                                                         const Element* y, const Element* y_high,
                                                         std::byte* first, std::byte* second) {
    const I low = V::SetI(0xffff), high = V::SetI(-0x10000);
    const I a = V::LoadHalves(x, x_high), b = V::LoadHalves(y, y_high);
    V::StoreI(first, V::OrBits(V::template ShiftLeft<16>(b), a, low));
    V::StoreI(second, V::OrBits(V::template ShiftRight<16>(a), b, high));
  }
};

// In bytes, which bf16 holds. Scales multiply scores and weights, as in attention_body.h.
template <class V>
struct TilesOfInt8 {
  using Element = int8_t;
  static constexpr bool kInTurn = false, kScaled = true;

  static inline __attribute__((always_inline)) void Pair(const Element* x, const Element* x_high,
                                                         const Element* y, const Element* y_high,
                                                         std::byte* first, std::byte* second) {
    V::StoreI(first, Both(x, y));
    V::StoreI(second, Both(x_high, y_high));
  }

 private:
  static inline __attribute__((always_inline)) typename V::I Both(const Element* x,
                                                                  const Element* y) {
    return V::Or(V::template ShiftRight<16>(V::Bits(V::LoadS8(x))), V::Bits(V::LoadS8(y)));
  }
};

template <class V, class T, class Kv, AttentionFunction kElse>
struct TiledAttend {
  using F = typename V::F;
  using Element = typename Kv::Element;
  using Plain = Attend<V, KvPairs<V>>;
  using Rows = typename Plain::Rows;

  static constexpr int kMostPositions = 256, kMostDims = 128;  // of a split, of a head
  static constexpr int kChunk = 32;                            // positions or dimensions
  static constexpr int kChunks = kMostPositions / kChunk, kDepth = kMostDims / kChunk;
  static constexpr int kStride = kMostPositions + 16;  // of scores: off the cache's powers of two

  using Tiles = std::byte[2][kTileBytes];
  // On the stack: 190 KiB.
  struct Memory {
    alignas(64) std::byte queries[kMaxQueryRows / 16][kDepth][kTileBytes];
    alignas(64) Tiles keys[kChunks][kDepth];
    alignas(64) Tiles values[kChunks][kDepth];
    alignas(64) std::byte weights[kChunks][kTileBytes];
    alignas(64) float scores[16][kStride];
    alignas(64) float sums[kDepth][2][16][16];
  };

  // Positions of a split that some row sees, counted from `start`, the first of a block. Whole
  // chunks are made of them.
  struct Span {
    int32_t start, begin, end;
    int chunks() const { return (end + kChunk - 1) / kChunk; }
  };

  // With fewer rows, of a fold or another item, products in registers are as fast: keys and values
  // become tiles for few rows as for many. A fold is one here for splits that are shared whole.
  static constexpr int kFewestRows = 6, kFewestFoldRows = 12;
  static bool Takes(const AttentionItem& a) {
    if (a.head_dim % kChunk != 0 || a.head_dim > kMostDims || a.block_tokens % 16 != 0 ||
        a.split_blocks * a.block_tokens > kMostPositions) {
      return false;
    }
    if (a.sharer_count == 0) return a.tokens * a.group >= kFewestRows;
    return (1 + a.sharer_count) * a.group >= kFewestFoldRows && a.shared_blocks >= a.split_blocks;
  }

  // Numbers that are bf16 already, 32 of them, as a row of pairs.
  static inline void StorePairs(const float* x, std::byte* out) {
    V::StoreI(out,
              V::Or(V::template ShiftRight<16>(V::Bits(V::Load(x))), V::Bits(V::Load(x + 16))));
  }

  static void MakeQueries(const AttentionItem& a, const Rows& rows, Memory& m) {
    const int64_t padded = rows.count <= 16 ? rows.count : RoundUp16(rows.count);
    for (int r = 0; r < padded; ++r) {
      for (int64_t i = 0; i < a.head_dim / kChunk; ++i) {
        std::byte* const out = m.queries[r / 16][i] + r % 16 * kTileRowBytes;
        if (r < rows.count) {
          StorePairs(rows.q[r] + kChunk * i, out);
        } else {
          V::StoreI(out, V::ZeroI());
        }
      }
    }
  }

  // Where 16 positions lie: their keys, their values, their scales.
  static inline const std::byte* BlockAt(const AttentionItem& a, int32_t position) {
    return a.base + a.table[position / a.block_tokens] * a.block_stride;
  }
  static inline const Element* KeysAt(const AttentionItem& a, int32_t position) {
    return reinterpret_cast<const Element*>(BlockAt(a, position)) + position % a.block_tokens;
  }
  static inline const Element* ValuesAt(const AttentionItem& a, int32_t position) {
    return reinterpret_cast<const Element*>(BlockAt(a, position) + a.value_offset) +
           position % a.block_tokens * int64_t{a.head_dim};
  }
  static inline const float* ScalesAt(const AttentionItem& a, int32_t position) {
    return reinterpret_cast<const float*>(BlockAt(a, position) + a.scale_offset) +
           position % a.block_tokens;
  }

  // Blocks of a sequence are strewn over memory, so the hardware does not see the next one coming:
  // as many lines of it are fetched as are read of this one, along with them.
  template <int N>
  static inline __attribute__((always_inline)) void Ahead(const Element* p) {
    const auto* bytes = reinterpret_cast<const std::byte*>(p);
    MILLRACE_UNROLL
    for (int at = 0; at < N * static_cast<int>(sizeof(Element)); at += 64) V::Prefetch(bytes + at);
  }

  // A chunk of keys. Scores of positions that no row sees may be anything: where the second half of
  // the last chunk may not be there, the first is taken twice.
  static inline void MakeKeys(const AttentionItem& a, const Span& span, int c, const Element* next,
                              Tiles* out) {
    const int32_t position = span.start + kChunk * c;
    const Element* low = KeysAt(a, position);
    const Element* high = kChunk * c + 16 < span.end ? KeysAt(a, position + 16) : low;
    const int64_t stride = a.block_tokens;
    if constexpr (Kv::kScaled) Plain::PrefetchScales(a, reinterpret_cast<const std::byte*>(next));
    for (int64_t i = 0; i < a.head_dim / kChunk; ++i) {
      for (int64_t j = 0; j < 16; ++j, next += 2 * kChunk) {
        Ahead<2 * kChunk>(next);
        const int64_t x = j * stride, y = (16 + j) * stride;
        Kv::Pair(low + x, high + x, low + y, high + y, out[i][0] + j * kTileRowBytes,
                 out[i][1] + j * kTileRowBytes);
      }
      low += kChunk * stride, high += kChunk * stride;
    }
  }

  // N chunks of dimensions, from d on, of a chunk of values. Values that no row sees are zeros, for
  // what lies there may be no number.
  template <int N>
  static inline void MakeValues(const AttentionItem& a, const Span& span, int c, int64_t d,
                                const Element* next, Tiles* out) {
    alignas(64) static constexpr Element kZeros[kMostDims] = {};
    const int64_t dim = a.head_dim;
    const int32_t begin = kChunk * c;
    const bool whole = begin >= span.begin && begin + kChunk <= span.end;
    const Element* const low = whole ? ValuesAt(a, span.start + begin) + kChunk * d : kZeros;
    const Element* const high = whole ? ValuesAt(a, span.start + begin + 16) + kChunk * d : kZeros;
    const auto at = [&](int32_t i) {
      const bool seen = begin + i >= span.begin && begin + i < span.end;
      return seen ? ValuesAt(a, span.start + begin + i) + kChunk * d : kZeros;
    };
    for (int j = 0; j < 16; ++j, next += 2 * dim) {
      Ahead<N * kChunk>(next);
      Ahead<N * kChunk>(next + dim);
      // The pair of positions that lane j of the scores' two tiles has.
      const int first = Kv::kInTurn ? 2 * j : j, second = Kv::kInTurn ? 2 * j + 1 : 16 + j;
      const Element *x, *y;
      if (!whole) {
        x = at(first), y = at(second);
      } else if constexpr (Kv::kInTurn) {
        x = (j < 8 ? low : high) + first % 16 * dim, y = x + dim;
      } else {
        x = low + j * dim, y = high + j * dim;
      }
      Unrolled<0, N>([&](auto index) __attribute__((always_inline)) {
        constexpr int kAt = decltype(index)::kValue * kChunk;
        Kv::Pair(x + kAt, x + kAt + 16, y + kAt, y + kAt + 16,
                 out[kAt / kChunk][0] + j * kTileRowBytes,
                 out[kAt / kChunk][1] + j * kTileRowBytes);
      });
    }
  }

  // Scores of a piece's rows for N chunks from c on, whose keys are at `keys`.
  template <int N>
  static inline void Scores(const AttentionItem& a, int piece, int c, Tiles (*keys)[kDepth],
                            Memory& m, T& t) {
    constexpr int64_t kBytes = kStride * static_cast<int64_t>(sizeof(float));
    Unrolled<0, 2 * N>([&](auto index) __attribute__((always_inline)) {
      t.template Zero<decltype(index)::kValue>();
    });
    for (int64_t i = 0; i < a.head_dim / kChunk; ++i) {
      t.template Load<4>(m.queries[piece][i], kTileRowBytes);
      Unrolled<0, 2 * N>([&](auto index) __attribute__((always_inline)) {
        constexpr int kTile = decltype(index)::kValue, kB = 6 + kTile % 2;
        t.template Load<kB>(keys[kTile / 2][i][kTile % 2], kTileRowBytes);
        t.template DotBf16<kTile, 4, kB>();
      });
    }
    Unrolled<0, 2 * N>([&](auto index) __attribute__((always_inline)) {
      constexpr int kTile = decltype(index)::kValue;
      t.template Store<kTile>(m.scores[0] + kChunk * c + 16 * kTile, kBytes);
    });
  }

  // What the lanes of a tile of scores are of the positions [begin, end) of its chunk.
  struct Lanes {
    int begin, end;
    bool all() const { return begin <= 0 && end >= 16; }
  };
  static inline Lanes LanesOf(int begin, int end, int tile) {
    if constexpr (Kv::kInTurn) return {(begin - tile + 1) >> 1, (end - tile + 1) >> 1};
    return {begin - 16 * tile, end - 16 * tile};
  }
  // The scales of a tile's positions, of keys or, `offset` floats on, of values. Where the second
  // half of the last chunk may not be there, those of the first.
  static inline F ScalesOf(const AttentionItem& a, const Span& seen, int c, int tile,
                           int64_t offset) {
    const bool second = tile == 1 && kChunk * c + 16 < seen.end;
    return V::Load(ScalesAt(a, seen.start + kChunk * c + (second ? 16 : 0)) + offset);
  }

  // A row's scores of the positions [begin, end) to weights and their sum; the weights as pairs for
  // the products.
  static void Weigh(const AttentionItem& a, const Span& seen, int begin, int end, int row,
                    float* state, Memory& m) {
    const F cap = V::Set(a.soft_cap);
    F top = V::Set(-__builtin_inff()), sum = V::Zero();
    const int first = begin / kChunk, past = (end + kChunk - 1) / kChunk;
    for (int c = first; c < past; ++c) {
      for (int tile = 0; tile < 2; ++tile) {
        float* const at = m.scores[row] + kChunk * c + 16 * tile;
        const Lanes lanes = LanesOf(begin - kChunk * c, end - kChunk * c, tile);
        F s = V::Load(at);
        if constexpr (Kv::kScaled) s = V::Mul(s, ScalesOf(a, seen, c, tile, 0));
        if (a.soft_cap > 0) s = body::Rows<V>::SoftCap(s, cap);
        if (!lanes.all()) s = V::Keep(s, lanes.begin, lanes.end, -__builtin_inff());
        V::Store(at, s);
        top = V::Max(top, s);
      }
    }
    state[0] = V::ReduceMax(top);
    const F max = V::Set(state[0]);
    for (int c = 0; c < seen.chunks(); ++c) {
      std::byte* const out = m.weights[c] + row * kTileRowBytes;
      if (c < first || c >= past) {
        V::StoreI(out, V::ZeroI());
        continue;
      }
      float* const at = m.scores[row] + kChunk * c;
      for (int tile = 0; tile < 2; ++tile) {
        const F below = V::Sub(V::Load(at + 16 * tile), max);
        F weight = body::Rows<V>::ExpOfNegative(below);
        if constexpr (Kv::kScaled) {
          const Lanes lanes = LanesOf(begin - kChunk * c, end - kChunk * c, tile);
          sum = V::Add(sum, weight);
          weight = V::Mul(weight, ScalesOf(a, seen, c, tile, RoundUp16(a.block_tokens)));
          if (!lanes.all()) weight = V::Keep(weight, lanes.begin, lanes.end, 0);
          KvPairs<V>::Put(at + 16 * tile, weight);
        } else {  // the sum is that of the rounded ones, so that they add up to 1
          sum = V::Add(sum, KvPairs<V>::Put(at + 16 * tile, weight));
        }
      }
      StorePairs(at, out);
    }
    V::Store(state + 16, sum);
  }

  // The weights of a piece, rows [first, first + count), from their scores; zeros for rows that see
  // nothing of the split, and up to `padded` rows.
  static void WeighAll(const AttentionItem& a, const Rows& rows, int first, int count, int padded,
                       const Span& seen, float* states, Memory& m) {
    const int64_t stride = AttentionStateFloats(a.head_dim);
    for (int r = 0; r < padded; ++r) {
      const int32_t from = r < count ? rows.first[first + r] - seen.start : 0;
      const int32_t to = r < count ? rows.last[first + r] + 1 - seen.start : 0;
      const int begin = from > 0 ? from : 0, end = to < seen.end ? to : seen.end;
      if (begin < end) {
        Weigh(a, seen, begin, end, r, states + (first + r) * stride, m);
      } else {
        for (int c = 0; c < seen.chunks(); ++c) {
          V::StoreI(m.weights[c] + r * kTileRowBytes, V::ZeroI());
        }
      }
    }
  }

  // Weights times values, N chunks of dimensions from d; get(c) is where the values of chunk c are.
  template <int N, class Get>
  static inline void Values(int64_t d, int chunks, Memory& m, T& t, const Get& get) {
    Unrolled<0, 2 * N>([&](auto index) __attribute__((always_inline)) {
      t.template Zero<decltype(index)::kValue>();
    });
    for (int c = 0; c < chunks; ++c) {
      const Tiles* const values = get(c);
      t.template Load<4>(m.weights[c], kTileRowBytes);
      Unrolled<0, 2 * N>([&](auto index) __attribute__((always_inline)) {
        constexpr int kTile = decltype(index)::kValue, kB = 6 + kTile % 2;
        t.template Load<kB>(values[kTile / 2][kTile % 2], kTileRowBytes);
        t.template DotBf16<kTile, 4, kB>();
      });
    }
    Unrolled<0, 2 * N>([&](auto index) __attribute__((always_inline)) {
      constexpr int kTile = decltype(index)::kValue;
      t.template Store<kTile>(m.sums[d + kTile / 2][kTile % 2], kTileRowBytes);
    });
  }

  // A piece's sums, to its states.
  static void Write(const AttentionItem& a, int first, int count, float* states, const Memory& m) {
    const int64_t stride = AttentionStateFloats(a.head_dim);
    for (int r = 0; r < count; ++r) {
      float* const out = states + (first + r) * stride + 32;
      for (int64_t d = 0; d < a.head_dim / kChunk; ++d) {
        const F x = V::Load(m.sums[d][0][r]), y = V::Load(m.sums[d][1][r]);
        if constexpr (Kv::kInTurn) {
          V::StoreInTurn(out + kChunk * d, x, y);
        } else {
          V::Store(out + kChunk * d, x), V::Store(out + kChunk * d + 16, y);
        }
      }
    }
  }

  // Calls work(width, d) for all chunks of dimensions, two at a time where there are as many: what
  // tiles of sums there are for.
  template <class Work>
  static inline void EachWidth(const AttentionItem& a, const Work& work) {
    const int64_t depth = a.head_dim / kChunk;
    int64_t d = 0;
    for (; d + 2 <= depth; d += 2) work(Index<2>(), d);
    if (d < depth) work(Index<1>(), d);
  }
  // What is read after a chunk.
  static inline const Element* NextKeys(const AttentionItem& a, const Span& span, int c) {
    return c + 1 < span.chunks() ? KeysAt(a, span.start + kChunk * (c + 1))
                                 : ValuesAt(a, span.start);
  }
  static inline const Element* NextValues(const AttentionItem& a, const Span& span, int c,
                                          const Element* after) {
    return c + 1 < span.chunks() ? ValuesAt(a, span.start + kChunk * (c + 1)) : after;
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
    const Element* after = KeysAt(a, span.start);
    if (last > past + most) {
      after = KeysAt(a, past + most);
    } else if (a.next != nullptr) {
      after = reinterpret_cast<const Element*>(a.next);
    }
    if (rows.count <= 16) {
      FewRows(a, rows, span, after, states, m, t);
    } else {
      ManyRows(a, rows, span, after, states, m, t);
    }
  }

  // One piece: keys and values become tiles shortly before they are used, so that these stay in the
  // first-level cache; a chunk or two before, so that loads of tiles do not wait for the stores.
  static void FewRows(const AttentionItem& a, const Rows& rows, const Span& span,
                      const Element* after, float* states, Memory& m, T& t) {
    const int chunks = span.chunks();
    const auto make_keys = [&](int c) {
      if (c < chunks) MakeKeys(a, span, c, NextKeys(a, span, c), m.keys[c % 4]);
    };
    make_keys(0);
    make_keys(1);
    for (int c = 0; c < chunks; c += 2) {
      make_keys(c + 2);
      make_keys(c + 3);
      if (c + 1 < chunks) {
        Scores<2>(a, 0, c, m.keys + c % 4, m, t);
      } else {
        Scores<1>(a, 0, c, m.keys + c % 4, m, t);
      }
    }
    WeighAll(a, rows, 0, rows.count, rows.count, span, states, m);
    EachWidth(a, [&](auto width, int64_t d) {
      constexpr int kWidth = decltype(width)::kValue;
      const auto make = [&](int c) __attribute__((always_inline)) {
        MakeValues<kWidth>(a, span, c, d, NextValues(a, span, c, after), m.values[c % 2]);
      };
      make(0);
      Values<kWidth>(
          d, chunks, m, t, [&](int c) __attribute__((always_inline)) {
            if (c + 1 < chunks) make(c + 1);
            return m.values[c % 2];
          });
    });
    Write(a, 0, rows.count, states, m);
  }

  // Several: all keys and values of the split are made once.
  static void ManyRows(const AttentionItem& a, const Rows& rows, const Span& span,
                       const Element* after, float* states, Memory& m, T& t) {
    for (int c = 0; c < span.chunks(); ++c) {
      MakeKeys(a, span, c, NextKeys(a, span, c), m.keys[c]);
    }
    for (int c = 0; c < span.chunks(); ++c) {
      EachWidth(a, [&](auto width, int64_t d) {
        constexpr int kWidth = decltype(width)::kValue;
        MakeValues<kWidth>(a, span, c, d, NextValues(a, span, c, after), m.values[c] + d);
      });
    }
    for (int first = 0; first < rows.count; first += 16) {
      const int count = rows.count - first < 16 ? rows.count - first : 16;
      const int32_t sees = rows.last[first + count - 1] + 1 - span.start;
      const Span seen = {span.start, span.begin, sees < span.end ? sees : span.end};
      if (seen.end <= 0) continue;
      int c = 0;
      for (; c + 2 <= seen.chunks(); c += 2) Scores<2>(a, first / 16, c, m.keys + c, m, t);
      if (c < seen.chunks()) Scores<1>(a, first / 16, c, m.keys + c, m, t);
      WeighAll(a, rows, first, count, 16, seen, states, m);
      EachWidth(a, [&](auto width, int64_t d) {
        constexpr int kWidth = decltype(width)::kValue;
        Values<kWidth>(
            d, seen.chunks(), m,
            t, [&](int i) __attribute__((always_inline)) { return m.values[i] + d; });
      });
      Write(a, first, count, states, m);
    }
  }

  // Tiles of queries, weights and sums have a row for each query, where one piece has them all.
  static void Configure(int rows, T& t) {
    TileConfig config;
    for (int tile = 0; tile < 6 && rows < 16; ++tile) {
      config.rows[tile] = static_cast<uint8_t>(rows);
    }
    t.Configure(config);
  }

  // Several sequences: the splits that they share for all rows together, then each on its own. The
  // split in which they part is computed anew for each, its keys and values mostly from the caches.
  static void RunFold(const AttentionItem& a, Memory& m, T& t) {
    auto memory = Plain::Cut(a, (1 + a.sharer_count) * a.group);
    Rows all;
    for (int i = 0; i <= a.sharer_count; ++i) {
      Plain::Describe(Plain::One(a, i), memory.queries, &all);
    }
    MakeQueries(a, all, m);
    Configure(all.count, t);
    Plain::Reset(a, all, memory.total);
    const int32_t whole = a.shared_blocks / a.split_blocks;
    for (int32_t s = 0; s < whole; ++s) {
      Split(a, all, s, memory.states, m, t);
      Plain::Join(a, all, s, memory.states, memory.total);
    }
    Configure(a.group, t);
    for (int i = 0; i <= a.sharer_count; ++i) {
      AttentionItem one = Plain::One(a, i);
      if (i < a.sharer_count) {
        one.next = a.base + a.sharers[i].table[whole * a.split_blocks] * a.block_stride;
      }
      Rows rows;
      Plain::Describe(one, memory.queries, &rows);
      MakeQueries(one, rows, m);
      for (int32_t s = whole; s < one.split_end; ++s) {
        Split(one, rows, s, memory.states, m, t);
        Plain::Join(one, rows, s, memory.states, memory.total);
      }
      Plain::Write(one, rows, memory.total);
      memory.total += AttentionPartialFloats(a.group, a.head_dim);
    }
  }

  // Its own function, so that other items are run without its 190 KiB of stack.
  static __attribute__((noinline)) void OnTiles(const AttentionItem& a) {
    Memory m;
    T t;
    if (a.sharer_count > 0) {
      RunFold(a, m, t);
      return t.Release();
    }
    auto memory = Plain::Cut(a, a.tokens * a.group);
    Rows rows;
    Plain::Describe(a, memory.queries, &rows);
    MakeQueries(a, rows, m);
    Configure(rows.count, t);
    if (a.out == nullptr) {
      float* states = a.partial;
      for (int32_t s = a.split_begin; s < a.split_end; ++s) {
        Split(a, rows, s, states, m, t);
        states += AttentionPartialFloats(rows.count, a.head_dim);
      }
    } else {
      Plain::Reset(a, rows, memory.total);
      for (int32_t s = a.split_begin; s < a.split_end; ++s) {
        Split(a, rows, s, memory.states, m, t);
        Plain::Join(a, rows, s, memory.states, memory.total);
      }
      Plain::Write(a, rows, memory.total);
    }
    t.Release();
  }

  static void Run(const AttentionItem& a) { Takes(a) ? OnTiles(a) : kElse(a); }
};

}  // namespace millrace::kernels::body
