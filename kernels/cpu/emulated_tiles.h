// What the tile instructions are documented to do (see tiled.h for the source). Stricter than the
// CPU nowhere, laxer nowhere: what raises a fault there stops the process here.
#pragma once

#include "kernels/cpu/emulated_rows.h"
#include "kernels/cpu/tiled.h"

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
  void LoadOnce(const void* from, int64_t stride) {
    Load<kTile>(from, stride);
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
    for (int m = 0; m < config_.rows[kC]; ++m)
      DotRow(quads, tiles_[kA][m], tiles_[kB], tiles_[kC][m]);
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

  TileConfig config_ = {.palette = 0};
  std::byte tiles_[8][kTileRows][kTileRowBytes];
};

}  // namespace
}  // namespace millrace::kernels
