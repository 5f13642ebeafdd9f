#include "kernels/weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/cpu/kernels.h"
#include "kernels/payload.h"
#include "kernels/weights_pack.h"

namespace millrace::kernels {
namespace {

size_t Strips(int64_t rows) {
  return static_cast<size_t>((rows + kStripRows - 1) / kStripRows);
}

// All of a payload but its bytes; the file's group of each block (as in Columns) apart. REQUIRES: a
// checked matrix.
PackedMatrix::Payload DescribePayload(const RawMatrix& raw, std::vector<int32_t>& block_group) {
  PackedMatrix::Payload p;
  p.type = raw.type;
  p.kind = KindOf(raw);
  p.rows = raw.rows;
  p.cols = raw.cols;
  p.per_token = raw.type == WeightType::kInt8Channel;
  if (IsGrouped(raw.type)) p.scale_type = raw.groups->scale_type;
  if (IsPlain(p.kind)) {
    p.packed_cols = raw.cols;
    p.strip_bytes = static_cast<size_t>(raw.cols * kStripRows * BlockBytes(raw.type));
  } else {
    Columns columns = ArrangeColumns(raw);
    p.packed_cols = columns.packed;
    p.gather = std::move(columns.gather);
    block_group = std::move(columns.block_group);
    p.group = MakeLayout(p.kind, BlockBytes(p.scale_type), columns.blocks);
    p.strip_bytes = StripBytes(p.group, p.packed_cols);
  }
  p.bytes = Strips(p.rows) * p.strip_bytes;
  return p;
}

absl::Status Allocate(PackedMatrix::Payload& p) {
  using From = FreeBytes::From;
  const From from = p.bytes >= kWorthHugePages ? From::kHugePages : From::kHeap;
  void* data = nullptr;
  if (from == From::kHugePages) {
    data = AllocateOnHugePages(p.bytes);
  } else if (posix_memalign(&data, 64, p.bytes) != 0) {
    data = nullptr;
  }
  if (data == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for ", p.bytes, " bytes of weights"));
  }
  p.data = {static_cast<std::byte*>(data), FreeBytes{from}};
  return absl::OkStatus();
}

// Calls pack(strip, out) for every strip, on all workers.
template <class PackOne>
void ForStrips(PackedMatrix::Payload& p, Stream& stream, const PackOne& pack) {
  const size_t grain = std::max<size_t>(1, (size_t{256} << 10) / p.strip_bytes);
  stream.pool().ParallelFor(Strips(p.rows), grain, [&](size_t begin, size_t end, int) {
    for (size_t s = begin; s < end; ++s) {
      pack(static_cast<int64_t>(s), p.data.get() + s * p.strip_bytes);
    }
  });
}

// 127 times the largest fp16.
constexpr float kLargestInt8 = 127.0f * 65504.0f;

// One block of Q8_0: the scale is the smallest fp16 that reaches the largest value with 127 steps
// (to nearest it could fall short by 2^-12 of it), so that no value is cut off.
void QuantizeBlock(const float* x, uint8_t* out) {
  float largest = 0;
  for (int i = 0; i < kBlock; ++i) largest = std::max(largest, std::abs(x[i]));
  uint16_t half = FloatToHalf(largest / 127.0f);
  if (HalfToFloat(half) * 127.0f < largest) ++half;  // the next one up
  const float d = HalfToFloat(half);
  std::memcpy(out, &half, 2);
  for (int i = 0; i < kBlock; ++i) {
    const float q = d == 0 ? 0.0f : std::nearbyint(x[i] / d);
    out[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::clamp(q, -127.0f, 127.0f)));
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

PackedMatrix PackedMatrix::Describe(const RawMatrix& raw) {
  PackedMatrix matrix;
  std::vector<int32_t> block_group;
  *matrix.payload_ = DescribePayload(raw, block_group);
  return matrix;
}

absl::StatusOr<PackedMatrix> PackedMatrix::View(const RawMatrix& raw,
                                                std::span<const std::byte> strips) {
  PackedMatrix matrix = Describe(raw);
  Payload& p = *matrix.payload_;
  if (strips.size() != p.bytes || reinterpret_cast<uintptr_t>(strips.data()) % 64 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(strips.size(), " bytes of strips at ",
                                                   reinterpret_cast<uintptr_t>(strips.data()) % 64,
                                                   " beside a line; ", p.bytes, " are needed"));
  }
  // Kernels only read: the pointer loses its const and nothing else.
  p.data = {const_cast<std::byte*>(strips.data()), FreeBytes{FreeBytes::From::kElsewhere}};
  return matrix;
}

std::span<const std::byte> PackedMatrix::strips() const {
  if (payload_->data == nullptr) return {};
  return {payload_->data.get(), payload_->bytes};
}

size_t PackedMatrix::PackedBytes(const RawMatrix& raw) {
  return Describe(raw).bytes();
}

size_t PackedMatrix::PackedBytes(WeightType type, int64_t rows, int64_t cols) {
  CHECK(!IsGrouped(type));
  RawMatrix raw;
  raw.type = type;
  raw.rows = rows;
  raw.cols = cols;
  return PackedBytes(raw);
}

absl::StatusOr<PackedMatrix> PackedMatrix::Pack(const RawMatrix& raw, Stream& stream) {
  if (absl::Status status = CheckRaw(raw); !status.ok()) return status;
  PackedMatrix matrix;
  std::vector<int32_t> block_group;
  Payload& p = *matrix.payload_;
  p = DescribePayload(raw, block_group);
  if (absl::Status status = Allocate(p); !status.ok()) return status;
  ForStrips(p, stream, [&](int64_t strip, std::byte* out) {
    PackStrip(raw, block_group, strip * kStripRows, {&p, out});
  });
  return matrix;
}

absl::StatusOr<PackedMatrix> PackedMatrix::PackInt8(const RawMatrix& raw, Stream& stream) {
  if (absl::Status status = CheckRaw(raw); !status.ok()) return status;
  if (raw.type > WeightType::kBF16 || raw.cols % kBlock != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a ", WeightTypeName(raw.type), " matrix of ",
                                                   raw.cols,
                                                   " columns cannot be made int8 in groups of 32"));
  }
  RawMatrix quantized;
  quantized.type = WeightType::kQ8_0;
  quantized.rows = raw.rows;
  quantized.cols = raw.cols;
  PackedMatrix matrix;
  std::vector<int32_t> block_group;
  Payload& p = *matrix.payload_;
  p = DescribePayload(quantized, block_group);
  if (absl::Status status = Allocate(p); !status.ok()) return status;
  // A strip at a time passes through the file's form of Q8_0.
  std::atomic<bool> fits = true;
  ForStrips(p, stream, [&](int64_t strip, std::byte* out) {
    const int64_t row = strip * kStripRows, blocks = raw.cols / kBlock;
    RawMatrix part = quantized;
    part.rows = std::min<int64_t>(kStripRows, raw.rows - row);
    std::vector<uint8_t> bytes(
        static_cast<size_t>(part.rows * blocks * BlockBytes(WeightType::kQ8_0)));
    std::vector<float> values(static_cast<size_t>(raw.cols));
    uint8_t* block = bytes.data();
    for (int64_t r = 0; r < part.rows; ++r) {
      DequantizeRawRow(raw, row + r, values.data());
      for (float v : values) {
        if (!(std::abs(v) <= kLargestInt8)) fits = false;
      }
      if (!fits) return;
      for (int64_t b = 0; b < blocks; ++b, block += BlockBytes(WeightType::kQ8_0)) {
        QuantizeBlock(values.data() + b * kBlock, block);
      }
    }
    part.data = bytes.data();
    PackStrip(part, block_group, 0, {&p, out});
  });
  if (!fits) return absl::InvalidArgumentError("a value is too large for int8 in groups of 32");
  return matrix;
}

void PackedMatrix::UnpackRow(int64_t row, float* out) const {
  UnpackStripRow(*payload_, row, out);
}

}  // namespace millrace::kernels
