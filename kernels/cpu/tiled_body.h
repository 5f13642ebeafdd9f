// Products on tiles; see tiled.h for the layouts, and gemm_body.h for how this file is included.
// V are the lanes of the tier, T the tile operations. Each element of the output is made by
// operations that its row and the number of columns alone decide: equal bytes for any number of
// tokens that runs here, chunk and worker.
#pragma once

#include "kernels/cpu/gemm_body.h"
#include "kernels/cpu/pairs_body.h"
#include "kernels/cpu/tiled.h"

namespace millrace::kernels::body {

template <class V, class T>
struct Tiled {
  using F = typename V::F;
  using I = typename V::I;

  // The nearest number of 8 significant bits: bf16 in the upper half, zeros in the lower
  // (Veltkamp's splitting, with 2^16 + 1). Infinity, and what is 2^-16 of it, becomes no number,
  // which stays.
  static inline I RoundBf16(F x) {
    const F scaled = V::Mul(x, V::Set(65537.0f));
    return V::Bits(V::Sub(scaled, V::Sub(scaled, x)));
  }

  // ---- Activations.

  static void MakeRow(const TileRow& a) {
    const int64_t depth = TileDepth(a.bytes, a.cols);
    std::byte* const out = a.tiles + a.row * kTileRowBytes;
    for (int64_t i = 0; i < depth; ++i) __builtin_memset(out + i * kTileBytes, 0, kTileRowBytes);
    if (a.bytes) a.scale[a.row] = 0.0f;
    if (a.x == nullptr) return;
    if (a.bytes) {
      a.scale[a.row] = QuantizeRow(a, out);
    } else {
      RoundRow(a, out);
    }
  }

  static void RoundRow(const TileRow& a, std::byte* out) {
    int64_t k = 0;
    for (; k + kBlock <= a.cols; k += kBlock, out += kTileBytes) RoundPairs(a.x + k, out);
    if (k == a.cols) return;
    float rest[kBlock] = {};
    for (int64_t i = 0; k + i < a.cols; ++i) rest[i] = a.x[k + i];
    RoundPairs(rest, out);
  }
  static inline void RoundPairs(const float* x, std::byte* out) {
    const I even = V::template ShiftRight<16>(RoundBf16(V::Load(x)));
    V::StoreI(out, V::Or(even, RoundBf16(V::Load(x + 16))));
  }

  // Returns the scale. REQUIRES: cols is a multiple of 32. NaN and infinity as in QuantizeToken,
  // which has the same codes.
  static float QuantizeRow(const TileRow& a, std::byte* out) {
    const I magnitude = V::SetI(0x7fffffff);
    I top = V::ZeroI();
    for (int64_t k = 0; k < a.cols; k += 16) {
      top = V::MaxI(top, V::And(V::Bits(V::Load(a.x + k)), magnitude));
    }
    const int32_t bits = V::ReduceMaxI(top);
    const auto largest = __builtin_bit_cast(float, bits);
    if (bits >= 0x7f800000) return largest - largest;
    const F inverse = V::Set(largest > 1e-36f ? 127.0f / largest : 0.0f);
    for (int64_t k = 0; k < a.cols; k += 16) {
      std::byte* const to = out + k / kTileRowBytes * kTileBytes + k % kTileRowBytes;
      V::StoreBytes(reinterpret_cast<int8_t*>(to), V::ToInt(V::Mul(V::Load(a.x + k), inverse)));
    }
    return largest / 127.0f;
  }

  // ---- Weights.

  // Columns of one or two strips whose weights are made together; none: the end.
  struct Chunk {
    int64_t strip = 0, strips = 0;
    int64_t begin = 0, count = 0, depth = 0;
    std::byte* tiles = nullptr;  // [strips][depth][1024]
    float* sums = nullptr;       // [pieces][2 strips][16 tokens][16 rows]; of bytes: int32

    bool first(const GemmRun& a) const { return begin == a.tiled->begin; }
    bool last(const GemmRun& a) const { return begin + count == a.tiled->end; }
    float* sum(int64_t piece, int64_t r) const { return sums + (2 * piece + r) * kTileBytes / 4; }
  };
  // What follows columns `begin` of a strip and its neighbour.
  static Chunk ChunkAt(const GemmRun& a, int64_t strip, int64_t begin) {
    if (begin >= a.tiled->end) strip += 2, begin = a.tiled->begin;
    if (strip >= a.strip_end) return {};
    Chunk c;
    c.strip = strip;
    c.strips = a.strip_end - strip < 2 ? 1 : 2;
    c.begin = begin;
    const int64_t columns = a.tokens <= kTiledFewTokens ? kTiledColumnsOfFew : kTiledColumns;
    c.count = a.tiled->end - begin < columns ? a.tiled->end - begin : columns;
    c.depth = TileDepth(a.tiled->bytes, c.count);
    return c;
  }
  static Chunk After(const GemmRun& a, const Chunk& c) {
    return ChunkAt(a, c.strip, c.begin + c.count);
  }

  // W8A8: the codes of a strip are tiles already, but for the 128 that is added to them. One group.
  static void CopyTile(const GemmRun& a, int64_t strip, int64_t begin, int64_t count,
                       std::byte* out) {
    const std::byte* codes =
        a.strips + static_cast<size_t>(strip) * a.strip_bytes + a.group.header + begin * kStripRows;
    const int64_t bytes = count * kStripRows;
    for (int64_t i = 0; i < bytes; ++i) out[i] = codes[i] ^ std::byte{128};
    __builtin_memset(out + bytes, 0, static_cast<size_t>(kTileBytes - bytes));
  }

  // Makes a chunk's tiles a few at a time, between the products of the chunk before: these keep
  // the matrix unit busy and leave the vector units, and the memory, idle.
  class Filler {
   public:
    // The products take `steps` steps.
    Filler(const GemmRun& a, const Chunk& c, int64_t steps) : a_(a), c_(c), steps_(steps) {}
    inline __attribute__((always_inline)) void Step() {
      for (due_ += c_.strips * c_.depth; due_ >= steps_; due_ -= steps_) Tile();
    }
    void Finish() {
      while (r_ < c_.strips) Tile();
    }

   private:
    __attribute__((noinline)) void Tile() {
      if (r_ >= c_.strips) return;
      const int64_t columns = TileColumns(a_.tiled->bytes), begin = c_.begin + i_ * columns;
      const int64_t left = c_.begin + c_.count - begin, count = left < columns ? left : columns;
      std::byte* const out = c_.tiles + (r_ * c_.depth + i_) * kTileBytes;
      // A nudge: the hardware fetches the rest of a page whose first lines are asked for. All lines
      // asked for by name wait in the buffers that tiles are loaded through (docs/performance.md).
      const std::byte* strip = a_.strips + static_cast<size_t>(c_.strip + r_) * a_.strip_bytes;
      const std::byte* ahead =
          strip + begin * static_cast<int64_t>(a_.strip_bytes) / a_.cols + 4096;
      __builtin_prefetch(ahead, 0, 2);
      __builtin_prefetch(ahead + 64, 0, 2);
      a_.tiled->bytes ? CopyTile(a_, c_.strip + r_, begin, count, out)
                      : a_.fill(a_, c_.strip + r_, begin, count, out);
      if (++i_ == c_.depth) ++r_, i_ = 0;
    }
    const GemmRun& a_;
    const Chunk c_;
    const int64_t steps_;
    int64_t due_ = 0;        // in parts of a tile
    int64_t r_ = 0, i_ = 0;  // the next one
  };

  // The sums of finished strips to the output, a few tokens at a time: their lines lie in other
  // pages each, and written all at once would wait for memory one behind the other.
  class Emitter {
   public:
    // Of a chunk that ends its strips, or of none; `steps`: of the products of the strips after.
    Emitter(const GemmRun& a, const Chunk& c, int64_t steps)
        : a_(&a), c_(c), steps_(steps), tokens_(c.strips == 0 ? 0 : a.tokens) {
      for (int64_t r = 0; a.tiled->bytes && r < c.strips; ++r) {
        step_[r] =
            LoadScales<V>(a.strips + static_cast<size_t>(c.strip + r) * a.strip_bytes, a.group);
      }
    }
    inline __attribute__((always_inline)) void Step() {
      for (due_ += tokens_; due_ >= steps_; due_ -= steps_) Token();
    }
    void Finish() {
      while (next_ < tokens_) Token();
    }

   private:
    __attribute__((noinline)) void Token() {
      if (next_ >= tokens_) return;
      if (a_->accumulate && next_ + kAhead < tokens_) Fetch(next_ + kAhead);
      for (int64_t r = 0; r < c_.strips; ++r) {
        const float* sums = c_.sum(next_ / kTileRows, r) + next_ % kTileRows * kStripRows;
        F value = V::Load(sums);
        if (a_->tiled->bytes) {
          const F scale = V::Mul(step_[r], V::Set(a_->tiled->scale[next_]));
          value = V::Mul(V::ToFloat(V::LoadI(sums)), scale);
        }
        Emit<V>(*a_, c_.strip + r, next_, value);
      }
      ++next_;
    }

    // Outputs that are added to: without, each waits for memory before the next is asked for.
    static constexpr int64_t kAhead = 8;
    void Fetch(int64_t token) const {
      const float* out = a_->out + token * a_->rows + c_.strip * kStripRows;
      for (int64_t r = 0; r < c_.strips; ++r) __builtin_prefetch(out + r * kStripRows, 1, 3);
    }

    const GemmRun* a_;
    Chunk c_;
    int64_t steps_, tokens_;
    int64_t due_ = 0;  // in parts of a token
    int64_t next_ = 0;
    F step_[2] = {};
  };

  // What is done between the steps of products.
  struct Between {
    Filler filler;
    Emitter& emitter;

    inline __attribute__((always_inline)) void Step() {
      filler.Step();
      emitter.Step();
    }
  };

  // ---- Products: tiles 0 .. 3 sum P pieces x R strips, 4 and 5 hold tokens, 6 and 7 weights.
  // Weights are read again by all pieces; what a piece reads comes from the second-level cache and
  // is not wanted in the first (LoadOnce: docs/performance.md).

  template <bool kBytes, int kC, int kA, int kB>
  static inline void Dot(T& t) {
    if constexpr (kBytes) {
      t.template DotBytes<kC, kA, kB>();
    } else {
      t.template DotBf16<kC, kA, kB>();
    }
  }

  // Calls body(Index<tile>(), piece, strip) for the sums of P pieces x R strips.
  template <int P, int R, class Body>
  static inline __attribute__((always_inline)) void ForSums(const Body& body) {
    Unrolled<0, P * R>([&](auto index) __attribute__((always_inline)) {
      constexpr int i = decltype(index)::kValue;
      body(Index<i / R * 2 + i % R>(), i / R, i % R);
    });
  }

  // Adds the products of a chunk to the sums of pieces `piece` .. `piece` + P - 1.
  template <bool kBytes, int P, int R>
  static void Multiply(const GemmRun& a, const Chunk& c, int64_t piece, T& t, Between& between) {
    ForSums<P, R>([&](auto index, int p, int r) __attribute__((always_inline)) {
      constexpr int kTile = decltype(index)::kValue;
      if (c.first(a)) {
        t.template Zero<kTile>();
      } else {
        t.template LoadOnce<kTile>(c.sum(piece + p, r), kTileRowBytes);
      }
    });
    const int64_t whole = TileDepth(kBytes, a.cols);
    const std::byte* x =
        a.tiled->tiles + (piece * whole + c.begin / TileColumns(kBytes)) * kTileBytes;
    const std::byte* w = c.tiles;
    const int64_t next_piece = whole * kTileBytes, next_strip = c.depth * kTileBytes;
    for (int64_t i = 0; i < c.depth; ++i, x += kTileBytes, w += kTileBytes) {
      t.template LoadOnce<4>(x, kTileRowBytes);
      if constexpr (P == 2) t.template LoadOnce<5>(x + next_piece, kTileRowBytes);
      t.template Load<6>(w, kTileRowBytes);
      if constexpr (R == 2) t.template Load<7>(w + next_strip, kTileRowBytes);
      Dot<kBytes, 0, 4, 6>(t);
      if constexpr (R == 2) Dot<kBytes, 1, 4, 7>(t);
      if constexpr (P == 2) Dot<kBytes, 2, 5, 6>(t);
      if constexpr (P == 2 && R == 2) Dot<kBytes, 3, 5, 7>(t);
      between.Step();
    }
    ForSums<P, R>([&](auto index, int p, int r) __attribute__((always_inline)) {
      t.template Store<decltype(index)::kValue>(c.sum(piece + p, r), kTileRowBytes);
    });
  }

  template <bool kBytes, int R>
  static void Products(const GemmRun& a, const Chunk& c, T& t, Between& between) {
    const int64_t pieces = (a.tokens + kTileRows - 1) / kTileRows;
    int64_t piece = 0;
    for (; piece + 2 <= pieces; piece += 2) Multiply<kBytes, 2, R>(a, c, piece, t, between);
    if (piece < pieces) Multiply<kBytes, 1, R>(a, c, piece, t, between);
  }

  template <bool kBytes>
  static void AllStrips(const GemmRun& a, T& t) {
    constexpr int64_t kChunkBytes = 2 * kTiledColumns / TileColumns(false) * kTileBytes;
    auto* const tiles = reinterpret_cast<std::byte*>(a.scratch);
    float* const sums = a.scratch + 2 * kTiledColumns * kStripRows;
    const int64_t passes = (a.tokens + 2 * kTileRows - 1) / (2 * kTileRows);
    const int64_t steps = passes * TileDepth(kBytes, a.tiled->end - a.tiled->begin);
    Chunk c = ChunkAt(a, a.strip_begin, a.tiled->begin);
    c.tiles = tiles;
    c.sums = sums;
    Filler(a, c, 1).Finish();
    Emitter emitter(a, {}, steps);
    for (int64_t odd = 1; c.strips != 0; odd ^= 1) {
      Chunk next = After(a, c);
      next.tiles = tiles + odd * kChunkBytes;
      next.sums = c.sums;
      if (c.last(a)) next.sums = sums + (c.sums == sums ? 2 * RoundUp16(a.tokens) * kStripRows : 0);
      Between between = {Filler(a, next, passes * c.depth), emitter};
      c.strips == 2 ? Products<kBytes, 2>(a, c, t, between) : Products<kBytes, 1>(a, c, t, between);
      between.filler.Finish();
      if (c.last(a)) {
        emitter.Finish();
        emitter = Emitter(a, c, steps);
      }
      c = next;
    }
    emitter.Finish();
  }

  // The tiles are this thread's for as long as this runs: a thread that waits or parks has none,
  // and what the system saves for it stays small.
  static void Gemm(const GemmRun& a) {
    T tiles;
    tiles.Configure(TileConfig());
    a.tiled->bytes ? AllStrips<true>(a, tiles) : AllStrips<false>(a, tiles);
    tiles.Release();
  }
};

}  // namespace millrace::kernels::body
