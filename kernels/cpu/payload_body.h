// The payloads of payload.h, as a tier reads them: codes become lines of bytes, headers become
// scales. A kernel is made of one of each; see gemm_body.h for how this file is included.
#pragma once

#include "kernels/cpu/kernels.h"

namespace millrace::kernels::body {

// ---- Codes of 32 columns: put(j, line) for the lines j = 0 .. 7 of 4 columns each.

template <class V>
struct Nibbles {
  static constexpr int kBytes = 256;
  template <class Put>
  static inline __attribute__((always_inline)) void Run(const std::byte* p, Put put) {
    const typename V::I mask = V::SetI(0x0f0f0f0f);
    MILLRACE_UNROLL
    for (int i = 0; i < 4; ++i) {
      const typename V::I v = V::LoadI(p + 64 * i);
      put(2 * i, V::And(v, mask));
      put(2 * i + 1, V::And(V::template ShiftRight<4>(v), mask));
    }
  }
};

// 5 bits: nibbles, and a line whose byte holds the fifth bits of the eight lines.
template <class V>
struct NibblesBits {
  static constexpr int kBytes = 320;
  template <class Put>
  static inline __attribute__((always_inline)) void Run(const std::byte* p, Put put) {
    using I = typename V::I;
    const I one = V::SetI(0x01010101);
    I bits = V::LoadI(p + 256);
    Nibbles<V>::Run(p, [&](int j, I low) {
      put(j, V::Or(low, V::template ShiftLeft<4>(V::And(bits, one))));
      bits = V::template ShiftRight<1>(bits);
    });
  }
};

// 6 bits: nibbles, and two lines of pairs of upper bits.
template <class V>
struct NibblesPairs {
  static constexpr int kBytes = 384;
  template <class Put>
  static inline __attribute__((always_inline)) void Run(const std::byte* p, Put put) {
    using I = typename V::I;
    const I three = V::SetI(0x03030303);
    I pairs = V::ZeroI();
    Nibbles<V>::Run(p, [&](int j, I low) {
      pairs = j % 4 == 0 ? V::LoadI(p + 256 + 16 * j) : V::template ShiftRight<2>(pairs);
      put(j, V::Or(low, V::template ShiftLeft<4>(V::And(pairs, three))));
    });
  }
};

// 3 bits: two lines of pairs, and one of third bits.
template <class V>
struct PairsBits {
  static constexpr int kBytes = 192;
  template <class Put>
  static inline __attribute__((always_inline)) void Run(const std::byte* p, Put put) {
    using I = typename V::I;
    const I one = V::SetI(0x01010101), three = V::SetI(0x03030303);
    I bits = V::LoadI(p + 128), pairs = V::ZeroI();
    MILLRACE_UNROLL
    for (int j = 0; j < 8; ++j) {
      pairs = j % 4 == 0 ? V::LoadI(p + 16 * j) : V::template ShiftRight<2>(pairs);
      put(j, V::Or(V::And(pairs, three), V::template ShiftLeft<2>(V::And(bits, one))));
      bits = V::template ShiftRight<1>(bits);
    }
  }
};

// 8 bits: signed codes + 128.
template <class V>
struct CodeBytes {
  static constexpr int kBytes = 512;
  template <class Put>
  static inline __attribute__((always_inline)) void Run(const std::byte* p, Put put) {
    MILLRACE_UNROLL
    for (int j = 0; j < 8; ++j) put(j, V::LoadI(p + 64 * j));
  }
};

// Nibbles that number the values of IQ4_NL and IQ4_XS, here + 128 (ggml's kvalues_iq4nl).
template <class V>
struct TableNibbles {
  static constexpr int kBytes = 256;
  template <class Put>
  static inline __attribute__((always_inline)) void Run(const std::byte* p, Put put) {
    static constexpr uint8_t kTable[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                           129, 141, 153, 166, 181, 197, 217, 241};
    Nibbles<V>::Run(p, [&](int j, typename V::I v) { put(j, V::Lookup16(v, kTable)); });
  }
};

// ---- Headers: Read gives the scales of block `block` of a group, and an offset.

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

struct HeaderConstants {
  static constexpr int kScales = 1;  // of the 32 columns
  static constexpr Offset kOffset = Offset::kConstant;
};

// d
template <class V>
struct One : HeaderConstants {
  static inline void Read(const std::byte* p, int64_t, const GroupForm&, BlockScales<V>& out) {
    out.scale[0] = LoadHalves<V>(p);
  }
};
// d, m
template <class V>
struct OneMinimum : HeaderConstants {
  static constexpr Offset kOffset = Offset::kMinimum;
  static inline void Read(const std::byte* p, int64_t, const GroupForm&, BlockScales<V>& out) {
    out.scale[0] = LoadHalves<V>(p);
    out.offset = LoadHalves<V>(p + 32);
  }
};
// d, dmin, 8 x u8 scale, 8 x u8 minimum (6 bits each). The products are exact.
template <class V>
struct EightMinimums : HeaderConstants {
  static constexpr Offset kOffset = Offset::kMinimum;
  static inline void Read(const std::byte* p, int64_t block, const GroupForm&,
                          BlockScales<V>& out) {
    out.scale[0] = V::Mul(LoadHalves<V>(p), V::LoadS8(p + 64 + 16 * block));
    const typename V::F minimum = V::Mul(LoadHalves<V>(p + 32), V::LoadS8(p + 192 + 16 * block));
    out.offset = V::Sub(V::Zero(), minimum);
  }
};
// d, 8 x s8 scale
template <class V>
struct Eight : HeaderConstants {
  static inline void Read(const std::byte* p, int64_t block, const GroupForm&,
                          BlockScales<V>& out) {
    out.scale[0] = V::Mul(LoadHalves<V>(p), V::LoadS8(p + 32 + 16 * block));
  }
};
// d, 16 x s8 scale
template <class V>
struct Sixteen : HeaderConstants {
  static constexpr int kScales = 2;
  static inline void Read(const std::byte* p, int64_t block, const GroupForm&,
                          BlockScales<V>& out) {
    const typename V::F d = LoadHalves<V>(p);
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
struct AnyScale : HeaderConstants {
  static inline void Read(const std::byte* p, int64_t, const GroupForm& form, BlockScales<V>& out) {
    out.scale[0] = LoadScales<V>(p, form);
  }
};
// With zero points: u8 (at most 16) beside nibbles, fp16 beside bytes.
template <class V, bool kByteZeros>
struct AnyScaleZero : HeaderConstants {
  static constexpr Offset kOffset = Offset::kZero;
  static inline void Read(const std::byte* p, int64_t, const GroupForm& form, BlockScales<V>& out) {
    out.scale[0] = LoadScales<V>(p, form);
    const std::byte* zero = p + (form.scale == GroupForm::Scale::kF32 ? 64 : 32);
    if constexpr (kByteZeros) {
      out.offset = V::LoadS8(zero);
    } else {
      out.offset = LoadHalves<V>(zero);
    }
  }
};

// A payload of groups: codes, header, and the constant of Offset::kConstant. Codes of 8 bits go
// with 128 whatever the offset: that is what DotQ8 takes off.
template <class CodesType, class HeaderType, int kConstantValue>
struct Coded {
  using Codes = CodesType;
  using Header = HeaderType;
  static constexpr int kConstant = kConstantValue;
  static constexpr bool kWide = kConstantValue == 128;
};

// Walks the blocks of 32 columns of a strip.
template <class Format>
struct BlockCursor {
  const std::byte* header;
  int64_t block;  // in its group

  BlockCursor(const GemmRun& a, int64_t strip, int64_t begin) {
    header = a.strips + static_cast<size_t>(strip) * a.strip_bytes +
             begin / a.group.blocks * static_cast<int64_t>(a.group.bytes);
    block = begin % a.group.blocks;
  }
  const std::byte* codes(const GemmRun& a) const {
    return header + static_cast<int64_t>(a.group.header) + block * Format::Codes::kBytes;
  }
  void Next(const GemmRun& a) {
    if (++block < a.group.blocks) return;
    block = 0;
    header += a.group.bytes;
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
    Header::Read(at.header, at.block, a.group, s);
    Format::Codes::Run(codes, [&](int j, I line) {
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
