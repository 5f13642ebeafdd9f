// Weights as the B operands of bf16 tiles (tiled.h): for each 32 columns 16 rows of 64 bytes, of
// which row j holds columns j and 16 + j of the strip's 16 rows, as pairs. See gemm_body.h for how
// this file is included.
#pragma once

#include "kernels/cpu/payload_body.h"

namespace millrace::kernels::body {

template <class V>
struct Pairs {
  using F = typename V::F;
  using I = typename V::I;

  // The nearest numbers of 8 significant bits, of two the farther from zero; `even` in the low
  // halves. REQUIRES: Clean, or the result of an operation on what is.
  static inline __attribute__((always_inline)) I Round(F even, F odd) {
    const I half = V::SetI(0x8000);
    const I low = V::template ShiftRight<16>(V::AddI(V::Bits(even), half));
    return V::OrBits(low, V::AddI(V::Bits(odd), half), V::SetI(-0x10000));
  }
  // What is no number becomes -infinity, from which operations make the one NaN that Round leaves
  // one: others it could carry over into zero.
  static inline __attribute__((always_inline)) F Clean(F x) {
    return V::Max(x, V::Set(-__builtin_inff()));
  }

  template <class Plain>
  static void FillPlain(const GemmRun& a, int64_t strip, int64_t begin, int64_t count,
                        std::byte* out) {
    const std::byte* p =
        a.strips + static_cast<size_t>(strip) * a.strip_bytes + begin * Plain::kBytes;
    for (; count > 0; count -= kBlock, p += kBlock * Plain::kBytes) {
      for (int j = 0; j < 16; ++j, out += 64) {
        const std::byte* even = p + j * Plain::kBytes;
        const std::byte* odd = even + 16 * Plain::kBytes;
        V::StoreI(out, Round(j < count ? Clean(Plain::Load(even)) : V::Zero(),
                             16 + j < count ? Clean(Plain::Load(odd)) : V::Zero()));
      }
    }
  }

  // A code q of n bits becomes a number in two operations: its bits in the place of the first n of
  // the mantissa of 2^n make 2^n + q. What that is too large by goes into the offset.
  template <class Format>
  static void FillCoded(const GemmRun& a, int64_t strip, int64_t begin, int64_t count,
                        std::byte* out) {
    using Header = typename Format::Header;
    constexpr int kBits = Format::Codes::kBits, kUnit = 23 - kBits;
    const I one = V::SetI((127 + kBits) << 23), mask = V::SetI(((1 << kBits) - 1) << kUnit);
    const F base = V::Set(-static_cast<float>(1 << kBits));
    const F constant = V::Set(-static_cast<float>((1 << kBits) + Format::kConstant));
    BlockCursor<Format> at(a, strip, begin / kBlock);
    for (; count > 0; count -= kBlock, out += 1024, at.Next(a)) {
      const std::byte* codes = at.codes(a);
      BlockScales<V> s;
      Header::Read(Header::Open(at.header, a.group), at.header, at.block, s);
      F scale[2], offset[2];
      for (int h = 0; h < 2; ++h) {
        scale[h] = Clean(s.scale[Header::kScales == 2 ? h : 0]);
        if constexpr (Header::kOffset == Offset::kMinimum) {
          offset[h] = V::Fma(base, scale[h], Clean(s.offset));
        } else if constexpr (Header::kOffset == Offset::kZero) {
          offset[h] = V::Mul(V::Sub(base, Clean(s.offset)), scale[h]);
        } else {
          offset[h] = V::Mul(constant, scale[h]);
        }
      }
      I lines[8];
      typename Format::Codes::State state;
      Unrolled<0, 8>([&](auto index) __attribute__((always_inline)) {
        constexpr int j = decltype(index)::kValue;
        lines[j] = Format::Codes::template Line<j>(codes, state);
      });
      Unrolled<0, 16>([&](auto index) __attribute__((always_inline)) {
        constexpr int j = decltype(index)::kValue, kLeft = kUnit - 8 * (j % 4);
        const auto value = [&](I line, int h) __attribute__((always_inline)) {
          const I number = V::OrBits(one, Shifted<V, kLeft>(line), mask);
          return V::Fma(V::FromBits(number), scale[h], offset[h]);
        };
        V::StoreI(out + 64 * j, Round(value(lines[j / 4], 0), value(lines[4 + j / 4], 1)));
      });
    }
  }
};

}  // namespace millrace::kernels::body
