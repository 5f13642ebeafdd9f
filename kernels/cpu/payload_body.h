// The payloads of payload.h, as a tier reads them: codes become lines of bytes, headers become
// scales. A kernel is made of one of each; see gemm_body.h for how this file is included.
#pragma once

#include "kernels/cpu/kernels.h"

namespace millrace::kernels::body {

// Calls body(Index<begin>()) ... body(Index<end - 1>()), in line.
template <int kIndex>
struct Index {
  static constexpr int kValue = kIndex;
};
template <int kBegin, int kEnd, class Body>
inline __attribute__((always_inline)) void Unrolled(const Body& body) {
  if constexpr (kBegin < kEnd) {
    body(Index<kBegin>());
    Unrolled<kBegin + 1, kEnd>(body);
  }
}

// ---- Codes of 32 columns: Line<j>(p, state) for the lines j = 0 .. 7 of 4 columns each, asked for
// in that order. The state keeps what a line shares with the next. Cheap: an operation or two.

template <class V>
struct Nibbles {
  using I = typename V::I;
  static constexpr int kBits = 4;
  static constexpr bool kCheap = true;
  static constexpr int kBytes = 256;
  struct State {
    I both;
  };
  template <int kLine>
  MILLRACE_INLINE I Line(const std::byte* p, State& s) {
    const I mask = V::SetI(0x0f0f0f0f);
    if constexpr (kLine % 2 != 0) return V::And(V::template ShiftRight<4>(s.both), mask);
    s.both = V::LoadI(p + 32 * kLine);
    return V::And(s.both, mask);
  }
};

// x shifted to the left, by less than nothing to the right.
template <class V, int kLeft>
inline __attribute__((always_inline)) typename V::I Shifted(typename V::I x) {
  if constexpr (kLeft > 0) return V::template ShiftLeft<kLeft>(x);
  if constexpr (kLeft < 0) return V::template ShiftRight<-kLeft>(x);
  return x;
}

// 5 bits: nibbles, and a line whose byte holds the fifth bits of the eight lines.
template <class V>
struct NibblesBits {
  using I = typename V::I;
  static constexpr int kBits = 5;
  static constexpr bool kCheap = false;
  static constexpr int kBytes = 320;
  struct State {
    typename Nibbles<V>::State nibbles;
    I bits;
  };
  template <int kLine>
  MILLRACE_INLINE I Line(const std::byte* p, State& s) {
    if constexpr (kLine == 0) s.bits = V::LoadI(p + 256);
    const I low = Nibbles<V>::template Line<kLine>(p, s.nibbles);
    return V::OrBits(low, Shifted<V, 4 - kLine>(s.bits), V::SetI(0x10101010));
  }
};

// 6 bits: nibbles, and two lines of pairs of upper bits.
template <class V>
struct NibblesPairs {
  using I = typename V::I;
  static constexpr int kBits = 6;
  static constexpr bool kCheap = false;
  static constexpr int kBytes = 384;
  struct State {
    typename Nibbles<V>::State nibbles;
    I pairs;
  };
  template <int kLine>
  MILLRACE_INLINE I Line(const std::byte* p, State& s) {
    if constexpr (kLine % 4 == 0) s.pairs = V::LoadI(p + 256 + 16 * kLine);
    const I low = Nibbles<V>::template Line<kLine>(p, s.nibbles);
    return V::OrBits(low, Shifted<V, 4 - 2 * (kLine % 4)>(s.pairs), V::SetI(0x30303030));
  }
};

// 3 bits: two lines of pairs, and one of third bits.
template <class V>
struct PairsBits {
  using I = typename V::I;
  static constexpr int kBits = 3;
  static constexpr bool kCheap = false;
  static constexpr int kBytes = 192;
  struct State {
    I pairs, bits;
  };
  template <int kLine>
  MILLRACE_INLINE I Line(const std::byte* p, State& s) {
    if constexpr (kLine == 0) s.bits = V::LoadI(p + 128);
    if constexpr (kLine % 4 == 0) s.pairs = V::LoadI(p + 16 * kLine);
    const I low = V::And(Shifted<V, -2 * (kLine % 4)>(s.pairs), V::SetI(0x03030303));
    return V::OrBits(low, Shifted<V, 2 - kLine>(s.bits), V::SetI(0x04040404));
  }
};

// 8 bits: signed codes + 128.
template <class V>
struct CodeBytes {
  using I = typename V::I;
  static constexpr int kBits = 8;
  static constexpr bool kCheap = true;
  static constexpr int kBytes = 512;
  struct State {};
  template <int kLine>
  MILLRACE_INLINE I Line(const std::byte* p, State&) {
    return V::LoadI(p + 64 * kLine);
  }
};

// Nibbles that number the values of IQ4_NL and IQ4_XS, here + 128 (ggml's kvalues_iq4nl).
template <class V>
struct TableNibbles {
  using I = typename V::I;
  static constexpr int kBits = 8;
  static constexpr bool kCheap = true;
  static constexpr int kBytes = 256;
  using State = typename Nibbles<V>::State;
  template <int kLine>
  MILLRACE_INLINE I Line(const std::byte* p, State& s) {
    static constexpr uint8_t kTable[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                           129, 141, 153, 166, 181, 197, 217, 241};
    return V::Lookup16(Nibbles<V>::template Line<kLine>(p, s), kTable);
  }
};

// ---- Headers: Open reads what all blocks of a group share, Read gives the scales of one block,
// and an offset. kBlocks and kBytes: of the full group; 0: GroupForm knows.

// How a value follows from a code.
enum class Offset {
  kConstant,  // (code - constant) scale
  kMinimum,   // code scale + offset
  kZero,      // (code - offset) scale
};

// What Read yields: scales of columns 0 .. 15 and 16 .. 31, or of all 32 in the first.
template <class V>
struct BlockScales {
  typename V::F scale[2];
  typename V::F offset;
};

template <class V>
inline typename V::F LoadHalves(const std::byte* p) {
  return V::LoadF16(reinterpret_cast<const uint16_t*>(p));
}

// d and a minimum, or a scale and a zero point.
template <class V>
struct TwoFields {
  typename V::F d, second;
};

template <int kBlocksValue, int kBytesValue>
struct HeaderConstants {
  static constexpr int kScales = 1;                  // of the 32 columns
  static constexpr bool kCheap = kBlocksValue != 8;  // scales in Read are there, or nearly so
  static constexpr Offset kOffset = Offset::kConstant;
  static constexpr int kBlocks = kBlocksValue;
  static constexpr int kBytes = kBytesValue;
};

// d
template <class V>
struct One : HeaderConstants<1, 32> {
  using Group = typename V::F;
  MILLRACE_INLINE Group Open(const std::byte* p, const GroupForm&) { return LoadHalves<V>(p); }
  MILLRACE_INLINE void Read(const Group& d, const std::byte*, int64_t, BlockScales<V>& out) {
    out.scale[0] = d;
  }
};
// d, m
template <class V>
struct OneMinimum : HeaderConstants<1, 64> {
  static constexpr Offset kOffset = Offset::kMinimum;
  using Group = TwoFields<V>;
  MILLRACE_INLINE Group Open(const std::byte* p, const GroupForm&) {
    return {LoadHalves<V>(p), LoadHalves<V>(p + 32)};
  }
  MILLRACE_INLINE void Read(const Group& g, const std::byte*, int64_t, BlockScales<V>& out) {
    out.scale[0] = g.d;
    out.offset = g.second;
  }
};
// d, dmin, 8 x u8 scale, 8 x u8 minimum (6 bits each). The products are exact.
template <class V>
struct EightMinimums : HeaderConstants<8, 320> {
  static constexpr Offset kOffset = Offset::kMinimum;
  using Group = TwoFields<V>;
  MILLRACE_INLINE Group Open(const std::byte* p, const GroupForm&) {
    return {LoadHalves<V>(p), LoadHalves<V>(p + 32)};
  }
  MILLRACE_INLINE void Read(const Group& g, const std::byte* p, int64_t block,
                            BlockScales<V>& out) {
    out.scale[0] = V::Mul(g.d, V::LoadS8(p + 64 + 16 * block));
    const typename V::F minimum = V::Mul(g.second, V::LoadS8(p + 192 + 16 * block));
    out.offset = V::Sub(V::Zero(), minimum);
  }
};
// d, 8 x s8 scale
template <class V>
struct Eight : HeaderConstants<8, 160> {
  static constexpr bool kCheap = true;  // one product
  using Group = typename V::F;
  MILLRACE_INLINE Group Open(const std::byte* p, const GroupForm&) { return LoadHalves<V>(p); }
  MILLRACE_INLINE void Read(const Group& d, const std::byte* p, int64_t block,
                            BlockScales<V>& out) {
    out.scale[0] = V::Mul(d, V::LoadS8(p + 32 + 16 * block));
  }
};
// d, 16 x s8 scale
template <class V>
struct Sixteen : HeaderConstants<8, 288> {
  static constexpr int kScales = 2;
  using Group = typename V::F;
  MILLRACE_INLINE Group Open(const std::byte* p, const GroupForm&) { return LoadHalves<V>(p); }
  MILLRACE_INLINE void Read(const Group& d, const std::byte* p, int64_t block,
                            BlockScales<V>& out) {
    out.scale[0] = V::Mul(d, V::LoadS8(p + 32 + 32 * block));
    out.scale[1] = V::Mul(d, V::LoadS8(p + 48 + 32 * block));
  }
};
template <class V>
inline typename V::F LoadScales(const std::byte* p, const GroupForm& form) {
  switch (form.scale) {
    case GroupForm::Scale::kF16:
      return LoadHalves<V>(p);
    case GroupForm::Scale::kBF16:
      return V::LoadBf16(reinterpret_cast<const uint16_t*>(p));
    default:
      return V::Load(reinterpret_cast<const float*>(p));
  }
}
template <class V>
struct AnyScale : HeaderConstants<0, 0> {
  using Group = typename V::F;
  MILLRACE_INLINE Group Open(const std::byte* p, const GroupForm& form) {
    return LoadScales<V>(p, form);
  }
  MILLRACE_INLINE void Read(const Group& scale, const std::byte*, int64_t, BlockScales<V>& out) {
    out.scale[0] = scale;
  }
};
// With zero points: u8 (at most 16) beside nibbles, fp16 beside bytes.
template <class V, bool kByteZeros>
struct AnyScaleZero : HeaderConstants<0, 0> {
  static constexpr Offset kOffset = Offset::kZero;
  using Group = TwoFields<V>;
  MILLRACE_INLINE Group Open(const std::byte* p, const GroupForm& form) {
    const std::byte* zero = p + (form.scale == GroupForm::Scale::kF32 ? 64 : 32);
    if constexpr (kByteZeros) return {LoadScales<V>(p, form), V::LoadS8(zero)};
    return {LoadScales<V>(p, form), LoadHalves<V>(zero)};
  }
  MILLRACE_INLINE void Read(const Group& g, const std::byte*, int64_t, BlockScales<V>& out) {
    out.scale[0] = g.d;
    out.offset = g.second;
  }
};

// A payload of groups: codes, header, and the constant of Offset::kConstant. Codes of 8 bits go
// with 128 whatever the offset: that is what DotQ8 takes off.
template <class CodesType, class HeaderType, int kConstantValue>
struct Coded {
  using Codes = CodesType;
  using Header = HeaderType;
  static constexpr int kConstant = kConstantValue;
  static constexpr bool kWide = Codes::kBits == 8;
  static constexpr bool kCheap = Codes::kCheap && Header::kCheap;  // to read anew for each tile
};

// Walks the blocks of 32 columns of a strip. What the payload fixes is known to the compiler.
template <class Format>
struct BlockCursor {
  using Header = typename Format::Header;
  const std::byte* header;
  int64_t block;  // in its group

  static int64_t GroupBlocks(const GemmRun& a) {
    return Header::kBlocks != 0 ? Header::kBlocks : a.group.blocks;
  }
  static int64_t HeaderBytes(const GemmRun& a) {
    return Header::kBytes != 0 ? Header::kBytes : static_cast<int64_t>(a.group.header);
  }
  static int64_t GroupBytes(const GemmRun& a) {
    return HeaderBytes(a) + GroupBlocks(a) * Format::Codes::kBytes;
  }
  BlockCursor(const GemmRun& a, int64_t strip, int64_t begin) {
    header = a.strips + static_cast<size_t>(strip) * a.strip_bytes +
             begin / GroupBlocks(a) * GroupBytes(a);
    block = begin % GroupBlocks(a);
  }
  const std::byte* codes(const GemmRun& a) const {
    return header + HeaderBytes(a) + block * Format::Codes::kBytes;
  }
  void Next(const GemmRun& a) {
    if (++block < GroupBlocks(a)) return;
    block = 0;
    header += GroupBytes(a);
  }
};

// Columns [begin, begin + count) of a strip in fp32, [count][16]. REQUIRES: whole blocks.
template <class V, class Format>
inline void Dequantize(const GemmRun& a, int64_t strip, int64_t begin, int64_t count, float* out) {
  using F = typename V::F;
  using I = typename V::I;
  using Header = typename Format::Header;
  const I mask = V::SetI(255);
  const F constant = V::Set(static_cast<float>(Format::kConstant));
  BlockCursor<Format> at(a, strip, begin / kBlock);
  for (int64_t k = 0; k < count; k += kBlock, out += kBlock * kStripRows, at.Next(a)) {
    const std::byte* codes = at.codes(a);
    V::Prefetch(codes + 2304);
    BlockScales<V> s;
    Header::Read(Header::Open(at.header, a.group), at.header, at.block, s);
    typename Format::Codes::State state;
    Unrolled<0, 8>([&](auto index) __attribute__((always_inline)) {
      constexpr int j = decltype(index)::kValue;
      const I line = Format::Codes::template Line<j>(codes, state);
      const F scale = s.scale[Header::kScales == 2 ? j / 4 : 0];
      auto put = [&](int i, I code) {
        const F q = V::ToFloat(V::And(code, mask));
        F value;
        if constexpr (Header::kOffset == Offset::kMinimum) {
          value = V::Fma(q, scale, s.offset);
        } else if constexpr (Header::kOffset == Offset::kZero) {
          value = V::Mul(V::Sub(q, s.offset), scale);
        } else {
          value = V::Mul(V::Sub(q, constant), scale);
        }
        V::Store(out + (4 * j + i) * kStripRows, value);
      };
      put(0, line);
      put(1, V::template ShiftRight<8>(line));
      put(2, V::template ShiftRight<16>(line));
      put(3, V::template ShiftRight<24>(line));
    });
  }
}

}  // namespace millrace::kernels::body
