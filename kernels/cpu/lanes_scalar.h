#pragma once
// Sixteen lanes in plain C++: what the vector tiers must equal bit for bit. Also the tier of
// machines without AVX2.

#include <cmath>
#include <cstdint>
#include <cstring>

#define MILLRACE_UNROLL
#define MILLRACE_INLINE static inline __attribute__((always_inline))

namespace millrace::kernels::scalar {

struct Lanes {
  struct F {
    float v[16];
  };
  struct I {
    int32_t v[16];
  };
  // Register tiles: strips x tokens of the products, query rows x value vectors of attention.
  static constexpr int kExactStrips = 1, kExactTokens = 1;
  static constexpr int kFastStrips = 1, kFastTokens = 1;
  static constexpr int kPanelFrom = 0;  // no panel
  static constexpr int kQueryRows = 1, kValueVectors = 1, kValueSums = 1;
  static constexpr bool kDotsArePairs = false;
  static constexpr bool kBiasedQ8 = false;  // DotQ8 takes weights as they are, without +128

  static F Set(float x) {
    F r;
    for (float& lane : r.v) lane = x;
    return r;
  }
  static F Zero() { return Set(0.0f); }
  static F Load(const float* p) {
    F r;
    memcpy(r.v, p, sizeof r.v);
    return r;
  }
  static void Store(float* p, F a) { memcpy(p, a.v, sizeof a.v); }
  static F LoadBf16(const uint16_t* p) {
    F r;
    for (int i = 0; i < 16; ++i) {
      const uint32_t bits = static_cast<uint32_t>(p[i]) << 16;
      memcpy(&r.v[i], &bits, 4);
    }
    return r;
  }
  // To the nearest bf16, ties to even, as fp32.
  static F RoundBf16(F a) {
    for (float& lane : a.v) {
      uint32_t bits;
      memcpy(&bits, &lane, 4);
      bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
      if (lane == lane) memcpy(&lane, &bits, 4);
    }
    return a;
  }
  static F LoadF16(const uint16_t* p) {
    F r;
    for (int i = 0; i < 16; ++i) r.v[i] = HalfToFloat(p[i]);
    return r;
  }
  static F Add(F a, F b) {
    for (int i = 0; i < 16; ++i) a.v[i] += b.v[i];
    return a;
  }
  static F Sub(F a, F b) {
    for (int i = 0; i < 16; ++i) a.v[i] -= b.v[i];
    return a;
  }
  static F Mul(F a, F b) {
    for (int i = 0; i < 16; ++i) a.v[i] *= b.v[i];
    return a;
  }
  static F Div(F a, F b) {
    for (int i = 0; i < 16; ++i) a.v[i] /= b.v[i];
    return a;
  }
  static F Fma(F a, F b, F c) {  // a * b + c, rounded once
    for (int i = 0; i < 16; ++i) c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
    return c;
  }
  // The second operand where either is NaN, as MAXPS and MINPS do.
  static F Max(F a, F b) {
    for (int i = 0; i < 16; ++i) b.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return b;
  }
  static F Min(F a, F b) {
    for (int i = 0; i < 16; ++i) b.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
    return b;
  }
  static F RoundEven(F a) {
    for (float& lane : a.v) lane = __builtin_rintf(lane);
    return a;
  }
  // x 2^n for whole n in -252 .. 254, rounded once where |x| is in [0.5, 2): in two steps, the
  // first of which is exact.
  static F Scale(F x, F n) {
    const F half = RoundEven(Mul(n, Set(0.5f)));
    return Mul(Mul(x, PowerOfTwo(half)), PowerOfTwo(Sub(n, half)));
  }
  // Lanes outside [begin, end) become `fill`.
  static F Keep(F a, int begin, int end, float fill) {
    for (int i = 0; i < 16; ++i) {
      if (i < begin || i >= end) a.v[i] = fill;
    }
    return a;
  }
  // The fixed tree: lanes 8 apart, then 4, 2, 1.
  static float ReduceAdd(F a) {
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
    }
    return a.v[0];
  }
  static float ReduceMax(F a) {
    float m = a.v[0];
    for (float lane : a.v) m = lane > m ? lane : m;
    return m;
  }

  static I ZeroI() { return SetI(0); }
  static I SetI(int32_t x) {
    I r;
    for (int32_t& lane : r.v) lane = x;
    return r;
  }
  static I LoadI(const void* p) {
    I r;
    memcpy(r.v, p, sizeof r.v);
    return r;
  }
  template <int kShift>
  static I ShiftRight(I a) {
    for (int32_t& lane : a.v) lane = static_cast<int32_t>(static_cast<uint32_t>(lane) >> kShift);
    return a;
  }
  template <int kShift>
  static I ShiftLeft(I a) {
    for (int32_t& lane : a.v) lane = static_cast<int32_t>(static_cast<uint32_t>(lane) << kShift);
    return a;
  }
  static void StoreI(void* p, I a) { memcpy(p, a.v, sizeof a.v); }
  // Sixteen signed bytes as numbers.
  static F LoadS8(const void* p) {
    int8_t bytes[16];
    memcpy(bytes, p, 16);
    F r;
    for (int i = 0; i < 16; ++i) r.v[i] = static_cast<float>(bytes[i]);
    return r;
  }
  // 32 bytes from each.
  static I LoadHalves(const void* low, const void* high) {
    I r;
    memcpy(r.v, low, sizeof r.v / 2);
    memcpy(r.v + 8, high, sizeof r.v / 2);
    return r;
  }
  // even[0], odd[0], even[1] ...
  static void StoreInTurn(float* p, F even, F odd) {
    for (int i = 0; i < 16; ++i) p[2 * i] = even.v[i], p[2 * i + 1] = odd.v[i];
  }
  static I Or(I a, I b) {
    for (int i = 0; i < 16; ++i) a.v[i] |= b.v[i];
    return a;
  }
  // Each byte (below 16) replaced by that byte of the table.
  static I Lookup16(I index, const void* table) {
    uint8_t bytes[64], entries[16];
    memcpy(bytes, index.v, sizeof bytes);
    memcpy(entries, table, sizeof entries);
    for (uint8_t& b : bytes) b = entries[b & 15];
    return LoadI(bytes);
  }
  static I And(I a, I b) {
    for (int i = 0; i < 16; ++i) a.v[i] &= b.v[i];
    return a;
  }
  // x | (y & mask)
  static I OrBits(I x, I y, I mask) { return Or(x, And(y, mask)); }
  static I AddI(I a, I b) {
    for (int i = 0; i < 16; ++i) a.v[i] += b.v[i];
    return a;
  }
  static I MaxI(I a, I b) {
    for (int i = 0; i < 16; ++i) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
  }
  static I Bits(F a) {
    I r;
    memcpy(r.v, a.v, sizeof r.v);
    return r;
  }
  static F FromBits(I a) {
    F r;
    memcpy(r.v, a.v, sizeof r.v);
    return r;
  }
  static int32_t ReduceMaxI(I a) {
    int32_t m = a.v[0];
    for (int32_t lane : a.v) m = lane > m ? lane : m;
    return m;
  }
  static int32_t ReduceAddI(I a) {
    uint32_t sum = 0;
    for (int32_t lane : a.v) sum += static_cast<uint32_t>(lane);
    return static_cast<int32_t>(sum);
  }
  static F ToFloat(I a) {
    F r;
    for (int i = 0; i < 16; ++i) r.v[i] = static_cast<float>(a.v[i]);
    return r;
  }
  // Rounds to nearest even; what does not fit (NaN) becomes INT_MIN, as CVTPS2DQ does.
  static I ToInt(F a) {
    I r;
    for (int i = 0; i < 16; ++i) {
      const float x = __builtin_rintf(a.v[i]);
      r.v[i] = x >= -2147483648.0f && x < 2147483648.0f ? static_cast<int32_t>(x) : INT32_MIN;
    }
    return r;
  }
  // Stores 16 bytes, saturated.
  static void StoreBytes(int8_t* p, I a) {
    for (int i = 0; i < 16; ++i) {
      p[i] = static_cast<int8_t>(a.v[i] > 127 ? 127 : a.v[i] < -128 ? -128 : a.v[i]);
    }
  }
  // Four activations for every lane.
  static I Broadcast4(const int8_t* p) {
    int32_t x;
    memcpy(&x, p, 4);
    return SetI(x);
  }
  // c + dot of four unsigned bytes (at most 15) and four signed ones in each lane.
  static I DotQ4(I c, I w, I x) {
    for (int i = 0; i < 16; ++i) {
      for (int b = 0; b < 32; b += 8) {
        c.v[i] += ((w.v[i] >> b) & 0xff) * static_cast<int8_t>((x.v[i] >> b) & 0xff);
      }
    }
    return c;
  }
  // The same where `w` holds signed bytes + 128; here the 128 is taken off again.
  static I DotQ8(I c, I w, I x) {
    for (int i = 0; i < 16; ++i) {
      for (int b = 0; b < 32; b += 8) {
        c.v[i] += (((w.v[i] >> b) & 0xff) - 128) * static_cast<int8_t>((x.v[i] >> b) & 0xff);
      }
    }
    return c;
  }
  static void Prefetch(const void*) {}

 private:
  // 2^n for whole n in -126 .. 127.
  static F PowerOfTwo(F n) {
    for (float& lane : n.v) {
      const int32_t bits = (lane == lane ? static_cast<int32_t>(lane) + 127 : 0) * (1 << 23);
      memcpy(&lane, &bits, 4);
    }
    return n;
  }
  // IEEE 754 binary16. Subnormals are value * 2^-24.
  static float HalfToFloat(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;
    if (exponent == 0) {
      const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
      return sign ? -magnitude : magnitude;
    }
    const uint32_t wide = exponent == 31 ? 255 : exponent + 112;
    // A NaN comes out quiet, as from VCVTPH2PS.
    const uint32_t quiet = exponent == 31 && mantissa ? 0x400000u : 0;
    const uint32_t bits = sign | (wide << 23) | (mantissa << 13) | quiet;
    float out;
    memcpy(&out, &bits, 4);
    return out;
  }
};

}  // namespace millrace::kernels::scalar
