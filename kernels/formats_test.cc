// The formats against values that were not computed here: goldens of the `gguf` package and of an
// independent unpacker (tests/golden/kernels/make_formats_golden.py).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <sstream>

#include "kernels/ops.h"
#include "kernels/test_formats.h"
#include "kernels/weights.h"

namespace millrace::kernels {
namespace {

using testing::Format;
using testing::kAllFormats;
using testing::MakeMatrix;
using testing::RandomMatrix;
using testing::Workers;

std::vector<uint8_t> FromHex(const std::string& text) {
  std::vector<uint8_t> out;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    out.push_back(static_cast<uint8_t>(std::stoul(text.substr(i, 2), nullptr, 16)));
  }
  return out;
}

std::vector<float> FloatsFromHex(const std::string& text) {
  std::vector<float> out;
  for (size_t i = 0; i + 7 < text.size(); i += 8) {
    const auto bits = static_cast<uint32_t>(std::stoul(text.substr(i, 8), nullptr, 16));
    float value;
    std::memcpy(&value, &bits, 4);
    out.push_back(value);
  }
  return out;
}

WeightType TypeOf(const std::string& name) {
  for (const Format& format : kAllFormats) {
    if (name == WeightTypeName(format.type)) return format.type;
  }
  ADD_FAILURE() << name;
  return WeightType::kF32;
}

// Equal bits, or NaN both: which NaN an operation on two of them yields is the compiler's choice.
void ExpectSame(const std::vector<float>& got, const float* want, const std::string& what) {
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(got[i]) && std::isnan(want[i])) continue;
    ASSERT_EQ(0, std::memcmp(&got[i], &want[i], 4))
        << what << " value " << i << ": " << got[i] << ", not " << want[i];
  }
}

// Raw and packed rows against the golden's.
void ExpectValues(const RawMatrix& raw, const std::vector<float>& want, const std::string& what) {
  ASSERT_EQ(want.size(), static_cast<size_t>(raw.rows * raw.cols)) << what;
  ThreadPool pool(Workers(1));
  Stream stream(pool, ComputeMode::kExact);
  auto packed = PackedMatrix::Pack(raw, stream);
  ASSERT_TRUE(packed.ok()) << what << packed.status();
  EXPECT_EQ(packed->bytes(), PackedMatrix::PackedBytes(raw));
  std::vector<float> row(static_cast<size_t>(raw.cols));
  for (int64_t r = 0; r < raw.rows; ++r) {
    const float* expected = want.data() + r * raw.cols;
    DequantizeRawRow(raw, r, row.data());
    ExpectSame(row, expected, what + " from the file, row " + std::to_string(r));
    packed->UnpackRow(r, row.data());
    ExpectSame(row, expected, what + " packed, row " + std::to_string(r));
  }
}

TEST(FormatGoldens, GgufTypes) {
  std::ifstream file("tests/golden/kernels/formats_gguf.txt");
  std::string line;
  int lines = 0;
  for (; std::getline(file, line); ++lines) {
    std::istringstream in(line);
    std::string name, bytes, values;
    RawMatrix raw;
    in >> name >> raw.rows >> raw.cols >> bytes >> values;
    raw.type = TypeOf(name);
    const std::vector<uint8_t> data = FromHex(bytes);
    raw.data = data.data();
    raw.bytes = data.size();
    ExpectValues(raw, FloatsFromHex(values), name);
  }
  EXPECT_EQ(lines, 11);
}

// A line of formats_grouped.txt.
struct Grouped {
  std::map<std::string, std::string> fields;
  std::vector<uint8_t> data, scales, zeros, g_idx;
  RawGroups groups;
  RawMatrix raw;
  std::vector<float> values;
};

void Parse(const std::string& line, Grouped& g) {
  std::istringstream in(line);
  std::string field;
  while (in >> field)
    g.fields[field.substr(0, field.find('='))] = field.substr(field.find('=') + 1);
  g.data = FromHex(g.fields["data"]);
  g.scales = FromHex(g.fields["scales"]);
  g.zeros = FromHex(g.fields["zeros"]);
  g.g_idx = FromHex(g.fields["g_idx"]);
  g.values = FloatsFromHex(g.fields["values"]);
  auto number = [&](const char* key) { return std::stol(g.fields[key]); };
  g.groups.scales = g.scales.data();
  g.groups.scale_bytes = g.scales.size();
  g.groups.scale_type = TypeOf(g.fields["scale"]);
  g.groups.zeros = g.zeros.empty() ? nullptr : g.zeros.data();
  g.groups.zero_bytes = g.zeros.size();
  g.groups.g_idx = g.g_idx.empty() ? nullptr : g.g_idx.data();
  g.groups.g_idx_bytes = g.g_idx.size();
  g.groups.group_size = number("group_size");
  g.groups.symmetric = number("symmetric") != 0;
  g.groups.zero_offset = static_cast<int>(number("zero_offset"));
  g.raw = {TypeOf(g.fields["type"]),
           number("rows"),
           number("cols"),
           g.data.data(),
           g.data.size(),
           &g.groups};
}

TEST(FormatGoldens, GroupedTypes) {
  std::ifstream file("tests/golden/kernels/formats_grouped.txt");
  std::string line;
  int lines = 0;
  for (; std::getline(file, line); ++lines) {
    Grouped g;
    Parse(line, g);
    const std::string what = "line " + std::to_string(lines + 1) + " " + g.fields["type"];
    ExpectValues(g.raw, g.values, what);
    // A range of the rows of fused tensors gives the same rows.
    if (g.raw.rows <= 4) continue;
    RawGroups part_groups = g.groups;
    part_groups.file_rows = g.raw.rows;
    part_groups.first_row = 3;
    RawMatrix part = g.raw;
    part.groups = &part_groups;
    part.rows = g.raw.rows - 4;
    ExpectValues(
        part, {g.values.begin() + 3 * g.raw.cols, g.values.begin() + (g.raw.rows - 1) * g.raw.cols},
        what + " rows");
  }
  EXPECT_EQ(lines, 58);
}

// Where kernels merge scales (d * part, and the minimum beside it), what they multiply is the
// format's own value to the last bit: shown on products with one column at a time.
TEST(Formats, KernelsMultiplyTheFormatsValues) {
  ThreadPool pool(Workers(1));
  for (const Format& format : kAllFormats) {
    const int64_t cols = testing::RoundCols(format, 96);
    const RandomMatrix m = MakeMatrix(format, 16, cols, 5);
    Stream stream(pool, ComputeMode::kExact);
    auto packed = PackedMatrix::Pack(m.raw, stream);
    ASSERT_TRUE(packed.ok());
    std::vector<float> x(static_cast<size_t>(cols * cols)), y(static_cast<size_t>(16 * cols));
    for (int64_t k = 0; k < cols; ++k) x[static_cast<size_t>(k * cols + k)] = 1.0f;
    const PackedMatrix* weights[] = {&*packed};
    float* outputs[] = {y.data()};
    GemmArgs args;
    args.x = x.data();
    args.tokens = cols;
    args.weights = weights;
    args.outputs = outputs;
    ASSERT_TRUE(Gemm(args, stream).ok());
    std::vector<float> row(static_cast<size_t>(cols));
    for (int64_t r = 0; r < 16; ++r) {
      DequantizeRawRow(m.raw, r, row.data());
      for (int64_t k = 0; k < cols; ++k) {
        ASSERT_EQ(y[static_cast<size_t>(k * 16 + r)], row[static_cast<size_t>(k)])
            << format.name << " [" << r << ", " << k << "]";
      }
    }
  }
}

TEST(PackInt8, MovesAValueByHalfAStepAtMost) {
  ThreadPool pool(Workers(2));
  Stream stream(pool, ComputeMode::kExact);
  for (WeightType type : {WeightType::kF32, WeightType::kF16, WeightType::kBF16}) {
    RandomMatrix m = MakeMatrix(type, 37, 96, 5);
    std::memset(m.bytes.data(), 0, 32 * static_cast<size_t>(BlockBytes(type)));  // a group of zeros
    auto packed = PackedMatrix::PackInt8(m.raw, stream);
    ASSERT_TRUE(packed.ok()) << packed.status();
    EXPECT_EQ(packed->type(), WeightType::kQ8_0);
    EXPECT_EQ(packed->bytes(), PackedMatrix::PackedBytes(WeightType::kQ8_0, 37, 96));
    std::vector<float> want(96), got(96);
    for (int64_t r = 0; r < 37; ++r) {
      DequantizeRawRow(m.raw, r, want.data());
      packed->UnpackRow(r, got.data());
      for (size_t b = 0; b < 96; b += 32) {
        float largest = 0;
        for (size_t k = b; k < b + 32; ++k) largest = std::max(largest, std::abs(want[k]));
        // Half a step, which the scale's rounding widens by 2^-10 at most.
        for (size_t k = b; k < b + 32; ++k) {
          ASSERT_LE(std::abs(got[k] - want[k]), largest / 254 * (1 + 0x1p-10f)) << r << " " << k;
        }
      }
    }
  }
}

// Where the scale itself is subnormal it is too coarse to nearest: rounded down, it would cut off
// the largest values or all of them.
TEST(PackInt8, KeepsTinyGroups) {
  ThreadPool pool(Workers(1));
  Stream stream(pool, ComputeMode::kExact);
  for (float size : {1e-3f, 1e-4f, 1e-5f, 1e-6f}) {
    RandomMatrix m = MakeMatrix(WeightType::kF32, 16, 32, 5);
    std::vector<float> values(16 * 32), got(32);
    std::memcpy(values.data(), m.bytes.data(), m.bytes.size());
    for (float& v : values) v *= size / 0.1f;
    m.raw.data = values.data();
    auto packed = PackedMatrix::PackInt8(m.raw, stream);
    ASSERT_TRUE(packed.ok()) << packed.status();
    for (int64_t r = 0; r < 16; ++r) {
      packed->UnpackRow(r, got.data());
      const float* want = &values[static_cast<size_t>(32 * r)];
      float largest = 0;
      for (size_t k = 0; k < 32; ++k) largest = std::max(largest, std::abs(want[k]));
      // Half a step, which is at most a unit of 2^-24 wider than largest / 127.
      for (size_t k = 0; k < 32; ++k) {
        ASSERT_LE(std::abs(got[k] - want[k]), (largest / 127 + 0x1p-24f) / 2) << size << " " << k;
      }
    }
  }
}

TEST(PackInt8, RefusesWhatItCannotHold) {
  ThreadPool pool(Workers(1));
  Stream stream(pool, ComputeMode::kExact);
  const auto invalid = absl::StatusCode::kInvalidArgument;
  const RandomMatrix odd = MakeMatrix(WeightType::kF16, 5, 37, 3);
  const RandomMatrix quantized = MakeMatrix(WeightType::kQ8_0, 5, 32, 3);
  EXPECT_EQ(PackedMatrix::PackInt8(odd.raw, stream).status().code(), invalid);
  EXPECT_EQ(PackedMatrix::PackInt8(quantized.raw, stream).status().code(), invalid);
  for (float bad : {NAN, INFINITY, 1e7f}) {
    RandomMatrix m = MakeMatrix(WeightType::kF32, 40, 64, 3);
    std::memcpy(m.bytes.data() + 4 * 64 * 33, &bad, 4);
    EXPECT_EQ(PackedMatrix::PackInt8(m.raw, stream).status().code(), invalid) << bad;
  }
}

TEST(FloatToHalf, RoundsEveryHalfAndTheirMiddles) {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float here = HalfToFloat(half), next = HalfToFloat(static_cast<uint16_t>(half + 1));
    ASSERT_EQ(FloatToHalf(here), half);
    ASSERT_EQ(FloatToHalf(-here), half | 0x8000);
    const float middle = (here + next) / 2;  // a tie goes to the even one
    ASSERT_EQ(FloatToHalf(middle), half + half % 2) << bits;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 0.0f)), half) << bits;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 1e9f)), half + 1) << bits;
  }
}

TEST(CheckRaw, RefusesGroupsThatDisagree) {
  const Format format = {"", WeightType::kGptq4, 32, true, WeightType::kF16, true};
  auto message = [&](auto change) {
    RandomMatrix m = MakeMatrix(format, 16, 96, 3);
    RawGroups& g = *m.groups;
    std::vector<int32_t> order(96, 0);
    g.g_idx = order.data();
    change(m.raw, g, order);
    return std::string(CheckRaw(m.raw).message());
  };
  using Order = std::vector<int32_t>;
  using ::testing::HasSubstr;
  EXPECT_EQ(message([](RawMatrix&, RawGroups&, Order&) {}), "");
  EXPECT_THAT(message([](RawMatrix& r, RawGroups&, Order&) { r.groups = nullptr; }),
              HasSubstr("no scales"));
  EXPECT_THAT(message([](RawMatrix&, RawGroups& g, Order&) { g.scales = nullptr; }),
              HasSubstr("no scales"));
  EXPECT_THAT(message([](RawMatrix& r, RawGroups&, Order&) { r.bytes -= 1; }), HasSubstr("codes"));
  EXPECT_THAT(message([](RawMatrix&, RawGroups& g, Order&) { g.scale_bytes += 2; }),
              HasSubstr("scales"));
  EXPECT_THAT(message([](RawMatrix&, RawGroups& g, Order&) { g.zero_bytes -= 4; }),
              HasSubstr("zero points"));
  EXPECT_THAT(message([](RawMatrix&, RawGroups& g, Order&) { g.zero_offset = 2; }),
              HasSubstr("zero offset"));
  EXPECT_THAT(message([](RawMatrix&, RawGroups& g, Order&) { g.symmetric = true; }),
              HasSubstr("symmetric"));
  EXPECT_THAT(message([](RawMatrix&, RawGroups& g, Order&) { g.g_idx_bytes -= 4; }),
              HasSubstr("group indices"));
  EXPECT_THAT(message([](RawMatrix&, RawGroups&, Order& o) { o[95] = 3; }),
              HasSubstr("column 95 in group 3 of 3"));
  EXPECT_THAT(message([](RawMatrix&, RawGroups&, Order& o) { o[7] = -1; }), HasSubstr("column 7"));
  EXPECT_THAT(message([](RawMatrix&, RawGroups&, Order& o) { o[0] = INT32_MIN; }),
              HasSubstr("column 0"));
  EXPECT_THAT(message([](RawMatrix&, RawGroups& g, Order&) { g.group_size = 0; }),
              HasSubstr("groups of 0"));
  EXPECT_THAT(message([](RawMatrix&, RawGroups& g, Order&) { g.group_size = -2; }),
              HasSubstr("groups of -2"));
  EXPECT_THAT(message([](RawMatrix&, RawGroups& g, Order&) { g.first_row = 1; }),
              HasSubstr("starts at row 1 of 16"));
  EXPECT_THAT(message([](RawMatrix&, RawGroups& g, Order&) { g.first_row = -1; }),
              HasSubstr("starts at row -1"));
  EXPECT_THAT(message([](RawMatrix&, RawGroups& g, Order&) { g.file_rows = 15; }),
              HasSubstr("of 15"));
  EXPECT_THAT(message([](RawMatrix&, RawGroups& g, Order&) { g.file_rows = int64_t{1} << 60; }),
              HasSubstr("starts at row"));
  EXPECT_THAT(message([](RawMatrix&, RawGroups& g, Order&) { g.scale_type = WeightType::kQ4_0; }),
              HasSubstr("plain"));
  EXPECT_THAT(message([](RawMatrix& r, RawGroups&, Order&) { r.type = WeightType::kInt8Channel; }),
              HasSubstr("W8A8"));
}

}  // namespace
}  // namespace millrace::kernels
