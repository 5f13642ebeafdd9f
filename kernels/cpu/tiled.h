#pragma once
// Products on tiles (AMX), for many tokens at once.
//
//   tokens    [pieces of 16][columns / 32][16 tokens][16 pairs of columns]    the A operands
//   weights   [2 strips][columns / 32][16 pairs of columns][16 rows][pair], the B operands:
//             made from the strips for 256 or 512 columns at a time, which stay in the first-level
//             cache while all tokens pass
//   pairs     of bf16: columns j and 16 + j of 32, which vectors of 16 columns make at once
//   sums      [pieces][2 strips][16 tokens][16 rows]    fp32, through the tiles and back
//
// Both operands are rounded to bf16 and nothing is scaled, so a product is tile instructions from
// end to end. W8A8 is bytes already: there a tile has 64 columns, quads instead of pairs, and the
// scales of rows and tokens follow at the end. (Other formats in bytes would need a scale for 64
// columns or more of activations, and lose many times what bf16 does: docs/performance.md.)
//
// The kernel (tiled_body.h) is written over a few tile operations, of which there are two kinds:
// the instructions (gemm_amx.cc), and an emulation of what they are documented to do
// (emulated_tiles.h), for the tests and for the self-test that precedes the first use.

#include "kernels/cpu/kernels.h"

namespace millrace::kernels {

// The operand of LDTILECFG: Intel 64 and IA-32 Architectures Software Developer's Manual, vol. 1,
// chapter "Programming with Intel AMX", and the instruction's own page in vol. 2.
struct TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};  // of tiles 0 .. 7; 8 .. 15 reserved
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};        // the same
};
static_assert(sizeof(TileConfig) == 64);

inline constexpr int64_t kTileRows = 16, kTileRowBytes = 64, kTileBytes = 1024;
// Columns of weights that are made at a time, at most: for few tokens, whose sums can stay in the
// first-level cache beside the weights, and for many, whose cannot.
inline constexpr int64_t kTiledColumnsOfFew = 256, kTiledColumns = 512;
inline constexpr int64_t kTiledFewTokens = 128;

static constexpr int64_t TileColumns(bool bytes) {
  return bytes ? kTileRowBytes : kTileRowBytes / 2;
}
static constexpr int64_t TileDepth(bool bytes, int64_t cols) {
  return (cols + TileColumns(bytes) - 1) / TileColumns(bytes);
}
// Two chunks of tiles of two strips, and two such of sums.
static constexpr int64_t TiledScratchFloats(int64_t tokens) {
  return 2 * (kTiledColumns + 2 * RoundUp16(tokens)) * kStripRows;
}

// Activations as tiles: each 16 tokens are a piece of their own, the last filled up with zeros.
struct TiledRows {
  bool bytes = false;                // signed bytes and a scale for each token; else bf16
  const std::byte* tiles = nullptr;  // [pieces][tiles of all columns][16 tokens][64 bytes]
  const float* scale = nullptr;      // [pieces][16 tokens]; of bytes
  int64_t begin = 0, end = 0;        // the columns at hand; whole tiles but for the last
};
// One token's row of a piece.
struct TileRow {
  const float* x = nullptr;  // [cols]; null: a row of zeros
  int64_t cols = 0;
  bool bytes = false;
  int row = 0;
  std::byte* tiles = nullptr;  // of the piece
  float* scale = nullptr;      // of the piece; of bytes
};
struct TiledKernels {
  GemmFunction gemm = nullptr;
  void (*make_row)(const TileRow& row) = nullptr;
  AttentionFunction attend_bf16 = nullptr;  // attention_tiled_body.h
  AttentionFunction attend_int8 = nullptr;
};
namespace amx {
extern const TiledKernels kTiled;  // the instructions
}
namespace amx_emulated {
extern const TiledKernels kTiled;  // for CPUs with AVX-512 VNNI
}
namespace amx_plain {
extern const TiledKernels kTiled;  // for any
}

}  // namespace millrace::kernels
