#pragma once
// One packed container for every weight format, and the formats as they lie in files.
//
// A matrix is [rows, cols] = [out_features, in_features] = [N, K]; y = x W^T. A GGUF row is a run
// of blocks that hold their own scales (ggml's block structs; weights_file.cc has each formula).
// The grouped types (GPTQ, AWQ, compressed-tensors) keep codes, scales and zero points in tensors
// apart: RawGroups. Their values are (code - zero) * scale, rounded once.
//
// Packed, 16 rows stand side by side ("strip"), so that one 512-bit register holds 4 consecutive
// columns of 16 rows: the order of vpdpbusd and of AMX tiles, read as half lines by AVX2. For Q8_0:
//
//   byte   0 1 2 3 | 4 5 6 7 | ... | 60 61 62 63      64 bytes = columns k .. k + 3
//          row 0   | row 1   | ... | row 15           16 scales, then 8 such lines, then 16 scales
//
// With nibbles a line holds columns k .. k + 3 in the low halves and k + 4 .. k + 7 in the high
// ones. payload.h has all layouts.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/stream.h"

namespace millrace::kernels {

enum class WeightType : uint8_t {
  // plain
  kF32,
  kF16,
  kBF16,
  // blocks of 32
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kIQ4_NL,
  // blocks of 256
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_XS,
  // grouped
  kGptq4,
  kGptq8,
  kAwq4,
  kPacked4,
  kPacked8,
  kInt8Channel,
};
const char* WeightTypeName(WeightType type);
// True for the types whose RawMatrix has `groups`.
bool IsGrouped(WeightType type);
// Values in a block and bytes of a block: 1 and the element size for the plain types. The grouped
// types have no blocks of their own: 1 and 0.
int BlockValues(WeightType type);
int BlockBytes(WeightType type);

// The side tensors of a grouped type, all in the file's layout. N and K are those of the file's
// tensors: with p = 32 / bits codes a word, the low ones first (AWQ: nibble i of a word is column
// 0 2 4 6 1 3 5 7 of its eight),
//   type          data (codes)            zeros                 scales
//   kGptq4 8      int32 [K / p, N]        int32 [G, N / p]      [G, N]
//   kAwq4         int32 [K, N / 8]        int32 [G, N / 8]      [G, N]
//   kPacked4 8    int32 [N, K / p]        int32 [N / p, G]      [N, G]
//   kInt8Channel  int8  [N, K]            -                     [N]
// where G = ceil(K / group_size), and K / p and N / p round up.
// Every size is checked by CheckRaw. Does not own.
struct RawGroups {
  const void* scales = nullptr;
  size_t scale_bytes = 0;
  WeightType scale_type = WeightType::kF16;  // or kBF16, kF32
  // None: the zero point is 2^(bits - 1). So it is with `symmetric`, where zeros may be given but
  // must all be that number (or one less, as GPTQ v1 writes it, even if the file says v2).
  const void* zeros = nullptr;
  size_t zero_bytes = 0;
  bool symmetric = false;
  int zero_offset = 0;  // added to every stored zero, unmasked: 1 in GPTQ v1
  // Group of each column (act-order); none: column / group_size. In [0, G).
  const void* g_idx = nullptr;  // int32 [K], any alignment
  size_t g_idx_bytes = 0;
  int64_t group_size = -1;  // of consecutive columns; -1: one group
  // When the matrix is rows [first_row, first_row + rows) of fused tensors of file_rows rows; 0:
  // it is all of them. `data`, `bytes` and the views here are the whole tensors'.
  int64_t first_row = 0;
  int64_t file_rows = 0;
};

// A view of a matrix as it lies in the file. Does not own.
struct RawMatrix {
  WeightType type = WeightType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;  // a multiple of BlockValues(type)
  const void* data = nullptr;
  size_t bytes = 0;
  const RawGroups* groups = nullptr;  // of a grouped type; lives as long as the view is used
};

// InvalidArgument when shape, sizes or indices disagree: what every reader asks before it hands a
// matrix on, and what all functions below REQUIRE, except Pack, which asks itself.
absl::Status CheckRaw(const RawMatrix& raw);

// The form kernels compute on. Owns its bytes unless it is a View. Lossless: Unpack gives back the
// very values that the file's format defines. Thread: immutable; any number of readers.
class PackedMatrix {
 public:
  PackedMatrix();
  ~PackedMatrix();
  PackedMatrix(PackedMatrix&&) noexcept;
  PackedMatrix& operator=(PackedMatrix&&) noexcept;

  // InvalidArgument when the shape and the bytes disagree. `raw` may go afterwards.
  static absl::StatusOr<PackedMatrix> Pack(const RawMatrix& raw, Stream& stream);
  // A plain matrix of whole groups of 32 made Q8_0 on the way: for output heads that a quantized
  // checkpoint leaves 16 bits wide. Each value moves by at most 1 / 254 of its group's largest,
  // and a little for the scale's rounding.
  static absl::StatusOr<PackedMatrix> PackInt8(const RawMatrix& raw, Stream& stream);
  // Strips that Pack once made of `raw` and that outlive the matrix. InvalidArgument unless they
  // are Describe(raw).bytes(), 64-byte aligned. No value in them can lead a kernel astray.
  static absl::StatusOr<PackedMatrix> View(const RawMatrix& raw, std::span<const std::byte> strips);
  // Bytes of the strips that Pack will make.
  static size_t PackedBytes(const RawMatrix& raw);
  static size_t PackedBytes(WeightType type, int64_t rows, int64_t cols);  // one not grouped
  // What Pack would make, but for the bytes: has a shape, a layout and bytes(), and no values.
  // REQUIRES: a checked matrix; one that is not grouped needs no data.
  static PackedMatrix Describe(const RawMatrix& raw);

  WeightType type() const;
  int64_t rows() const;
  int64_t cols() const;
  size_t bytes() const;
  std::span<const std::byte> strips() const;  // for View; empty of what was only described
  // Dequantizes row `row` into out[cols].
  void UnpackRow(int64_t row, float* out) const;

  struct Payload;
  const Payload& payload() const { return *payload_; }

 private:
  std::unique_ptr<Payload> payload_;
};

// Dequantizes one row straight from the file's layout: the reference that Pack is tested against.
void DequantizeRawRow(const RawMatrix& raw, int64_t row, float* out);

}  // namespace millrace::kernels
