// Fast products of the payloads of groups. A few hundred columns of a strip or two are unpacked to
// bytes and fp32 scales in the first-level cache, and one tile kernel multiplies such a panel with
// all tokens: so a payload costs an unpacking loop of code, not a set of tiles. The sums of each
// token wait in memory between panels, which changes nothing. See gemm_body.h for how this file is
// included.
#pragma once

#include "kernels/cpu/gemm_body.h"

namespace millrace::kernels::body {

inline constexpr int64_t kPanelBlocks = 8;  // of 32 columns: 11 KB for two strips

template <class V>
struct Panels {
  using F = typename V::F;
  using I = typename V::I;

  // Unpacked blocks [begin, begin + blocks) of R strips.
  struct Panel {
    std::byte* codes;  // [R][kPanelBlocks][8 lines]
    float* scales;     // [R][kPanelBlocks][2][16]
    float* offsets;    // [R][kPanelBlocks][16]; added to code * scale
    int64_t begin, blocks;
    int32_t zero;  // subtracted from every code
    bool has_offsets;
  };
  template <int R>
  static constexpr int64_t kPanelFloats = R* kPanelBlocks*(128 + 32 + 16);
  static_assert(kPanelFloats<kMaxGroupStrips> <= kMaxGroupStrips * kStripRows * kExactChunk);

  template <class Format>
  static inline void Unpack(const GemmRun& a, int64_t strip, const Panel& panel, int64_t r) {
    using Header = typename Format::Header;
    BlockCursor<Format> at(a, strip, panel.begin);
    std::byte* lines = panel.codes + r * kPanelBlocks * 512;
    float* scales = panel.scales + r * kPanelBlocks * 32;
    float* offsets = panel.offsets + r * kPanelBlocks * 16;
    for (int64_t b = 0; b < panel.blocks; ++b, at.Next(a)) {
      const std::byte* codes = at.codes(a);
      MILLRACE_UNROLL
      for (int offset = 0; offset < Format::Codes::kBytes; offset += 64) {
        V::Prefetch(codes + 2304 + offset);
      }
      Format::Codes::Run(codes, [&](int j, I line) { V::StoreI(lines + 512 * b + 64 * j, line); });
      BlockScales<V> s;
      Header::Read(at.header, at.block, a.group, s);
      V::Store(scales + 32 * b, s.scale[0]);
      if constexpr (Header::kScales == 2) V::Store(scales + 32 * b + 16, s.scale[1]);
      if constexpr (Header::kOffset == Offset::kMinimum) V::Store(offsets + 16 * b, s.offset);
      if constexpr (Header::kOffset == Offset::kZero) {
        const F zero = V::Set(static_cast<float>(Format::kConstant));
        V::Store(offsets + 16 * b, V::Mul(V::Sub(zero, s.offset), s.scale[0]));
      }
    }
  }

  // kScales: 1 or 2 scales for the 32 columns of a block.
  template <bool kWide, int kScales, int R, int M>
  static inline void Tile(const GemmRun& a, const Panel& panel, int64_t token, float* sums) {
    constexpr int kLines = 8 / kScales;
    const int64_t blocks = a.cols / kBlock;
    F sum[R][M];
    MILLRACE_UNROLL
    for (int m = 0; m < M; ++m) {
      MILLRACE_UNROLL
      for (int r = 0; r < R; ++r) sum[r][m] = V::Load(sums + ((token + m) * R + r) * kStripRows);
    }
    for (int64_t b = 0; b < panel.blocks; ++b) {
      const int64_t at = token * blocks + panel.begin + b;  // token m: + m * blocks
      MILLRACE_UNROLL
      for (int part = 0; part < kScales; ++part) {
        I c[R][M];
        MILLRACE_UNROLL
        for (int m = 0; m < M; ++m) {
          const int64_t block = at + m * blocks;
          const int32_t total =  // of the activations, negated
              kScales == 2 ? -a.quantized.halves[2 * block + part] : a.quantized.bias8[block] / 8;
          const I start = V::SetI(total * panel.zero);
          MILLRACE_UNROLL
          for (int r = 0; r < R; ++r) c[r][m] = start;
        }
        MILLRACE_UNROLL
        for (int j = 0; j < kLines; ++j) {
          const int line = part * kLines + j;
          I w[R];
          MILLRACE_UNROLL
          for (int r = 0; r < R; ++r) {
            w[r] = V::LoadI(panel.codes + (r * kPanelBlocks + b) * 512 + 64 * line);
          }
          MILLRACE_UNROLL
          for (int m = 0; m < M; ++m) {
            const I x = V::Broadcast4(a.quantized.q + (at + m * blocks) * kBlock + 4 * line);
            MILLRACE_UNROLL
            for (int r = 0; r < R; ++r) {
              c[r][m] = kWide ? V::DotQ8(c[r][m], w[r], x) : V::DotQ4(c[r][m], w[r], x);
            }
          }
        }
        MILLRACE_UNROLL
        for (int r = 0; r < R; ++r) {
          const F scale = V::Load(panel.scales + (r * kPanelBlocks + b) * 32 + 16 * part);
          MILLRACE_UNROLL
          for (int m = 0; m < M; ++m) {
            const F s = V::Mul(scale, V::Set(a.quantized.scale[at + m * blocks]));
            sum[r][m] = V::Fma(V::ToFloat(c[r][m]), s, sum[r][m]);
          }
        }
      }
      if (panel.has_offsets) {
        MILLRACE_UNROLL
        for (int r = 0; r < R; ++r) {
          const F offset = V::Load(panel.offsets + (r * kPanelBlocks + b) * 16);
          MILLRACE_UNROLL
          for (int m = 0; m < M; ++m) {
            sum[r][m] = V::Fma(offset, V::Set(a.quantized.sum[at + m * blocks]), sum[r][m]);
          }
        }
      }
    }
    MILLRACE_UNROLL
    for (int m = 0; m < M; ++m) {
      MILLRACE_UNROLL
      for (int r = 0; r < R; ++r) V::Store(sums + ((token + m) * R + r) * kStripRows, sum[r][m]);
    }
  }

  // All tokens against a panel. Out of line: the payloads share it.
  template <bool kWide, int kScales, int R>
  static __attribute__((noinline)) void Tokens(const GemmRun& a, const Panel& panel, float* sums) {
    ForTiles<V::kFastTokens>(a.tokens, [&](auto tile, int64_t token) {
      Tile<kWide, kScales, R, decltype(tile)::kTokens>(a, panel, token, sums);
    });
  }

  template <class Format, int R>
  static inline void Strips(const GemmRun& a, int64_t strip) {
    // Where the tier's DotQ8 multiplies the biased codes as they are, it is DotQ4, and 128 a zero
    // point like any other.
    constexpr bool kWide = Format::kWide && !V::kBiasedQ8;
    using Header = typename Format::Header;
    Panel panel;
    panel.codes = reinterpret_cast<std::byte*>(a.scratch);
    panel.scales = a.scratch + R * kPanelBlocks * 128;
    panel.offsets = panel.scales + R * kPanelBlocks * 32;
    panel.has_offsets = Header::kOffset != Offset::kConstant;
    const bool zero_is_offset = Header::kOffset != Offset::kConstant && !Format::kWide;
    panel.zero = kWide || zero_is_offset ? 0 : Format::kConstant;
    float* sums = a.scratch + kPanelFloats<R>;
    for (int64_t i = 0; i < a.tokens * R; ++i) V::Store(sums + i * kStripRows, V::Zero());
    const int64_t blocks = a.cols / kBlock;
    for (panel.begin = 0; panel.begin < blocks; panel.begin += kPanelBlocks) {
      panel.blocks = blocks - panel.begin < kPanelBlocks ? blocks - panel.begin : kPanelBlocks;
      for (int r = 0; r < R; ++r) Unpack<Format>(a, strip + r, panel, r);
      Tokens<kWide, Header::kScales, R>(a, panel, sums);
    }
    for (int64_t t = 0; t < a.tokens; ++t) {
      for (int r = 0; r < R; ++r) {
        Emit<V>(a, strip + r, t, V::Load(sums + (t * R + r) * kStripRows));
      }
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

// W8A8: one scale for a token, largest / 127, written to all its blocks, so that its products are
// those of any other kind. REQUIRES: cols is a multiple of 32. NaN and infinity as in
// Rows::Quantize.
template <class V>
void QuantizeToken(const float* x, int64_t cols, int8_t* q, float* scale, float* sum,
                   int32_t* bias8) {
  using I = typename V::I;
  const I magnitude = V::SetI(0x7fffffff);
  I top = V::ZeroI();
  for (int64_t k = 0; k < cols; k += 16) {
    top = V::MaxI(top, V::And(V::Bits(V::Load(x + k)), magnitude));
  }
  const int32_t bits = V::ReduceMaxI(top);
  float largest;
  __builtin_memcpy(&largest, &bits, 4);
  const bool finite = bits < 0x7f800000;
  const auto inverse = V::Set(finite && largest > 1e-36f ? 127.0f / largest : 0.0f);
  const float step = finite ? largest / 127.0f : largest - largest;
  for (int64_t k = 0; k < cols; k += kBlock, ++scale, ++sum, ++bias8) {
    I qa = V::ZeroI(), qb = V::ZeroI();
    if (finite) {
      qa = V::ToInt(V::Mul(V::Load(x + k), inverse));
      qb = V::ToInt(V::Mul(V::Load(x + k + 16), inverse));
    }
    V::StoreBytes(q + k, qa);
    V::StoreBytes(q + k + 16, qb);
    const int32_t total = V::ReduceAddI(qa) + V::ReduceAddI(qb);
    *scale = step;
    *sum = step * static_cast<float>(total);
    *bias8 = -8 * total;
  }
}

}  // namespace millrace::kernels::body
