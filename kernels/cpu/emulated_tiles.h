// What the tile instructions are documented to do (see tiled.h for the source), in plain code, and
// with AVX-512 VNNI where the including file has it. Stricter than the CPU nowhere, laxer nowhere:
// what raises a fault there stops the process here.
#pragma once

#include "kernels/cpu/tiled.h"

#ifdef __AVX512VNNI__
#include <immintrin.h>
#endif

namespace millrace::kernels {
namespace {  // each including file has instructions of its own

// Thread: one.
class EmulatedTiles {
 public:
  void Configure(const TileConfig& config) {
    bool valid = config.palette == 1 && config.start_row == 0;
    for (const uint8_t byte : config.reserved) valid &= byte == 0;
    for (int t = 0; t < 16; ++t) {
      valid &= config.row_bytes[t] <= 64 && config.rows[t] <= 16;
      valid &= (config.row_bytes[t] == 0) == (config.rows[t] == 0);
      valid &= t < 8 || config.rows[t] == 0;
    }
    Need(valid);
    config_ = config;
    __builtin_memset(tiles_, 0, sizeof tiles_);
  }
  void Release() { config_.palette = 0; }

  template <int kTile>
  void Zero() {
    Use(kTile);
    __builtin_memset(tiles_[kTile], 0, kTileBytes);
  }
  template <int kTile>
  void Load(const void* from, int64_t stride) {
    Zero<kTile>();
    for (int row = 0; row < config_.rows[kTile]; ++row) {
      __builtin_memcpy(tiles_[kTile][row], static_cast<const std::byte*>(from) + row * stride,
                       config_.row_bytes[kTile]);
    }
  }
  template <int kTile>
  void Store(void* to, int64_t stride) {
    Use(kTile);
    for (int row = 0; row < config_.rows[kTile]; ++row) {
      __builtin_memcpy(static_cast<std::byte*>(to) + row * stride, tiles_[kTile][row],
                       config_.row_bytes[kTile]);
    }
  }

  // TDPBSSD: c[m][n] += sum over k and 4 bytes of a[m][k] * b[k][n], modulo 2^32.
  template <int kC, int kA, int kB>
  void DotBytes() {
    const int quads = UseProduct(kC, kA, kB);
    for (int m = 0; m < config_.rows[kC]; ++m) DotRow(quads, tiles_[kA][m], kB, tiles_[kC][m]);
  }

  // TDPBF16PS: even and odd products have a sum each, in k's order, which are added to one another
  // and then to c. Round to nearest even; denormal operands and results count as zero.
  template <int kC, int kA, int kB>
  void DotBf16() {
    const int pairs = UseProduct(kC, kA, kB);
    float b[2][16][16];  // [even, odd][k][n]
    for (int k = 0; k < pairs; ++k) {
      for (int n = 0; n < 16; ++n) {
        const uint32_t pair = Word(tiles_[kB][k] + 4 * n);
        b[0][k][n] = Low(pair), b[1][k][n] = High(pair);
      }
    }
    for (int m = 0; m < config_.rows[kC]; ++m) PairsRow(pairs, tiles_[kA][m], b, tiles_[kC][m]);
  }

 private:
  static void Need(bool condition) {
    if (!condition) __builtin_trap();
  }
  void Use(int tile) const { Need(config_.palette == 1 && config_.rows[tile] != 0); }
  // The rows of b.
  int UseProduct(int c, int a, int b) const {
    Use(c), Use(a), Use(b);
    Need(c != a && a != b && b != c);
    Need(config_.row_bytes[c] == config_.row_bytes[b] && config_.rows[c] == config_.rows[a]);
    Need(config_.row_bytes[a] == 4 * config_.rows[b] && config_.row_bytes[c] % 4 == 0);
    return config_.rows[b];
  }
  static uint32_t Word(const std::byte* p) {
    uint32_t word;
    __builtin_memcpy(&word, p, 4);
    return word;
  }
  static float Low(uint32_t pair) { return Flush(__builtin_bit_cast(float, pair << 16)); }
  static float High(uint32_t pair) { return Flush(__builtin_bit_cast(float, pair & 0xffff0000u)); }
  static float Flush(float x) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x);
    const bool denormal = (bits & 0x7f800000u) == 0;
    return __builtin_bit_cast(float, denormal ? bits & 0x80000000u : bits);
  }

#ifdef __AVX512VNNI__
  // vpdpbusd wants one operand without sign: b + 128, whose share of the sum is taken off again.
  void DotRow(int quads, const std::byte* a, int b_tile, std::byte* c) {
    const __m512i bias = _mm512_set1_epi32(static_cast<int>(0x80808080u));
    __m512i sum = _mm512_loadu_si512(c), off = _mm512_setzero_si512();
    for (int k = 0; k < quads; ++k) {
      const __m512i x = _mm512_set1_epi32(static_cast<int>(Word(a + 4 * k)));
      const __m512i w = _mm512_xor_si512(_mm512_loadu_si512(tiles_[b_tile][k]), bias);
      sum = _mm512_dpbusd_epi32(sum, w, x);
      off = _mm512_dpbusd_epi32(off, bias, x);
    }
    _mm512_storeu_si512(c, _mm512_sub_epi32(sum, off));
  }

  static __m512 Flush(__m512 x) {
    const __m512i bits = _mm512_castps_si512(x), sign = _mm512_set1_epi32(INT32_MIN);
    const __mmask16 denormal = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7f800000));
    return _mm512_castsi512_ps(_mm512_mask_and_epi32(bits, denormal, bits, sign));
  }
  static void PairsRow(int pairs, const std::byte* a, const float (&b)[2][16][16], std::byte* c) {
    __m512 even = _mm512_setzero_ps(), odd = even;
    for (int k = 0; k < pairs; ++k) {
      const uint32_t pair = Word(a + 4 * k);
      even = Flush(_mm512_fmadd_ps(_mm512_set1_ps(Low(pair)), _mm512_loadu_ps(b[0][k]), even));
      odd = Flush(_mm512_fmadd_ps(_mm512_set1_ps(High(pair)), _mm512_loadu_ps(b[1][k]), odd));
    }
    const __m512 sum = Flush(_mm512_add_ps(even, odd));
    _mm512_storeu_ps(c, Flush(_mm512_add_ps(Flush(_mm512_loadu_ps(c)), sum)));
  }
#else
  static void PairsRow(int pairs, const std::byte* a, const float (&b)[2][16][16], std::byte* c) {
    for (int n = 0; n < 16; ++n) {
      float even = 0, odd = 0, sum;
      for (int k = 0; k < pairs; ++k) {
        const uint32_t pair = Word(a + 4 * k);
        even = Flush(__builtin_fmaf(Low(pair), b[0][k][n], even));
        odd = Flush(__builtin_fmaf(High(pair), b[1][k][n], odd));
      }
      __builtin_memcpy(&sum, c + 4 * n, 4);
      sum = Flush(Flush(sum) + Flush(even + odd));
      __builtin_memcpy(c + 4 * n, &sum, 4);
    }
  }
  void DotRow(int quads, const std::byte* a, int b_tile, std::byte* c) {
    for (int n = 0; n < 16; ++n) {
      uint32_t sum = Word(c + 4 * n);
      for (int i = 0; i < 4 * quads; ++i) {
        const auto x = static_cast<int8_t>(a[i]);
        const auto w = static_cast<int8_t>(tiles_[b_tile][i / 4][4 * n + i % 4]);
        sum += static_cast<uint32_t>(x * w);
      }
      __builtin_memcpy(c + 4 * n, &sum, 4);
    }
  }
#endif

  TileConfig config_ = {.palette = 0};
  std::byte tiles_[8][kTileRows][kTileRowBytes];
};

}  // namespace
}  // namespace millrace::kernels
