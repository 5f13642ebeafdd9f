#include "kernels/weights_pack.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/kernels.h"

namespace millrace::kernels {
namespace {

// Where quant k of row `lane` lies in the 8 lines of 32 columns, and in their nibbles.
size_t ByteOfCode(int k, int lane) {
  return static_cast<size_t>(k / 4 * 64 + lane * 4 + k % 4);
}
size_t ByteOfNibble(int k, int lane) {
  return static_cast<size_t>(k / 8 * 64 + lane * 4 + k % 4);
}
int ShiftOfNibble(int k) {
  return k / 4 % 2 * 4;
}
// The same byte of the single line of bits, and of the two of pairs.
size_t ByteOfBit(int k, int lane) {
  return static_cast<size_t>(lane * 4 + k % 4);
}
size_t ByteOfPair(int k, int lane) {
  return static_cast<size_t>(k / 16 * 64) + ByteOfBit(k, lane);
}
int ShiftOfPair(int k) {
  return k / 4 % 4 * 2;
}

struct CodeFields {
  bool nibbles, bits, pairs;
};
CodeFields FieldsOf(CodeForm form) {
  return {form == CodeForm::kNibbles || form == CodeForm::kNibblesBits ||
              form == CodeForm::kNibblesPairs,
          form == CodeForm::kNibblesBits || form == CodeForm::kPairsBits,
          form == CodeForm::kNibblesPairs || form == CodeForm::kPairsBits};
}

// Adds the 32 codes of a row to their zeroed block. Fields lie in the order nibbles, pairs, bits,
// and each takes the lowest bits that are left.
void PutCodes(CodeForm form, const uint8_t* codes, int lane, uint8_t* out) {
  if (form == CodeForm::kBytes) {
    for (int k = 0; k < kBlock; ++k) out[ByteOfCode(k, lane)] = codes[k];
    return;
  }
  const CodeFields f = FieldsOf(form);
  uint8_t* pairs = out + (f.nibbles ? 256 : 0);
  uint8_t* bits = pairs + (f.pairs ? 128 : 0);
  for (int k = 0; k < kBlock; ++k) {
    int code = codes[k];
    if (f.nibbles) {
      out[ByteOfNibble(k, lane)] |= static_cast<uint8_t>((code & 15) << ShiftOfNibble(k));
      code >>= 4;
    }
    if (f.pairs) {
      pairs[ByteOfPair(k, lane)] |= static_cast<uint8_t>((code & 3) << ShiftOfPair(k));
      code >>= 2;
    }
    if (f.bits) bits[ByteOfBit(k, lane)] |= static_cast<uint8_t>((code & 1) << (k / 4));
  }
}

void GetCodes(CodeForm form, const uint8_t* in, int lane, uint8_t* codes) {
  const CodeFields f = FieldsOf(form);
  const uint8_t* pairs = in + (f.nibbles ? 256 : 0);
  const uint8_t* bits = pairs + (f.pairs ? 128 : 0);
  for (int k = 0; k < kBlock; ++k) {
    int code = 0, width = 0;
    if (form == CodeForm::kBytes) code = in[ByteOfCode(k, lane)];
    if (f.nibbles) {
      code = in[ByteOfNibble(k, lane)] >> ShiftOfNibble(k) & 15;
      width = 4;
    }
    if (f.pairs) {
      code |= (pairs[ByteOfPair(k, lane)] >> ShiftOfPair(k) & 3) << width;
      width += 2;
    }
    if (f.bits) code |= (bits[ByteOfBit(k, lane)] >> (k / 4) & 1) << width;
    codes[k] = static_cast<uint8_t>(code);
  }
}

void PutScales(PayloadKind kind, const GroupLayout& l, const RowScales& s, int lane, uint8_t* out) {
  const auto scale_bytes = static_cast<size_t>(l.scale_bytes);
  const auto column = static_cast<size_t>(lane);
  std::memcpy(out + scale_bytes * column, &s.scale, scale_bytes);  // little-endian: the low bytes
  if (l.minimum != 0) std::memcpy(out + l.minimum + 2 * column, &s.minimum, 2);
  if (l.zero != 0 && kind == PayloadKind::kGroup4Zero) {
    out[l.zero + column] = static_cast<uint8_t>(s.zero);
  }
  if (l.zero != 0 && kind == PayloadKind::kGroup8Zero) {
    const uint16_t half = FloatToHalf(s.zero);
    std::memcpy(out + l.zero + 2 * column, &half, 2);
  }
  for (size_t j = 0; j < static_cast<size_t>(l.part_count); ++j) {
    out[l.parts + 16 * j + column] = static_cast<uint8_t>(s.parts[j]);
    if (l.minimums != 0) out[l.minimums + 16 * j + column] = s.minimums[j];
  }
}

RowScales GetScales(PayloadKind kind, const GroupLayout& l, const uint8_t* in, int lane) {
  const auto scale_bytes = static_cast<size_t>(l.scale_bytes);
  const auto column = static_cast<size_t>(lane);
  RowScales s;
  std::memcpy(&s.scale, in + scale_bytes * column, scale_bytes);
  if (l.minimum != 0) std::memcpy(&s.minimum, in + l.minimum + 2 * column, 2);
  if (kind == PayloadKind::kGroup4) s.zero = 8;
  if (kind == PayloadKind::kGroup8) s.zero = 128;
  if (kind == PayloadKind::kGroup4Zero) s.zero = in[l.zero + column];
  if (kind == PayloadKind::kGroup8Zero) {
    uint16_t half;
    std::memcpy(&half, in + l.zero + 2 * column, 2);
    s.zero = static_cast<int16_t>(HalfToFloat(half));
  }
  for (size_t j = 0; j < static_cast<size_t>(l.part_count); ++j) {
    s.parts[j] = static_cast<int8_t>(in[l.parts + 16 * j + column]);
    if (l.minimums != 0) s.minimums[j] = in[l.minimums + 16 * j + column];
  }
  return s;
}

// The codes of one row for 32 packed columns; columns that fill a group up have code 0.
void ReadPackedCodes(const RawMatrix& raw, const std::vector<int32_t>& gather, int64_t row,
                     int64_t block, uint8_t* codes) {
  for (int64_t i = 0; i < kBlock; ++i) {
    const int64_t packed = kBlock * block + i;
    const int64_t k = gather.empty() ? packed : gather[static_cast<size_t>(packed)];
    codes[i] = k < 0 ? uint8_t{0} : ReadCode(raw, row, k);
  }
}

}  // namespace

Columns ArrangeColumns(const RawMatrix& raw) {
  Columns c;
  if (!IsGrouped(raw.type)) {
    c.packed = raw.cols;
    c.blocks = BlockValues(raw.type) / kBlock;
    return c;
  }
  const int64_t width = GroupColumns(raw);
  if (raw.groups->g_idx == nullptr && raw.cols % kBlock == 0 &&
      (width % kBlock == 0 || width == raw.cols)) {
    c.packed = raw.cols;
    c.blocks = width / kBlock;
    return c;
  }
  // Columns of each group, then where it begins. The columns of a group keep their order.
  std::vector<int64_t> next(static_cast<size_t>(GroupCount(raw)));
  auto group_of = [&](int64_t k) { return static_cast<size_t>(GroupOfColumn(raw, k)); };
  for (int64_t k = 0; k < raw.cols; ++k) ++next[group_of(k)];
  std::vector<int64_t> sizes;  // blocks of the groups that have columns
  for (size_t group = 0; group < next.size(); ++group) {
    const int64_t blocks = (next[group] + kBlock - 1) / kBlock;
    next[group] = c.packed;
    if (blocks == 0) continue;
    c.packed += blocks * kBlock;
    sizes.push_back(blocks);
    c.block_group.insert(c.block_group.end(), static_cast<size_t>(blocks),
                         static_cast<int32_t>(group));
  }
  c.gather.assign(static_cast<size_t>(c.packed), -1);
  for (int64_t k = 0; k < raw.cols; ++k) {
    c.gather[static_cast<size_t>(next[group_of(k)]++)] = static_cast<int32_t>(k);
  }
  // Unequal groups (but for a smaller last one) are cut into groups of 32.
  bool equal = sizes.back() <= sizes.front();
  for (size_t i = 0; i + 1 < sizes.size(); ++i) equal = equal && sizes[i] == sizes.front();
  c.blocks = equal ? sizes.front() : 1;
  bool same = c.packed == raw.cols;
  for (size_t i = 0; same && i < c.gather.size(); ++i) same = c.gather[i] == static_cast<int>(i);
  if (same) c.gather.clear();
  return c;
}

PayloadKind KindOf(const RawMatrix& raw) {
  if (!IsGrouped(raw.type)) {
    // The kinds begin with the types that are not grouped, in their order.
    static_assert(static_cast<int>(PayloadKind::kBF16) == static_cast<int>(WeightType::kBF16) &&
                  static_cast<int>(PayloadKind::kIQ4_XS) == static_cast<int>(WeightType::kIQ4_XS));
    return static_cast<PayloadKind>(raw.type);
  }
  if (CodeBits(raw.type) == 4) {
    return HasZeros(raw) ? PayloadKind::kGroup4Zero : PayloadKind::kGroup4;
  }
  return HasZeros(raw) ? PayloadKind::kGroup8Zero : PayloadKind::kGroup8;
}

GroupLayout MakeLayout(PayloadKind kind, int scale_bytes, int64_t blocks) {
  GroupLayout l;
  l.blocks = blocks;
  l.scale_bytes = scale_bytes;
  l.header = static_cast<size_t>(kStripRows * scale_bytes);
  auto add = [&l](size_t bytes) {
    const size_t at = l.header;
    l.header += kStripRows * bytes;
    return at;
  };
  switch (kind) {
    case PayloadKind::kQ8_0:
    case PayloadKind::kGroup8:
      l.codes = CodeForm::kBytes;
      break;
    case PayloadKind::kGroup8Zero:
      l.codes = CodeForm::kBytes;
      l.zero = add(2);
      break;
    case PayloadKind::kGroup4Zero:
      l.codes = CodeForm::kNibbles;
      l.zero = add(1);
      break;
    case PayloadKind::kQ4_1:
      l.codes = CodeForm::kNibbles;
      l.minimum = add(2);
      break;
    case PayloadKind::kQ5_0:
      l.codes = CodeForm::kNibblesBits;
      break;
    case PayloadKind::kQ5_1:
      l.codes = CodeForm::kNibblesBits;
      l.minimum = add(2);
      break;
    case PayloadKind::kQ4_K:
    case PayloadKind::kQ5_K:
      l.codes = kind == PayloadKind::kQ4_K ? CodeForm::kNibbles : CodeForm::kNibblesBits;
      l.minimum = add(2);
      l.part_count = 8;
      l.parts = add(8);
      l.minimums = add(8);
      break;
    case PayloadKind::kQ6_K:
    case PayloadKind::kQ3_K:
      l.codes = kind == PayloadKind::kQ6_K ? CodeForm::kNibblesPairs : CodeForm::kPairsBits;
      l.part_count = 16;
      l.parts = add(16);
      break;
    case PayloadKind::kIQ4_XS:
      l.codes = CodeForm::kNibbles;
      l.part_count = 8;
      l.parts = add(8);
      break;
    default:  // Q4_0, IQ4_NL, Group4
      l.codes = CodeForm::kNibbles;
      break;
  }
  const CodeFields f = FieldsOf(l.codes);
  l.block = l.codes == CodeForm::kBytes
                ? 512
                : (f.nibbles ? 256u : 0u) + (f.pairs ? 128u : 0u) + (f.bits ? 64u : 0u);
  return l;
}

size_t StripBytes(const GroupLayout& layout, int64_t packed_cols) {
  const int64_t blocks = packed_cols / kBlock;
  return static_cast<size_t>((blocks + layout.blocks - 1) / layout.blocks) * layout.header +
         static_cast<size_t>(blocks) * layout.block;
}

void PackStrip(const RawMatrix& raw, const std::vector<int32_t>& block_group, int64_t row,
               const StripTarget& target) {
  const PackedMatrix::Payload& p = *target.payload;
  auto* out = reinterpret_cast<uint8_t*>(target.out);
  std::memset(out, 0, p.strip_bytes);
  const int lanes = static_cast<int>(std::min<int64_t>(kStripRows, raw.rows - row));
  if (IsPlain(p.kind)) {
    const auto bytes = static_cast<size_t>(BlockBytes(raw.type));
    for (int lane = 0; lane < lanes; ++lane) {
      const auto* in = static_cast<const uint8_t*>(raw.data) +
                       static_cast<size_t>((row + lane) * raw.cols) * bytes;
      for (size_t k = 0; k < static_cast<size_t>(raw.cols); ++k) {
        std::memcpy(out + bytes * (kStripRows * k + static_cast<size_t>(lane)), in + bytes * k,
                    bytes);
      }
    }
    return;
  }
  const GroupLayout& l = p.group;
  for (int64_t b = 0; b < p.packed_cols / kBlock; ++b) {
    const bool starts = b % l.blocks == 0;
    const int64_t group = block_group.empty() ? b / l.blocks : block_group[static_cast<size_t>(b)];
    for (int lane = 0; lane < lanes; ++lane) {
      uint8_t codes[kBlock];
      if (IsGrouped(raw.type)) {
        ReadPackedCodes(raw, p.gather, row + lane, b, codes);
      } else {
        ReadCodes(raw, row + lane, b, codes);
      }
      if (starts) PutScales(p.kind, l, ReadScales(raw, row + lane, group), lane, out);
      PutCodes(l.codes, codes, lane, out + (starts ? l.header : 0));
    }
    out += (starts ? l.header : 0) + l.block;
  }
}

void UnpackStripRow(const PackedMatrix::Payload& p, int64_t row, float* out) {
  const auto* in = reinterpret_cast<const uint8_t*>(p.data.get()) +
                   static_cast<size_t>(row / kStripRows) * p.strip_bytes;
  const int lane = static_cast<int>(row % kStripRows);
  if (IsPlain(p.kind)) {
    for (int64_t k = 0; k < p.cols; ++k) {
      out[k] = ScaleToFloat(p.type, ReadScaleBits(p.type, in, kStripRows * k + lane));
    }
    return;
  }
  RowScales scales;
  for (int64_t b = 0; b < p.packed_cols / kBlock; ++b) {
    if (b % p.group.blocks == 0) {
      scales = GetScales(p.kind, p.group, in, lane);
      in += p.group.header;
    }
    uint8_t codes[kBlock];
    float values[kBlock];
    GetCodes(p.group.codes, in, lane, codes);
    in += p.group.block;
    if (IsGrouped(p.type)) {
      for (int i = 0; i < kBlock; ++i) {
        values[i] = DequantizeGrouped(p.scale_type, scales, codes[i]);
      }
    } else {
      Dequantize32(p.type, scales, b % p.group.blocks, codes, values);
    }
    for (int64_t i = 0; i < kBlock; ++i) {
      const int64_t packed = kBlock * b + i;
      const int64_t k = p.gather.empty() ? packed : p.gather[static_cast<size_t>(packed)];
      if (k >= 0) out[k] = values[i];
    }
  }
}

}  // namespace millrace::kernels
