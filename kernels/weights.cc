#include "kernels/weights.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/kernels.h"
#include "kernels/payload.h"

namespace millrace::kernels {
namespace {

constexpr int64_t kMaxExtent = int64_t{1} << 31;  // rows or columns; keeps products in 64 bits

uint16_t ReadU16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}

float FromBits(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

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

// The value of nibble i of a block of 32, as it lies in the file.
int FileNibble(const uint8_t* nibbles, int i) {
  return i < 16 ? nibbles[i] & 15 : nibbles[i - 16] >> 4;
}

// Bytes of one block of a strip: 16 rows of BlockValues(type) values.
size_t StripBlockBytes(WeightType type) {
  return static_cast<size_t>(kStripRows) * static_cast<size_t>(BlockBytes(type));
}

size_t StripBytes(WeightType type, int64_t cols) {
  return static_cast<size_t>(cols / BlockValues(type)) * StripBlockBytes(type);
}

// Where quant k of row `lane` lies in a strip's block. A 32-bit lane holds 4 consecutive k of one
// row; with nibbles, byte b of group j holds k = 8j + b (low) and k = 8j + 4 + b (high).
size_t ByteOfQuant(int k, int lane) {
  return static_cast<size_t>(k / 4 * 64 + lane * 4 + k % 4);
}
size_t ByteOfNibble(int k, int lane) {
  return static_cast<size_t>(k / 8 * 64 + lane * 4 + k % 4);
}

// Copies one block of a file's row into its place in a strip's block (zeroed before).
void PackBlock(WeightType type, const uint8_t* in, int lane, uint8_t* out) {
  switch (type) {
    case WeightType::kF32:
      std::memcpy(out + 4 * lane, in, 4);
      return;
    case WeightType::kF16:
    case WeightType::kBF16:
      std::memcpy(out + 2 * lane, in, 2);
      return;
    case WeightType::kQ8_0:
      for (int k = 0; k < kBlock; ++k) {
        out[ByteOfQuant(k, lane)] = static_cast<uint8_t>(in[2 + k] ^ 0x80);  // + 128
      }
      std::memcpy(out + 512 + 2 * lane, in, 2);
      return;
    case WeightType::kQ4_0:
    case WeightType::kQ4_1: {
      const int header = type == WeightType::kQ4_0 ? 2 : 4;
      for (int k = 0; k < kBlock; ++k) {
        const int shift = k / 4 % 2 * 4;
        out[ByteOfNibble(k, lane)] |= static_cast<uint8_t>(FileNibble(in + header, k) << shift);
      }
      std::memcpy(out + 256 + 2 * lane, in, 2);
      if (header == 4) std::memcpy(out + 288 + 2 * lane, in + 2, 2);
      return;
    }
    default:
      return;
  }
}

void UnpackBlock(WeightType type, const uint8_t* in, int lane, float* out) {
  switch (type) {
    case WeightType::kF32:
      std::memcpy(out, in + 4 * lane, 4);
      return;
    case WeightType::kF16:
      *out = HalfToFloat(ReadU16(in + 2 * lane));
      return;
    case WeightType::kBF16:
      *out = BFloatToFloat(ReadU16(in + 2 * lane));
      return;
    case WeightType::kQ8_0: {
      const float d = HalfToFloat(ReadU16(in + 512 + 2 * lane));
      for (int k = 0; k < kBlock; ++k) {
        out[k] = static_cast<float>(in[ByteOfQuant(k, lane)] - 128) * d;
      }
      return;
    }
    case WeightType::kQ4_0:
    case WeightType::kQ4_1: {
      const float d = HalfToFloat(ReadU16(in + 256 + 2 * lane));
      const bool has_minimum = type == WeightType::kQ4_1;
      const float m = has_minimum ? HalfToFloat(ReadU16(in + 288 + 2 * lane)) : 0.0f;
      for (int k = 0; k < kBlock; ++k) {
        const int q = in[ByteOfNibble(k, lane)] >> (k / 4 % 2 * 4) & 15;
        out[k] = has_minimum ? static_cast<float>(q) * d + m : static_cast<float>(q - 8) * d;
      }
      return;
    }
    default:
      return;
  }
}

}  // namespace

const char* WeightTypeName(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return "F32";
    case WeightType::kF16:
      return "F16";
    case WeightType::kBF16:
      return "BF16";
    case WeightType::kQ8_0:
      return "Q8_0";
    case WeightType::kQ4_0:
      return "Q4_0";
    case WeightType::kQ4_1:
      return "Q4_1";
    case WeightType::kQ5_0:
      return "Q5_0";
    case WeightType::kQ5_1:
      return "Q5_1";
    case WeightType::kIQ4_NL:
      return "IQ4_NL";
    case WeightType::kQ3_K:
      return "Q3_K";
    case WeightType::kQ4_K:
      return "Q4_K";
    case WeightType::kQ5_K:
      return "Q5_K";
    case WeightType::kQ6_K:
      return "Q6_K";
    case WeightType::kIQ4_XS:
      return "IQ4_XS";
    case WeightType::kGptq4:
      return "GPTQ4";
    case WeightType::kGptq8:
      return "GPTQ8";
    case WeightType::kAwq4:
      return "AWQ4";
    case WeightType::kPacked4:
      return "W4A16";
    case WeightType::kPacked8:
      return "W8A16";
    case WeightType::kInt8Channel:
      return "W8A8";
  }
  return "?";
}

bool IsGrouped(WeightType type) {
  return type >= WeightType::kGptq4;
}

int BlockValues(WeightType type) {
  if (type <= WeightType::kBF16 || IsGrouped(type)) return 1;
  return type >= WeightType::kQ3_K ? 256 : 32;
}

int BlockBytes(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return 4;
    case WeightType::kF16:
    case WeightType::kBF16:
      return 2;
    case WeightType::kQ8_0:
      return 34;
    case WeightType::kQ4_0:
      return 18;
    case WeightType::kQ4_1:
      return 20;
    case WeightType::kQ5_0:
      return 22;
    case WeightType::kQ5_1:
      return 24;
    case WeightType::kIQ4_NL:
      return 18;
    case WeightType::kQ3_K:
      return 110;
    case WeightType::kQ4_K:
      return 144;
    case WeightType::kQ5_K:
      return 176;
    case WeightType::kQ6_K:
      return 210;
    case WeightType::kIQ4_XS:
      return 136;
    default:
      return 0;
  }
}

absl::Status CheckRaw(const RawMatrix& raw) {
  const int values = BlockValues(raw.type);
  if (raw.rows <= 0 || raw.cols <= 0 || raw.rows > kMaxExtent || raw.cols > kMaxExtent ||
      raw.cols % values != 0 || raw.data == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "no ", WeightTypeName(raw.type), " matrix has shape [", raw.rows, ", ", raw.cols, "]"));
  }
  size_t want = 0;
  const size_t row_bytes =
      static_cast<size_t>(raw.cols / values) * static_cast<size_t>(BlockBytes(raw.type));
  if (__builtin_mul_overflow(row_bytes, static_cast<size_t>(raw.rows), &want) ||
      want != raw.bytes) {
    return absl::InvalidArgumentError(absl::StrCat("a ", WeightTypeName(raw.type), " matrix [",
                                                   raw.rows, ", ", raw.cols, "] takes ", want,
                                                   " bytes, not ", raw.bytes));
  }
  return absl::OkStatus();
}

void DequantizeRawRow(const RawMatrix& raw, int64_t row, float* out) {
  const int values = BlockValues(raw.type), block_bytes = BlockBytes(raw.type);
  const auto* in = static_cast<const uint8_t*>(raw.data) + row * (raw.cols / values) * block_bytes;
  for (int64_t k = 0; k < raw.cols; k += values, in += block_bytes) {
    switch (raw.type) {
      case WeightType::kF32:
        std::memcpy(out + k, in, 4);
        break;
      case WeightType::kF16:
        out[k] = HalfToFloat(ReadU16(in));
        break;
      case WeightType::kBF16:
        out[k] = BFloatToFloat(ReadU16(in));
        break;
      case WeightType::kQ8_0:
        for (int i = 0; i < kBlock; ++i) {
          out[k + i] =
              static_cast<float>(static_cast<int8_t>(in[2 + i])) * HalfToFloat(ReadU16(in));
        }
        break;
      case WeightType::kQ4_0:
        for (int i = 0; i < kBlock; ++i) {
          out[k + i] = static_cast<float>(FileNibble(in + 2, i) - 8) * HalfToFloat(ReadU16(in));
        }
        break;
      case WeightType::kQ4_1:
        for (int i = 0; i < kBlock; ++i) {
          const float product =
              static_cast<float>(FileNibble(in + 4, i)) * HalfToFloat(ReadU16(in));
          out[k + i] = product + HalfToFloat(ReadU16(in + 2));
        }
        break;
      default:
        break;
    }
  }
}

PackedMatrix::PackedMatrix() : payload_(std::make_unique<Payload>()) {}
PackedMatrix::~PackedMatrix() = default;
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;

WeightType PackedMatrix::type() const {
  return payload_->type;
}
int64_t PackedMatrix::rows() const {
  return payload_->rows;
}
int64_t PackedMatrix::cols() const {
  return payload_->cols;
}
size_t PackedMatrix::bytes() const {
  return payload_->bytes;
}

size_t PackedMatrix::PackedBytes(WeightType type, int64_t rows, int64_t cols) {
  return static_cast<size_t>((rows + kStripRows - 1) / kStripRows) * StripBytes(type, cols);
}

size_t PackedMatrix::PackedBytes(const RawMatrix& raw) {
  return PackedBytes(raw.type, raw.rows, raw.cols);
}

absl::StatusOr<PackedMatrix> PackedMatrix::Pack(const RawMatrix& raw, Stream& stream) {
  if (raw.type > WeightType::kQ4_1) return absl::UnimplementedError(WeightTypeName(raw.type));
  if (absl::Status status = CheckRaw(raw); !status.ok()) return status;
  PackedMatrix matrix;
  Payload& p = *matrix.payload_;
  p.type = raw.type;
  p.rows = raw.rows;
  p.cols = raw.cols;
  p.strip_bytes = StripBytes(raw.type, raw.cols);
  p.bytes = PackedBytes(raw.type, raw.rows, raw.cols);
  // Big matrices start at a huge page: weights are streamed, and 4 KiB pages cost a TLB walk each.
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t align = p.bytes >= kHugePage ? kHugePage : 64;
  const size_t padded = (p.bytes + align - 1) / align * align;
  p.data.reset(static_cast<std::byte*>(std::aligned_alloc(align, padded)));
  if (p.data == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for ", padded, " bytes of weights"));
  }
  if (align == kHugePage) madvise(p.data.get(), padded, MADV_HUGEPAGE);

  const size_t strips = p.bytes / p.strip_bytes;
  const size_t grain = std::max<size_t>(1, (size_t{256} << 10) / p.strip_bytes);
  stream.pool().ParallelFor(strips, grain, [&](size_t begin, size_t end, int) {
    for (size_t s = begin; s < end; ++s) PackStrip(raw, static_cast<int64_t>(s), p);
  });
  return matrix;
}

void PackStrip(const RawMatrix& raw, int64_t strip, PackedMatrix::Payload& p) {
  auto* out = reinterpret_cast<uint8_t*>(p.data.get()) + static_cast<size_t>(strip) * p.strip_bytes;
  std::memset(out, 0, p.strip_bytes);
  const int64_t blocks = raw.cols / BlockValues(raw.type);
  const int block_bytes = BlockBytes(raw.type);
  const int64_t row = strip * kStripRows;
  const int lanes = static_cast<int>(std::min<int64_t>(kStripRows, raw.rows - row));
  for (int lane = 0; lane < lanes; ++lane) {
    const auto* in = static_cast<const uint8_t*>(raw.data) + (row + lane) * blocks * block_bytes;
    for (int64_t b = 0; b < blocks; ++b) {
      PackBlock(raw.type, in + b * block_bytes, lane,
                out + static_cast<size_t>(b) * StripBlockBytes(raw.type));
    }
  }
}

void PackedMatrix::UnpackRow(int64_t row, float* out) const {
  const Payload& p = *payload_;
  const auto* in = reinterpret_cast<const uint8_t*>(p.data.get()) +
                   static_cast<size_t>(row / kStripRows) * p.strip_bytes;
  const int values = BlockValues(p.type);
  for (int64_t k = 0; k < p.cols; k += values, in += StripBlockBytes(p.type)) {
    UnpackBlock(p.type, in, static_cast<int>(row % kStripRows), out + k);
  }
}

}  // namespace millrace::kernels
