// The file formats, value by value. Sources: ggml's block structs and gguf-py/gguf/quants.py for
// the GGUF types; AutoGPTQ, AutoAWQ and compressed-tensors for the grouped ones.

#include "kernels/weights_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/kernels.h"

namespace millrace::kernels {
namespace {

constexpr int64_t kMaxExtent = int64_t{1} << 31;  // rows or columns; keeps products in 64 bits

// The values of IQ4_NL's and IQ4_XS's codes (ggml's kvalues_iq4nl).
constexpr int8_t kTable[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                               1,    13,   25,  38,  53,  69,  89,  113};

uint16_t ReadU16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}

uint32_t ReadU32(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}

float FromBits(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Element i < 16 of a nibble block is the low half of byte i, else the high half of byte i - 16.
void ReadNibbles(const uint8_t* p, uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = p[i] & 15;
    codes[i + 16] = p[i] >> 4;
  }
}

const uint8_t* Bytes(const void* p) {
  return static_cast<const uint8_t*>(p);
}

const uint8_t* FileBlock(const RawMatrix& raw, int64_t row, int64_t block) {
  const int64_t blocks = raw.cols / BlockValues(raw.type);
  return Bytes(raw.data) + (row * blocks + block) * BlockBytes(raw.type);
}

// Word `index` of a tensor of packed int32, any alignment.
uint32_t Word(const void* words, int64_t index) {
  return ReadU32(Bytes(words) + 4 * index);
}

int64_t FileRows(const RawMatrix& raw) {
  return raw.groups->file_rows == 0 ? raw.rows : raw.groups->file_rows;
}

// Code `index` of a run of codes in consecutive words.
uint8_t CodeAt(const void* words, int64_t index, int bits) {
  const int64_t per_word = 32 / bits;
  const uint32_t word = Word(words, index / per_word);
  return static_cast<uint8_t>(word >> (index % per_word * bits) & ((1u << bits) - 1));
}

// Which nibble of an AWQ word holds each of its eight columns.
constexpr int kAwqNibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};

// The stored zero point of file row `n`, without the offset of GPTQ v1.
int StoredZero(const RawMatrix& raw, int64_t n, int64_t group) {
  const int bits = CodeBits(raw.type);
  const int64_t per_word = 32 / bits, rows = FileRows(raw);
  const void* zeros = raw.groups->zeros;
  switch (raw.type) {
    case WeightType::kAwq4:
      return Word(zeros, group * CeilDiv(rows, 8) + n / 8) >> (4 * kAwqNibble[n % 8]) & 15;
    case WeightType::kPacked4:
    case WeightType::kPacked8:
      return static_cast<int>(Word(zeros, n / per_word * GroupCount(raw) + group) >>
                                  (n % per_word * bits) &
                              ((1u << bits) - 1));
    default:
      return CodeAt(Bytes(zeros) + 4 * group * CeilDiv(rows, per_word), n, bits);
  }
}

absl::Status Wrong(const RawMatrix& raw, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("a ", WeightTypeName(raw.type), " matrix [",
                                                 raw.rows, ", ", raw.cols, "] ",
                                                 std::string(what)));
}

// "takes 12 bytes of scales, not 10"
absl::Status CheckSize(const RawMatrix& raw, const char* what, int64_t want, size_t have) {
  if (static_cast<size_t>(want) == have) return absl::OkStatus();
  return Wrong(raw, absl::StrCat("takes ", want, " bytes of ", what, ", not ", have));
}

absl::Status CheckZeros(const RawMatrix& raw) {
  const RawGroups& g = *raw.groups;
  if (g.zero_offset < 0 || g.zero_offset > 1) return Wrong(raw, "has a zero offset beside 0 and 1");
  if (g.zeros == nullptr) return absl::OkStatus();
  const int bits = CodeBits(raw.type);
  const int64_t per_word = 32 / bits, groups = GroupCount(raw);
  const int64_t words = CeilDiv(FileRows(raw), per_word) * groups;
  if (raw.type == WeightType::kInt8Channel) return Wrong(raw, "has zero points");
  if (absl::Status s = CheckSize(raw, "zero points", 4 * words, g.zero_bytes); !s.ok()) return s;
  if (!g.symmetric) return absl::OkStatus();
  const int first = StoredZero(raw, g.first_row, 0), middle = 1 << (bits - 1);
  for (int64_t group = 0; group < groups; ++group) {
    for (int64_t n = g.first_row; n < g.first_row + raw.rows; ++n) {
      const int zero = StoredZero(raw, n, group);
      if (zero != first || (zero != middle && zero != middle - 1)) {
        return Wrong(raw, absl::StrCat("is said to be symmetric and has the zero point ", zero,
                                       " in group ", group, " of row ", n));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckGroupIndex(const RawMatrix& raw) {
  const RawGroups& g = *raw.groups;
  if (g.g_idx == nullptr) return absl::OkStatus();
  if (absl::Status s = CheckSize(raw, "group indices", 4 * raw.cols, g.g_idx_bytes); !s.ok()) {
    return s;
  }
  const int64_t groups = GroupCount(raw);
  for (int64_t k = 0; k < raw.cols; ++k) {
    const auto group = static_cast<int32_t>(Word(g.g_idx, k));
    if (group < 0 || group >= groups) {
      return Wrong(raw, absl::StrCat("has column ", k, " in group ", group, " of ", groups));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckGrouped(const RawMatrix& raw) {
  if (raw.groups == nullptr || raw.groups->scales == nullptr) return Wrong(raw, "has no scales");
  const RawGroups& g = *raw.groups;
  const int64_t rows = FileRows(raw);
  if (g.first_row < 0 || rows > kMaxExtent || g.first_row > rows - raw.rows) {
    return Wrong(raw, absl::StrCat("starts at row ", g.first_row, " of ", rows));
  }
  if (g.group_size == 0 || g.group_size < -1) {
    return Wrong(raw, absl::StrCat("has groups of ", g.group_size));
  }
  if (g.scale_type > WeightType::kBF16) return Wrong(raw, "has scales that are no plain numbers");
  if (raw.type == WeightType::kInt8Channel && (g.group_size != -1 || g.g_idx != nullptr)) {
    return Wrong(raw, "has groups; a scale a row is all that W8A8 knows");
  }
  const int64_t per_word = 32 / CodeBits(raw.type);
  int64_t want = 4 * CeilDiv(raw.cols, per_word) * rows;  // GPTQ and pack-quantized, either way
  if (raw.type == WeightType::kAwq4) want = 4 * raw.cols * CeilDiv(rows, 8);
  if (raw.type == WeightType::kInt8Channel) want = raw.cols * rows;
  if (absl::Status s = CheckSize(raw, "codes", want, raw.bytes); !s.ok()) return s;
  const int64_t scales = GroupCount(raw) * rows * BlockBytes(g.scale_type);
  if (absl::Status s = CheckSize(raw, "scales", scales, g.scale_bytes); !s.ok()) return s;
  if (absl::Status s = CheckZeros(raw); !s.ok()) return s;
  return CheckGroupIndex(raw);
}

}  // namespace

// IEEE 754 binary16: 1 sign, 5 exponent (bias 15), 10 mantissa bits.
float HalfToFloat(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  if (exponent == 31)
    return FromBits(sign | 0x7f800000u | (mantissa ? 0x400000u : 0) | mantissa << 13);
  return FromBits(sign | (exponent + 112) << 23 | mantissa << 13);
}

float BFloatToFloat(uint16_t h) {
  return FromBits(static_cast<uint32_t>(h) << 16);
}

// Adding 2^(e + 13) to a number of exponent e leaves its 10 bits, rounded, in the low bits of the
// sum; below 2^-14 the spacing stays that of 2^-14.
uint16_t FloatToHalf(float f) {
  const uint16_t sign = std::signbit(f) ? 0x8000 : 0;
  const float magnitude = std::abs(f);
  if (magnitude == 0) return sign;
  const int exponent = std::max(std::ilogb(magnitude), -14);
  // Whole number of units of the last place, 1024 .. 2048 unless subnormal: 2048 carries over.
  const auto units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return static_cast<uint16_t>(sign | (((exponent + 14) << 10) + units));
}

float ScaleToFloat(WeightType type, uint32_t bits) {
  if (type == WeightType::kF16) return HalfToFloat(static_cast<uint16_t>(bits));
  if (type == WeightType::kBF16) return BFloatToFloat(static_cast<uint16_t>(bits));
  return FromBits(bits);
}

uint32_t ReadScaleBits(WeightType type, const void* p, int64_t index) {
  if (type == WeightType::kF32) return ReadU32(Bytes(p) + 4 * index);
  return ReadU16(Bytes(p) + 2 * index);
}

int CodeBits(WeightType type) {
  return type == WeightType::kGptq4 || type == WeightType::kAwq4 || type == WeightType::kPacked4
             ? 4
             : 8;
}

int64_t GroupColumns(const RawMatrix& raw) {
  const int64_t size = raw.groups->group_size;
  return size == -1 || size > raw.cols ? raw.cols : size;
}

int64_t GroupCount(const RawMatrix& raw) {
  return CeilDiv(raw.cols, GroupColumns(raw));
}

int64_t GroupOfColumn(const RawMatrix& raw, int64_t col) {
  if (raw.groups->g_idx != nullptr) return static_cast<int64_t>(Word(raw.groups->g_idx, col));
  return col / GroupColumns(raw);
}

bool HasZeros(const RawMatrix& raw) {
  return raw.groups->zeros != nullptr && !raw.groups->symmetric;
}

uint8_t ReadCode(const RawMatrix& raw, int64_t row, int64_t col) {
  const int64_t n = raw.groups->first_row + row, rows = FileRows(raw);
  const int bits = CodeBits(raw.type);
  const int64_t per_word = 32 / bits;
  switch (raw.type) {
    case WeightType::kInt8Channel:
      return static_cast<uint8_t>(Bytes(raw.data)[n * raw.cols + col] ^ 0x80);
    case WeightType::kAwq4:
      return Word(raw.data, col * CeilDiv(rows, 8) + n / 8) >> (4 * kAwqNibble[n % 8]) & 15;
    case WeightType::kPacked4:
    case WeightType::kPacked8:
      return CodeAt(Bytes(raw.data) + 4 * n * CeilDiv(raw.cols, per_word), col, bits);
    default:
      return static_cast<uint8_t>(Word(raw.data, col / per_word * rows + n) >>
                                      (col % per_word * bits) &
                                  ((1u << bits) - 1));
  }
}

namespace {

// Codes of the types of 256, of which `block` counts the 32s. A type's fields as in ggml.
void ReadSuperCodes(WeightType type, const uint8_t* in, int block, uint8_t* codes) {
  const int half = block / 4, quarter = block % 4;
  switch (type) {
    case WeightType::kQ4_K:
    case WeightType::kQ5_K: {
      const bool five = type == WeightType::kQ5_K;
      const uint8_t* high = in + 16;
      const uint8_t* low = in + (five ? 48 : 16) + block / 2 * 32;
      for (int i = 0; i < 32; ++i) {
        const int bit = five ? high[i] >> block & 1 : 0;
        codes[i] = static_cast<uint8_t>((low[i] >> (block % 2 * 4) & 15) | bit << 4);
      }
      return;
    }
    case WeightType::kQ6_K:
      for (int i = 0; i < 32; ++i) {
        const int low = in[64 * half + 32 * (quarter % 2) + i] >> (quarter / 2 * 4) & 15;
        const int high = in[128 + 32 * half + i] >> (2 * quarter) & 3;
        codes[i] = static_cast<uint8_t>(low | high << 4);
      }
      return;
    case WeightType::kQ3_K:
      for (int i = 0; i < 32; ++i) {
        const int low = in[32 + 32 * half + i] >> (2 * quarter) & 3;
        codes[i] = static_cast<uint8_t>(low | (in[i] >> block & 1) << 2);
      }
      return;
    default:  // kIQ4_XS
      ReadNibbles(in + 8 + 16 * block, codes);
      return;
  }
}

// The 6-bit scale and minimum of part j in the 12 bytes that Q4_K and Q5_K share.
void ReadPairs(const uint8_t* s, RowScales& out) {
  for (int j = 0; j < 4; ++j) {
    out.parts[j] = static_cast<int8_t>(s[j] & 63);
    out.minimums[j] = static_cast<uint8_t>(s[j + 4] & 63);
    out.parts[j + 4] = static_cast<int8_t>((s[j + 8] & 15) | s[j] >> 6 << 4);
    out.minimums[j + 4] = static_cast<uint8_t>(s[j + 8] >> 4 | s[j + 4] >> 6 << 4);
  }
}

RowScales ReadGroupedScales(const RawMatrix& raw, int64_t row, int64_t group) {
  const RawGroups& g = *raw.groups;
  const int64_t n = g.first_row + row;
  const bool by_row = raw.type == WeightType::kPacked4 || raw.type == WeightType::kPacked8 ||
                      raw.type == WeightType::kInt8Channel;
  const int64_t index = by_row ? n * GroupCount(raw) + group : group * FileRows(raw) + n;
  RowScales out;
  out.scale = ReadScaleBits(g.scale_type, g.scales, index);
  out.zero = static_cast<int16_t>(HasZeros(raw) ? StoredZero(raw, n, group) + g.zero_offset
                                                : 1 << (CodeBits(raw.type) - 1));
  return out;
}

}  // namespace

void ReadCodes(const RawMatrix& raw, int64_t row, int64_t block, uint8_t* codes) {
  const int64_t blocks = BlockValues(raw.type) / kBlock;
  const uint8_t* in = FileBlock(raw, row, block / blocks);
  switch (raw.type) {
    case WeightType::kQ8_0:
      for (int i = 0; i < kBlock; ++i) codes[i] = in[2 + i] ^ 0x80;
      return;
    case WeightType::kQ4_0:
    case WeightType::kIQ4_NL:
      ReadNibbles(in + 2, codes);
      return;
    case WeightType::kQ4_1:
      ReadNibbles(in + 4, codes);
      return;
    case WeightType::kQ5_0:
    case WeightType::kQ5_1: {
      const uint8_t* high = in + (raw.type == WeightType::kQ5_0 ? 2 : 4);
      ReadNibbles(high + 4, codes);
      const uint32_t bits = ReadU32(high);
      for (int i = 0; i < kBlock; ++i) codes[i] |= static_cast<uint8_t>((bits >> i & 1) << 4);
      return;
    }
    default:
      ReadSuperCodes(raw.type, in, static_cast<int>(block % blocks), codes);
      return;
  }
}

RowScales ReadScales(const RawMatrix& raw, int64_t row, int64_t group) {
  if (IsGrouped(raw.type)) return ReadGroupedScales(raw, row, group);
  const uint8_t* in = FileBlock(raw, row, group);
  RowScales out;
  out.scale = ReadU16(in);
  switch (raw.type) {
    case WeightType::kQ4_1:
    case WeightType::kQ5_1:
      out.minimum = ReadU16(in + 2);
      return out;
    case WeightType::kQ4_K:
    case WeightType::kQ5_K:
      out.minimum = ReadU16(in + 2);
      ReadPairs(in + 4, out);
      return out;
    case WeightType::kQ6_K:
      out.scale = ReadU16(in + 208);
      std::memcpy(out.parts, in + 192, 16);
      return out;
    case WeightType::kQ3_K:
      out.scale = ReadU16(in + 108);
      for (int j = 0; j < 16; ++j) {
        const uint8_t* s = in + 96;
        const int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4;
        const int high = s[8 + j % 4] >> (j / 4 * 2) & 3;
        out.parts[j] = static_cast<int8_t>((low | high << 4) - 32);
      }
      return out;
    case WeightType::kIQ4_XS:
      for (int j = 0; j < 8; ++j) {
        const int low = in[4 + j / 2] >> (j % 2 * 4) & 15, high = ReadU16(in + 2) >> (2 * j) & 3;
        out.parts[j] = static_cast<int8_t>((low | high << 4) - 32);
      }
      return out;
    default:
      return out;
  }
}

// Every product below is exact in fp32 (11 bits of fp16, at most 8 of a part's scale and 7 of a
// code, none of them at their widest together), so that only the last addition rounds.
void Dequantize32(WeightType type, const RowScales& scales, int64_t block, const uint8_t* codes,
                  float* out) {
  const float d = HalfToFloat(static_cast<uint16_t>(scales.scale));
  const float m = HalfToFloat(scales.minimum);
  for (int i = 0; i < kBlock; ++i) {
    const int code = codes[i];
    const float half_part = scales.parts[(2 * block + i / 16) % 16], part = scales.parts[block];
    switch (type) {
      case WeightType::kQ8_0:
        out[i] = static_cast<float>(code - 128) * d;
        break;
      case WeightType::kQ4_0:
        out[i] = static_cast<float>(code - 8) * d;
        break;
      case WeightType::kQ5_0:
        out[i] = static_cast<float>(code - 16) * d;
        break;
      case WeightType::kQ4_1:
      case WeightType::kQ5_1:
        out[i] = static_cast<float>(code) * d + m;
        break;
      case WeightType::kIQ4_NL:
        out[i] = static_cast<float>(kTable[code]) * d;
        break;
      case WeightType::kQ4_K:
      case WeightType::kQ5_K:
        out[i] = static_cast<float>(code) * (d * part) - m * scales.minimums[block];
        break;
      case WeightType::kQ6_K:
        out[i] = static_cast<float>(code - 32) * (d * half_part);
        break;
      case WeightType::kQ3_K:
        out[i] = static_cast<float>(code - 4) * (d * half_part);
        break;
      default:  // kIQ4_XS
        out[i] = static_cast<float>(kTable[code]) * (d * part);
        break;
    }
  }
}

float DequantizeGrouped(WeightType scale_type, const RowScales& scales, uint8_t code) {
  return static_cast<float>(code - scales.zero) * ScaleToFloat(scale_type, scales.scale);
}

absl::Status CheckRaw(const RawMatrix& raw) {
  const int values = BlockValues(raw.type);
  if (raw.rows <= 0 || raw.cols <= 0 || raw.rows > kMaxExtent || raw.cols > kMaxExtent ||
      raw.cols % values != 0 || raw.data == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "no ", WeightTypeName(raw.type), " matrix has shape [", raw.rows, ", ", raw.cols, "]"));
  }
  if (IsGrouped(raw.type)) return CheckGrouped(raw);
  const int64_t row_bytes = raw.cols / values * BlockBytes(raw.type);  // below 2^34
  int64_t want = 0;
  if (__builtin_mul_overflow(row_bytes, raw.rows, &want)) return Wrong(raw, "is too large");
  return CheckSize(raw, "codes", want, raw.bytes);
}

void DequantizeRawRow(const RawMatrix& raw, int64_t row, float* out) {
  if (raw.type <= WeightType::kBF16) {
    for (int64_t k = 0; k < raw.cols; ++k) {
      out[k] = ScaleToFloat(raw.type, ReadScaleBits(raw.type, raw.data, row * raw.cols + k));
    }
    return;
  }
  if (IsGrouped(raw.type)) {
    int64_t at = -1;
    RowScales scales;
    for (int64_t k = 0; k < raw.cols; ++k) {
      const int64_t group = GroupOfColumn(raw, k);
      if (group != at) scales = ReadScales(raw, row, at = group);
      out[k] = DequantizeGrouped(raw.groups->scale_type, scales, ReadCode(raw, row, k));
    }
    return;
  }
  const int64_t blocks = BlockValues(raw.type) / kBlock;
  for (int64_t b = 0; b < raw.cols / kBlock; ++b) {
    uint8_t codes[kBlock];
    ReadCodes(raw, row, b, codes);
    Dequantize32(raw.type, ReadScales(raw, row, b / blocks), b % blocks, codes, out + kBlock * b);
  }
}

}  // namespace millrace::kernels
