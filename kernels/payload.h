#pragma once
// The inside of PackedMatrix, for the ops and for a device's copy of the weights.

#include <cstdlib>
#include <memory>

#include "kernels/weights.h"

namespace millrace::kernels {

struct FreeBytes {
  void operator()(std::byte* p) const { std::free(p); }
};

// Strips of 16 rows one after the other, each a run of blocks over the columns. The rows that pad
// the last strip are zero bytes. A block:
//   F32 F16 BF16  16 values (one column)
//   Q4_0          256 B nibbles, 16 fp16 d                  (32 columns)
//   Q4_1          256 B nibbles, 16 fp16 d, 16 fp16 m       (32 columns)
//   Q8_0          512 B q + 128, 16 fp16 d                  (32 columns)
struct PackedMatrix::Payload {
  WeightType type = WeightType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  size_t strip_bytes = 0;
  size_t bytes = 0;
  std::unique_ptr<std::byte, FreeBytes> data;  // 64-byte aligned
};

// Writes strip `strip` of `raw` into the payload.
void PackStrip(const RawMatrix& raw, int64_t strip, PackedMatrix::Payload& payload);

}  // namespace millrace::kernels
