// Fast products of many tokens. The weights of some columns are unpacked once, into a panel in the
// first-level cache that all tiles of tokens read: codes as bytes, scales in fp32. One tile serves
// all payloads, and its vectors do nothing but dots and scales. Each output element has the
// operations of tile_body.h in the same order. See gemm_body.h for how this file is included.
//
//   panel       [block][strip]{ 8 lines of 64 bytes of codes, scales, offset: 16 floats each }
#pragma once

#include "kernels/cpu/tile_body.h"

namespace millrace::kernels::body {

// What a tile must know of a payload. Codes count from 0, or are off by 8 or by 128.
template <int kConstantValue, int kScalesValue, bool kOffsetValue>
struct PanelForm {
  static constexpr int kConstant = kConstantValue;
  static constexpr int kScales = kScalesValue;
  static constexpr bool kOffset = kOffsetValue;
  static constexpr int kCodes = 512;
  static constexpr int kBytes = kCodes + 64 * (kScales + (kOffset ? 1 : 0));
};

template <class V>
struct Panel {
  using F = typename V::F;
  using I = typename V::I;

  template <class Format>
  struct FormOf {
    using Header = typename Format::Header;
    static constexpr bool kOffset = Header::kOffset != Offset::kConstant;
    static constexpr bool kAsIs = kOffset || Format::kConstant == 8;
    using Form = PanelForm<kAsIs ? Format::kConstant : 128, Header::kScales, kOffset>;
    static constexpr int kAdd = Form::kConstant - Format::kConstant;  // to each code
  };

  // The columns of a panel.
  struct Columns {
    const std::byte* panel;
    int64_t begin, count;  // blocks
    float* sums;           // [tokens][strips][16]
    int64_t strip;         // the first
  };

  // Unpacks the columns of a strip. `out` is the strip's place in the first block.
  template <class Format, int R>
  static inline __attribute__((always_inline)) void Fill(const GemmRun& a, int64_t strip,
                                                         const Columns& c, std::byte* out) {
    using Form = typename FormOf<Format>::Form;
    using Header = typename Format::Header;
    BlockCursor<Format> at(a, strip, c.begin);
    for (int64_t b = 0; b < c.count; ++b, out += R * Form::kBytes, at.Next(a)) {
      const std::byte* codes = at.codes(a);
      typename Format::Codes::State state;
      Unrolled<0, 8>([&](auto index) __attribute__((always_inline)) {
        constexpr int j = decltype(index)::kValue;
        I line = Format::Codes::template Line<j>(codes, state);
        if constexpr (FormOf<Format>::kAdd != 0) {
          line = V::AddI(line, V::SetI(FormOf<Format>::kAdd * 0x01010101));
        }
        V::StoreI(out + 64 * j, line);
      });
      BlockScales<V> s;
      Header::Read(Header::Open(at.header, a.group), at.header, at.block, s);
      float* scales = reinterpret_cast<float*>(out + Form::kCodes);
      V::Store(scales, s.scale[0]);
      if constexpr (Form::kScales == 2) V::Store(scales + 16, s.scale[1]);
      if constexpr (Form::kOffset) {
        V::Store(scales + 16 * Form::kScales, Fast<V>::template Added<Format>(s));
      }
    }
  }

  template <class Form>
  static inline __attribute__((always_inline)) I Start(const QuantizedRows& x, int64_t block,
                                                       int part) {
    if constexpr (Form::kConstant == 0) {
      return V::ZeroI();
    } else if constexpr (Form::kScales == 2) {
      return V::template ShiftLeft<5>(V::SetI(x.halves[2 * block + part]));
    } else if constexpr (Form::kConstant == 128) {
      return V::template ShiftLeft<4>(V::SetI(x.bias8[block]));
    } else {
      return V::SetI(x.bias8[block]);
    }
  }

  // Long: one loop nest whose registers a call would spill.
  template <class Form, int R, int M>
  static __attribute__((noinline)) void Tile(const GemmRun& a, const Columns& columns,
                                             int64_t token, Ahead<V>& shared_ahead) {
    constexpr int kLines = 8 / Form::kScales;
    const int64_t blocks = a.cols / kBlock;
    const QuantizedRows x = a.quantized;
    Ahead<V> ahead = shared_ahead;
    F sum[R][M];
    TakeSums<V>(columns.begin == 0, columns.sums, token, sum);
    const std::byte* panel = columns.panel;
    int64_t at = token * blocks + columns.begin;  // block of token m: + m * blocks
    for (int64_t left = columns.count; left > 0; --left, ++at, panel += R * Form::kBytes) {
      __asm__("" : "+r"(at));  // as in tile_body.h
      const int8_t* q[M];
      MILLRACE_UNROLL
      for (int m = 0; m < M; ++m) q[m] = x.q + (at + m * blocks) * kBlock;
      ahead.template Step<R>();
      I c[R][M];
      F half[R][M];  // of two scales: the first columns, scaled
      Unrolled<0, 8>([&](auto index) __attribute__((always_inline)) {
        constexpr int j = decltype(index)::kValue;
        if constexpr (j % kLines == 0) {
          MILLRACE_UNROLL
          for (int m = 0; m < M; ++m) {
            const I start = Start<Form>(x, at + m * blocks, j / kLines);
            MILLRACE_UNROLL
            for (int r = 0; r < R; ++r) c[r][m] = start;
          }
        }
        I w[R];
        MILLRACE_UNROLL
        for (int r = 0; r < R; ++r) w[r] = V::LoadI(panel + r * Form::kBytes + 64 * j);
        MILLRACE_UNROLL
        for (int m = 0; m < M; ++m) {
          const I four = V::Broadcast4(q[m] + 4 * j);
          MILLRACE_UNROLL
          for (int r = 0; r < R; ++r) c[r][m] = V::DotQ8(c[r][m], w[r], four);
        }
        if constexpr (j % kLines == kLines - 1) {
          MILLRACE_UNROLL
          for (int m = 0; m < M; ++m) {
            const F token_scale = V::Set(x.scale[at + m * blocks]);
            MILLRACE_UNROLL
            for (int r = 0; r < R; ++r) {
              const auto* scales =
                  reinterpret_cast<const float*>(panel + r * Form::kBytes + Form::kCodes);
              const F value = V::ToFloat(c[r][m]);
              if constexpr (Form::kScales == 1) {
                sum[r][m] = V::Fma(value, V::Mul(V::Load(scales), token_scale), sum[r][m]);
              } else if constexpr (j == kLines - 1) {
                half[r][m] = V::Mul(value, V::Load(scales));
              } else {
                const F both = V::Fma(value, V::Load(scales + 16), half[r][m]);
                sum[r][m] = V::Fma(both, token_scale, sum[r][m]);
              }
              if constexpr (Form::kOffset && j == 7) {
                const F token_sum = V::Set(x.sum[at + m * blocks]);
                sum[r][m] = V::Fma(V::Load(scales + 16 * Form::kScales), token_sum, sum[r][m]);
              }
            }
          }
        }
      });
    }
    shared_ahead = ahead;
    if (columns.begin + columns.count == blocks) {
      EmitSums<V>(a, columns.strip, token, sum);
    } else {
      KeepSums<V>(columns.sums, token, sum);
    }
  }

  // All tokens against R strips, a panel of columns after the other.
  template <class Format, int R>
  static void Strips(const GemmRun& a, int64_t strip) {
    using Form = typename FormOf<Format>::Form;
    const auto pitch = static_cast<int64_t>(a.strip_bytes);
    const std::byte* first = a.strips + strip * pitch;
    const int64_t blocks = a.cols / kBlock, bytes = (pitch + blocks - 1) / blocks;
    constexpr int64_t kMost = kPanelBytes / (R * Form::kBytes);
    const int64_t chunks = (blocks + kMost - 1) / kMost, chunk = (blocks + chunks - 1) / chunks;
    const int64_t tiles = (a.tokens + TileTokens<Form>() - 1) / TileTokens<Form>();
    const int64_t step = (bytes + tiles - 1) / tiles;
    auto* panel = reinterpret_cast<std::byte*>(a.scratch);
    float* sums = a.scratch + kPanelBytes / sizeof(float);
    for (int64_t begin = 0; begin < blocks; begin += chunk) {
      const int64_t count = blocks - begin < chunk ? blocks - begin : chunk;
      const Columns columns = {panel, begin, count, sums, strip};
      MILLRACE_UNROLL
      for (int r = 0; r < R; ++r) {
        Fill<Format, R>(a, strip + r, columns, panel + r * Form::kBytes);
      }
      Ahead<V> ahead = {first + (begin + count) * bytes, first + pitch, pitch, step,
                        (step + 63) / 64};
      Tokens<Form, R>(a, columns, ahead);
    }
  }

  // Three vectors for each product of a tile, if there are two scales.
  template <class Form>
  static constexpr int TileTokens() {
    return Form::kScales == 2 ? 4 : V::kPanelTokens;
  }

  // Not a template of the payload: few payloads differ in their form.
  template <class Form, int R>
  static __attribute__((noinline)) void Tokens(const GemmRun& a, const Columns& columns,
                                               Ahead<V>& ahead) {
    ForTiles<TileTokens<Form>()>(a.tokens, [&](auto tile, int64_t token) {
      if constexpr (decltype(tile)::kTokens >= TileTokens<Form>() - 1) {  // there are no others
        Tile<Form, R, decltype(tile)::kTokens>(a, columns, token, ahead);
      }
    });
  }

  template <class Format>
  static void Gemm(const GemmRun& a) {
    GemmRun run = a;
    if constexpr (V::kPanelFrom > 0) {
      // Then even tiles of at most kPanelTokens have no token less, or one.
      static_assert(V::kPanelFrom >= V::kPanelTokens * (V::kPanelTokens - 2));
      if (a.tokens >= (Format::kCheap ? V::kCheapPanelFrom : V::kPanelFrom)) {
        int64_t& strip = run.strip_begin;
        for (; strip + V::kPanelStrips <= a.strip_end; strip += V::kPanelStrips) {
          Strips<Format, V::kPanelStrips>(a, strip);
        }
      }
    }
    Fast<V>::template Gemm<Format>(run);
  }
};

}  // namespace millrace::kernels::body
