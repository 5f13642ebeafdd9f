#pragma once
// From the files' layouts to strips and back. Private to kernels/.

#include <vector>

#include "kernels/payload.h"
#include "kernels/weights_file.h"

namespace millrace::kernels {

// How the columns of a matrix are arranged in its strips: whole groups, each filled up to a
// multiple of 32, in the order of the groups' numbers.
struct Columns {
  std::vector<int32_t> gather;  // as in Payload
  std::vector<int32_t>
      block_group;     // the file's group of each 32 packed columns; empty: b / blocks
  int64_t packed = 0;  // columns in all
  int64_t blocks = 0;  // of 32 columns in a group of the strip
};
Columns ArrangeColumns(const RawMatrix& raw);

PayloadKind KindOf(const RawMatrix& raw);
// REQUIRES: `kind` is not plain.
GroupLayout MakeLayout(PayloadKind kind, int scale_bytes, int64_t blocks);
size_t StripBytes(const GroupLayout& layout, int64_t packed_cols);

// Packs rows [first_row, first_row + 16) of `raw`, or as many as there are, into a strip of the
// payload at `out`. `block_group` as in Columns.
struct StripTarget {
  const PackedMatrix::Payload* payload = nullptr;
  std::byte* out = nullptr;
};
void PackStrip(const RawMatrix& raw, const std::vector<int32_t>& block_group, int64_t first_row,
               const StripTarget& target);
void UnpackStripRow(const PackedMatrix::Payload& payload, int64_t row, float* out);

}  // namespace millrace::kernels
