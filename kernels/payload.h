#pragma once
// The inside of PackedMatrix, for the ops and for a device's copy of the weights.
//
// Strips of 16 rows one after the other. A strip of a plain kind is 16 values (one column) after
// the other. Every other strip is a run of groups over the columns, and a group is a header with
// the scales of its 16 rows and then the codes of its columns, 32 at a time. All fields are arrays
// over the 16 rows, all fp16 as in the file:
//
//   kind         header                                       32 columns x 16 rows     in a group
//   Q4_0         d                                            nibbles                  32
//   Q4_1         d, m                                         nibbles                  32
//   Q8_0         d                                            bytes                    32
//   Q5_0 Q5_1    d; d, m                                      nibbles, bits            32
//   IQ4_NL       d                                            nibbles                  32
//   Q4_K Q5_K    d, dmin, 8 x u8 scale, 8 x u8 minimum        nibbles; nibbles, bits   256
//   Q6_K         d, 16 x s8 scale                             nibbles, pairs           256
//   Q3_K         d, 16 x s8 scale                             pairs, bits              256
//   IQ4_XS       d, 8 x s8 scale                              nibbles                  256
//   Group4 8     scale (fp16, bf16 or fp32)                   nibbles; bytes           any x 32
//   Group4Zero   the same, u8 zero point                      nibbles                  any x 32
//   Group8Zero   the same, fp16 zero point (0 .. 256)         bytes                    any x 32
//
// The last group of a strip may have fewer columns. Codes, where line j of 64 bytes has byte b of
// row r, column 4 j + b, at 4 r + b:
//   bytes    8 lines (512 B): the code, signed ones + 128
//   nibbles  256 B: line i holds quants line 2 i in the low and 2 i + 1 in the high halves
//   bits     64 B: bit j of each byte belongs to line j
//   pairs    128 B: bits 2 (j % 4) and above of vector j / 4 belong to line j
// The rows that pad the last strip are zero bytes.

#include <cstdlib>
#include <memory>
#include <vector>

#include "base/huge_page_memory.h"
#include "kernels/weights.h"

namespace millrace::kernels {

// Of everything above: raise it when the same matrix becomes other bytes, so that a cache of packed
// weights (model/packed_file.h) of an older program is packed again.
constexpr uint32_t kPackedLayoutVersion = 1;

// Frees what Pack allocated; bytes that are viewed belong to someone else.
struct FreeBytes {
  enum class From : uint8_t { kElsewhere, kHeap, kHugePages };
  From from = From::kHeap;
  void operator()(std::byte* p) const {
    if (from == From::kHeap) std::free(p);
    if (from == From::kHugePages) FreeOnHugePages(p);
  }
};

// What a kernel is made for: WeightTypes whose values are computed alike share one.
enum class PayloadKind : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kIQ4_NL,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_XS,
  kGroup4,
  kGroup4Zero,
  kGroup8,
  kGroup8Zero,
};
inline bool IsPlain(PayloadKind kind) {
  return kind <= PayloadKind::kBF16;
}

enum class CodeForm : uint8_t { kNone, kNibbles, kNibblesBits, kNibblesPairs, kPairsBits, kBytes };

// Where the parts of a group lie. Offsets from its first byte.
struct GroupLayout {
  CodeForm codes = CodeForm::kNone;
  size_t minimum = 0;   // 16 fp16: m or dmin; 0: none
  size_t zero = 0;      // 16 u8 or fp16; 0: none
  size_t parts = 0;     // [part_count][16] bytes: scales of parts of the group; 0: none
  size_t minimums = 0;  // [8][16] u8; 0: none
  int part_count = 0;   // 8 (of 32 columns) or 16 (of 16)
  size_t header = 0;    // bytes before the codes
  size_t block = 0;     // bytes of the codes of 32 columns
  int64_t blocks = 0;   // of 32 columns in a group
  int scale_bytes = 2;
};

struct PackedMatrix::Payload {
  WeightType type = WeightType::kF32;
  PayloadKind kind = PayloadKind::kF32;
  WeightType scale_type = WeightType::kF16;
  bool per_token = false;  // kInt8Channel: activations get one scale a token
  int64_t rows = 0;
  int64_t cols = 0;         // of the matrix
  int64_t packed_cols = 0;  // of the strips: `cols`, or gather.size()
  // Packed column -> column of the matrix, or -1 where a group is filled up with columns that count
  // for nothing. Empty: the same. Columns of a group keep their order.
  std::vector<int32_t> gather;
  GroupLayout group;
  size_t strip_bytes = 0;
  size_t bytes = 0;
  std::unique_ptr<std::byte, FreeBytes> data;  // 64-byte aligned; read-only when it is viewed
};

}  // namespace millrace::kernels
