#pragma once
// One packed container for every weight format, and the formats as they lie in files.
//
// A matrix is [rows, cols] = [out_features, in_features]; y = x W^T. In files each row is a run of
// blocks of 32 values (GGUF): Q4_0 {fp16 d, 16 B nibbles}: (q-8)d; Q4_1 {fp16 d, fp16 m, 16 B}:
// qd+m; Q8_0 {fp16 d, 32 x s8}: qd. Element i < 16 of a nibble block is the low half of byte i,
// else the high half of byte i-16.
//
// Packed, 16 rows stand side by side ("strip"), so that one 512-bit register holds 4 consecutive
// columns of 16 rows: the order of vpdpbusd and of AMX tiles, read as half lines by AVX2. For Q8_0:
//
//   byte   0 1 2 3 | 4 5 6 7 | ... | 60 61 62 63      64 bytes = columns k .. k + 3
//          row 0   | row 1   | ... | row 15           8 such lines, then 16 scales, then column k +
//          32
//
// With nibbles a line holds columns k .. k + 3 in the low halves and k + 4 .. k + 7 in the high
// ones.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/stream.h"

namespace millrace::kernels {

enum class WeightType : uint8_t { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1 };
const char* WeightTypeName(WeightType type);
// Values in a block and bytes of a block: 1 and the element size for the plain types.
int BlockValues(WeightType type);
int BlockBytes(WeightType type);

// A view of a matrix as it lies in the file. Does not own.
struct RawMatrix {
  WeightType type = WeightType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;  // a multiple of BlockValues(type)
  const void* data = nullptr;
  size_t bytes = 0;
};

// The form kernels compute on. Immutable, owns its bytes. Lossless: Unpack gives back the very
// values that the file's format defines.
// Thread: immutable; any number of readers.
class PackedMatrix {
 public:
  PackedMatrix();
  ~PackedMatrix();
  PackedMatrix(PackedMatrix&&) noexcept;
  PackedMatrix& operator=(PackedMatrix&&) noexcept;

  // InvalidArgument when the shape and the bytes disagree. `raw` may go afterwards.
  static absl::StatusOr<PackedMatrix> Pack(const RawMatrix& raw, Stream& stream);
  // Bytes that Pack will use, for the memory plan.
  static size_t PackedBytes(WeightType type, int64_t rows, int64_t cols);

  WeightType type() const;
  int64_t rows() const;
  int64_t cols() const;
  size_t bytes() const;
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
