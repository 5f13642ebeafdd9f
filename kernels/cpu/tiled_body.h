// Products on tiles; see tiled.h for the layouts, and gemm_body.h for how this file is included.
// V are the lanes of the tier, T the tile operations. Each element of the output is made by
// operations that its row and the number of columns alone decide: equal bytes for any number of
// tokens that runs here, chunk and worker.
#pragma once

#include "kernels/cpu/gemm_body.h"
#include "kernels/cpu/tiled.h"

namespace millrace::kernels::body {

template <class V, class T>
struct Tiled {
  using F = typename V::F;
  using I = typename V::I;

  // The nearest number of 8 significant bits: bf16 in the upper half, zeros in the lower
  // (Veltkamp's splitting, with 2^16 + 1). Infinity, and what is 2^-16 of it, becomes no number,
  // which stays.
  static inline float RoundBf16(float x) {
    const float scaled = x * 65537.0f;
    return scaled - (scaled - x);
  }
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
    constexpr int64_t kColumns = kTileRowBytes / 2;
    for (int64_t begin = 0; begin < a.cols; begin += kColumns, out += kTileBytes) {
      uint16_t row[kColumns] = {};
      const int64_t count = a.cols - begin < kColumns ? a.cols - begin : kColumns;
      for (int64_t k = 0; k < count; ++k) {
        const float rounded = RoundBf16(a.x[begin + k]);
        row[k] = static_cast<uint16_t>(__builtin_bit_cast(uint32_t, rounded) >> 16);
      }
      __builtin_memcpy(out, row, sizeof row);
    }
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

  // Columns whose weights are made together, and where that is in a worker's scratch.
  struct Chunk {
    int64_t begin, count, depth;
    float* values;     // [kFillColumns][16] of one strip
    std::byte* tiles;  // [2 strips][depth][1024]
    float* sums;       // [pieces][2 strips][16 tokens][16 rows]; of bytes: int32

    std::byte* strip(int r) const { return tiles + r * depth * kTileBytes; }
    float* sum(int64_t piece, int r) const { return sums + (2 * piece + r) * kTileBytes / 4; }
  };
  static Chunk ChunkAt(const GemmRun& a, int64_t begin) {
    Chunk c;
    c.begin = begin;
    c.count = a.cols - begin < kTiledColumns ? a.cols - begin : kTiledColumns;
    c.depth = TileDepth(a.tiled->bytes, c.count);
    c.values = a.scratch;
    c.tiles = reinterpret_cast<std::byte*>(c.values + kFillColumns * kStripRows);
    c.sums = c.values + (kFillColumns + kTiledColumns) * kStripRows;
    return c;
  }

  static void RoundWeights(const GemmRun& a, const Chunk& c, int64_t strip, std::byte* out) {
    const int64_t padded = c.depth * kTileRowBytes / 2;
    for (int64_t begin = 0; begin < padded; begin += kFillColumns) {
      const int64_t left = c.count - begin, end = padded - begin;
      const int64_t count = left < kFillColumns ? left : kFillColumns;
      a.fill(a, strip, c.begin + begin, count, c.values);
      for (int64_t k = count; k < end && k < kFillColumns; ++k) {
        V::Store(c.values + k * kStripRows, V::Zero());
      }
      for (int64_t k = 0; k < end && k < kFillColumns; k += 2, out += kTileRowBytes) {
        const float* even = c.values + k * kStripRows;
        const I low = V::template ShiftRight<16>(RoundBf16(V::Load(even)));
        V::StoreI(out, V::Or(low, RoundBf16(V::Load(even + kStripRows))));
      }
    }
  }

  // W8A8: the codes of a strip are tiles already, but for the 128 that is added to them. One group.
  static void CopyWeights(const GemmRun& a, const Chunk& c, int64_t strip, std::byte* out) {
    const std::byte* codes = a.strips + static_cast<size_t>(strip) * a.strip_bytes +
                             a.group.header + c.begin * kStripRows;
    const int64_t bytes = c.count * kStripRows;
    for (int64_t i = 0; i < bytes; ++i) out[i] = codes[i] ^ std::byte{128};
    __builtin_memset(out + bytes, 0, static_cast<size_t>(c.depth * kTileBytes - bytes));
  }

  // ---- Products: tiles 0 .. 3 sum P pieces x R strips, 4 and 5 hold tokens, 6 and 7 weights.

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
  static void Multiply(const GemmRun& a, const Chunk& c, int64_t piece, T& t) {
    ForSums<P, R>([&](auto index, int p, int r) __attribute__((always_inline)) {
      constexpr int kTile = decltype(index)::kValue;
      if (c.begin == 0) {
        t.template Zero<kTile>();
      } else {
        t.template Load<kTile>(c.sum(piece + p, r), kTileRowBytes);
      }
    });
    const int64_t whole = TileDepth(kBytes, a.cols);
    const std::byte* x =
        a.tiled->tiles + (piece * whole + c.begin / TileColumns(kBytes)) * kTileBytes;
    const std::byte* w = c.tiles;
    const int64_t next_piece = whole * kTileBytes, next_strip = c.depth * kTileBytes;
    for (int64_t i = 0; i < c.depth; ++i, x += kTileBytes, w += kTileBytes) {
      t.template Load<4>(x, kTileRowBytes);
      t.template Load<6>(w, kTileRowBytes);
      Dot<kBytes, 0, 4, 6>(t);
      if constexpr (R == 2) {
        t.template Load<7>(w + next_strip, kTileRowBytes);
        Dot<kBytes, 1, 4, 7>(t);
      }
      if constexpr (P == 2) {
        t.template Load<5>(x + next_piece, kTileRowBytes);
        Dot<kBytes, 2, 5, 6>(t);
        if constexpr (R == 2) Dot<kBytes, 3, 5, 7>(t);
      }
    }
    ForSums<P, R>([&](auto index, int p, int r) __attribute__((always_inline)) {
      t.template Store<decltype(index)::kValue>(c.sum(piece + p, r), kTileRowBytes);
    });
  }

  // The sums of R strips to the output.
  template <bool kBytes, int R>
  static void EmitStrips(const GemmRun& a, const Chunk& c, int64_t strip) {
    F step[R] = {};
    for (int r = 0; kBytes && r < R; ++r) {
      step[r] = LoadScales<V>(a.strips + static_cast<size_t>(strip + r) * a.strip_bytes, a.group);
    }
    for (int64_t token = 0; token < a.tokens; ++token) {
      for (int r = 0; r < R; ++r) {
        const float* sums = c.sum(token / kTileRows, r) + token % kTileRows * kStripRows;
        F value = V::Load(sums);
        if constexpr (kBytes) {
          const F scale = V::Mul(step[r], V::Set(a.tiled->scale[token]));
          value = V::Mul(V::ToFloat(V::LoadI(sums)), scale);
        }
        Emit<V>(a, strip + r, token, value);
      }
    }
  }

  template <bool kBytes, int R>
  static void Strips(const GemmRun& a, int64_t strip, T& t) {
    const int64_t pieces = (a.tokens + kTileRows - 1) / kTileRows;
    for (int64_t begin = 0; begin < a.cols; begin += kTiledColumns) {
      const Chunk c = ChunkAt(a, begin);
      for (int r = 0; r < R; ++r) {
        kBytes ? CopyWeights(a, c, strip + r, c.strip(r))
               : RoundWeights(a, c, strip + r, c.strip(r));
      }
      int64_t piece = 0;
      for (; piece + 2 <= pieces; piece += 2) Multiply<kBytes, 2, R>(a, c, piece, t);
      if (piece < pieces) Multiply<kBytes, 1, R>(a, c, piece, t);
    }
    EmitStrips<kBytes, R>(a, ChunkAt(a, 0), strip);
  }

  template <bool kBytes>
  static void AllStrips(const GemmRun& a, T& t) {
    int64_t strip = a.strip_begin;
    for (; strip + 2 <= a.strip_end; strip += 2) Strips<kBytes, 2>(a, strip, t);
    if (strip < a.strip_end) Strips<kBytes, 1>(a, strip, t);
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
