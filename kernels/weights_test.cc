#include "kernels/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "kernels/ops.h"
#include "kernels/test_formats.h"

namespace millrace::kernels {
namespace {

using testing::Format;
using testing::kAllFormats;
using testing::kBlockTypes;
using testing::MakeMatrix;
using testing::RandomMatrix;
using testing::RoundCols;
using testing::RunnableTiers;
using testing::Workers;

std::vector<uint32_t> Bits(const std::vector<float>& values) {
  std::vector<uint32_t> bits(values.size());
  std::memcpy(bits.data(), values.data(), values.size() * sizeof(float));
  return bits;
}

std::vector<uint8_t> FromHex(const std::string& text) {
  std::vector<uint8_t> out;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    out.push_back(static_cast<uint8_t>(std::stoul(text.substr(i, 2), nullptr, 16)));
  }
  return out;
}

struct Golden {
  RawMatrix raw;
  std::vector<uint8_t> bytes;
  std::vector<uint32_t> want;
};

// Made by tests/golden/kernels/make_dequant_golden.py with the gguf package's dequantizers.
std::vector<Golden> ReadGoldens() {
  std::ifstream file("tests/golden/kernels/dequant.txt");
  std::vector<Golden> goldens;
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream in(line);
    std::string name, bytes, values;
    Golden g;
    in >> name >> g.raw.rows >> g.raw.cols >> bytes >> values;
    for (WeightType type : kBlockTypes) {
      if (name == WeightTypeName(type)) g.raw.type = type;
    }
    g.bytes = FromHex(bytes);
    for (size_t i = 0; i < values.size(); i += 8) {
      g.want.push_back(static_cast<uint32_t>(std::stoul(values.substr(i, 8), nullptr, 16)));
    }
    goldens.push_back(std::move(g));
    goldens.back().raw.data = goldens.back().bytes.data();
    goldens.back().raw.bytes = goldens.back().bytes.size();
  }
  return goldens;
}

TEST(Dequantize, GivesTheBitsOfTheReferencePackage) {
  const std::vector<Golden> goldens = ReadGoldens();
  ASSERT_EQ(goldens.size(), 6u);
  ThreadPool pool(Workers(1));
  Stream stream(pool, ComputeMode::kExact);
  for (const Golden& g : goldens) {
    RawMatrix raw = g.raw;
    raw.data = g.bytes.data();
    auto packed = PackedMatrix::Pack(raw, stream);
    ASSERT_TRUE(packed.ok()) << packed.status();
    std::vector<float> from_file, from_pack, row(static_cast<size_t>(raw.cols));
    for (int64_t r = 0; r < raw.rows; ++r) {
      DequantizeRawRow(raw, r, row.data());
      from_file.insert(from_file.end(), row.begin(), row.end());
      packed->UnpackRow(r, row.data());
      from_pack.insert(from_pack.end(), row.begin(), row.end());
    }
    EXPECT_EQ(Bits(from_file), g.want) << WeightTypeName(raw.type);
    EXPECT_EQ(Bits(from_pack), g.want) << WeightTypeName(raw.type);
  }
}

TEST(Pack, LosesNothing) {
  ThreadPool pool(Workers(3));
  Stream stream(pool, ComputeMode::kExact);
  for (const Format& format : kAllFormats) {
    for (int64_t rows : {1, 15, 16, 17, 100}) {
      for (int64_t want_cols : {32, 96, 576}) {
        const int64_t cols = RoundCols(format, want_cols);
        const RandomMatrix m = MakeMatrix(format, rows, cols, 3);
        auto packed = PackedMatrix::Pack(m.raw, stream);
        ASSERT_TRUE(packed.ok()) << packed.status();
        EXPECT_EQ(packed->rows(), rows);
        EXPECT_EQ(packed->cols(), cols);
        EXPECT_EQ(packed->type(), format.type);
        EXPECT_EQ(packed->bytes(), PackedMatrix::PackedBytes(m.raw));
        std::vector<float> want(static_cast<size_t>(cols)), got(want);
        for (int64_t r = 0; r < rows; ++r) {
          DequantizeRawRow(m.raw, r, want.data());
          packed->UnpackRow(r, got.data());
          ASSERT_EQ(Bits(got), Bits(want)) << format.name << " row " << r;
        }
      }
    }
  }
}

// What packing adds to the file's bytes, for whole strips and groups: widened 6-bit scales of the
// K-quants, the zero points of 4-bit groups as bytes.
TEST(Pack, TakesHardlyMoreThanTheFile) {
  ThreadPool pool(Workers(1));
  Stream stream(pool, ComputeMode::kExact);
  for (const Format& format : kAllFormats) {
    if (format.group_size > 0 && format.group_size % 32 != 0) continue;  // 16 take 32 columns
    const RandomMatrix m = MakeMatrix(format, 64, 1024, 3);
    const size_t file = m.raw.bytes + m.scales.size() + m.zeros.size();
    const size_t packed = PackedMatrix::PackedBytes(m.raw);
    EXPECT_GE(packed, file) << format.name;
    EXPECT_LE(static_cast<double>(packed), 1.04 * static_cast<double>(file)) << format.name;
    if (!IsGrouped(format.type) && BlockValues(format.type) <= 32) {
      EXPECT_EQ(packed, file);
    }
  }
}

TEST(Pack, TakesAnyColumnCountOfThePlainTypes) {
  ThreadPool pool(Workers(1));
  Stream stream(pool, ComputeMode::kExact);
  const RandomMatrix m = MakeMatrix(WeightType::kF16, 5, 37, 3);
  EXPECT_TRUE(PackedMatrix::Pack(m.raw, stream).ok());
}

TEST(Pack, RefusesShapesAndSizesThatDisagree) {
  ThreadPool pool(Workers(1));
  Stream stream(pool, ComputeMode::kExact);
  const RandomMatrix m = MakeMatrix(WeightType::kQ4_1, 16, 64, 3);
  auto code = [&](auto change) {
    RawMatrix raw = m.raw;
    change(raw);
    return PackedMatrix::Pack(raw, stream).status().code();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code([](RawMatrix&) {}), absl::StatusCode::kOk);
  EXPECT_EQ(code([](RawMatrix& r) { r.rows = 0; }), invalid);
  EXPECT_EQ(code([](RawMatrix& r) { r.rows = -16; }), invalid);
  EXPECT_EQ(code([](RawMatrix& r) { r.cols = 0; }), invalid);
  EXPECT_EQ(code([](RawMatrix& r) { r.cols = 48; }), invalid);
  EXPECT_EQ(code([](RawMatrix& r) { r.rows = 17; }), invalid);
  EXPECT_EQ(code([](RawMatrix& r) { r.bytes -= 1; }), invalid);
  EXPECT_EQ(code([](RawMatrix& r) { r.bytes += 20; }), invalid);
  EXPECT_EQ(code([](RawMatrix& r) { r.data = nullptr; }), invalid);
  EXPECT_EQ(code([](RawMatrix& r) { r.rows = int64_t{1} << 62; }), invalid);
  EXPECT_EQ(code([](RawMatrix& r) { r.cols = int64_t{1} << 62; }), invalid);
  EXPECT_EQ(code([](RawMatrix& r) { r.type = WeightType::kQ4_0; }), invalid);
}

TEST(Embed, GivesTheRowsOfTheTable) {
  ThreadPool pool(Workers(2));
  for (IsaTier tier : RunnableTiers()) {
    Stream stream(pool, ComputeMode::kFast, tier);
    for (const Format& format : kAllFormats) {
      const auto cols = static_cast<size_t>(RoundCols(format, 96));
      const RandomMatrix m = MakeMatrix(format, 50, static_cast<int64_t>(cols), 4);
      auto table = PackedMatrix::Pack(m.raw, stream);
      ASSERT_TRUE(table.ok());
      std::vector<int32_t> ids = {0, 49, 7, 7, 31};
      for (int32_t i = 0; i < 60; ++i) ids.push_back(i * 13 % 50);
      std::vector<float> out(ids.size() * cols), want(cols);
      ASSERT_TRUE(Embed({&*table, ids, out.data()}, stream).ok());
      for (size_t t = 0; t < ids.size(); ++t) {
        DequantizeRawRow(m.raw, ids[t], want.data());
        ASSERT_EQ(0, std::memcmp(want.data(), &out[t * cols], cols * sizeof(float)));
      }
      for (int32_t bad : {-1, 50, INT32_MAX, INT32_MIN}) {
        ids[3] = bad;
        EXPECT_EQ(Embed({&*table, ids, out.data()}, stream).code(),
                  absl::StatusCode::kInvalidArgument);
      }
    }
  }
}

// What a tier's table line must offer, whatever this machine runs.
TEST(Dispatch, ATierIsFoundByItsName) {
  std::string runnable = "auto";
  for (IsaTier tier : kAllTiers) {
    const auto found = FindIsaTier(IsaTierName(tier));
    ASSERT_EQ(found.ok(), RunsIsaTier(tier)) << IsaTierName(tier);
    if (!found.ok()) continue;
    EXPECT_EQ(*found, tier);
    runnable += std::string(" ") + IsaTierName(tier);
  }
  EXPECT_EQ(BatchInvariantTier(*FindIsaTier("auto")), DetectIsaTier());
  if (RunsIsaTier(IsaTier::kAmx)) runnable += " amx";
  for (const char* wrong : {"", "AVX2", "amx-fp16", "avx51"}) {
    const absl::Status status = FindIsaTier(wrong).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    const std::string message(status.message());
    EXPECT_NE(message.find("which runs: " + runnable), std::string::npos) << message;
  }
}

TEST(Dispatch, EveryFormatHasItsKernelInEveryTier) {
  for (IsaTier tier : kAllTiers) {
    for (int k = 0; k <= static_cast<int>(PayloadKind::kGroup8Zero); ++k) {
      const auto kind = static_cast<PayloadKind>(k);
      const bool blocks = !IsPlain(kind);
      const GemmChoice exact = ChooseGemm(kind, ComputeMode::kExact, tier);
      const GemmChoice fast = ChooseGemm(kind, ComputeMode::kFast, tier);
      EXPECT_NE(exact.function, nullptr);
      EXPECT_FALSE(exact.quantized);
      EXPECT_NE(fast.function, nullptr);
      EXPECT_EQ(fast.quantized, blocks);
      EXPECT_EQ(fast.function == exact.function, !blocks);
      for (IsaTier other : kAllTiers) {
        if (other == tier) continue;
        EXPECT_NE(ChooseGemm(kind, ComputeMode::kExact, other).function, exact.function);
        EXPECT_NE(ChooseGemm(kind, ComputeMode::kFast, other).function, fast.function);
      }
    }
    for (KvType type : {KvType::kF32, KvType::kBF16, KvType::kInt8}) {
      const AttentionChoice exact = ChooseAttention(type, ComputeMode::kExact, tier);
      const AttentionChoice fast = ChooseAttention(type, ComputeMode::kFast, tier);
      EXPECT_NE(exact.function, nullptr);
      EXPECT_NE(fast.function, nullptr);
      EXPECT_FALSE(exact.flush);
      EXPECT_EQ(fast.flush, type == KvType::kBF16);  // whose products are of bf16
      EXPECT_EQ(fast.function == exact.function, !fast.flush);
    }
  }
  EXPECT_NE(ChooseAttention(KvType::kF32, ComputeMode::kExact, IsaTier::kAvx2).function,
            ChooseAttention(KvType::kBF16, ComputeMode::kExact, IsaTier::kAvx2).function);
  EXPECT_STREQ(IsaTierName(DetectIsaTier()), IsaTierName(RunnableTiers().back()));
}

}  // namespace
}  // namespace millrace::kernels
