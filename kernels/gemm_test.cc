#include "kernels/ops.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/payload.h"
#include "kernels/ref/ref.h"
#include "kernels/test_gemm.h"

namespace millrace::kernels {
namespace {

using testing::ExactTolerance;
using testing::FastTolerance;
using testing::Format;
using testing::kAllFormats;
using testing::kEps;
using testing::MakeMatrix;
using testing::Pack;
using testing::Random;
using testing::RandomMatrix;
using testing::RoundCols;
using testing::RunGemm;
using testing::RunnableTiers;
using testing::Workers;

struct Shape {
  int64_t rows, cols;
};
// 1, odd, tile +- 1 and the demo model's own columns (576, 1536); a last group part full (100).
const Shape kShapes[] = {{1, 32},   {15, 32},  {16, 64},  {17, 96},  {31, 128},
                         {33, 160}, {48, 320}, {18, 100}, {64, 576}, {40, 1536}};
const int64_t kTokens[] = {1, 2, 3, 5, 8, 17, 33};

class GemmTest : public ::testing::TestWithParam<Format> {};

TEST_P(GemmTest, AgreesWithTheSlowTwinInEveryTierAndMode) {
  ThreadPool pool(Workers(2));
  for (const Shape& shape : kShapes) {
    const int64_t cols = RoundCols(GetParam(), shape.cols);
    const RandomMatrix m = MakeMatrix(GetParam(), shape.rows, cols, 7);
    Stream packer(pool, ComputeMode::kFast);
    const PackedMatrix w = Pack(m, packer);
    for (int64_t tokens : kTokens) {
      Random random(static_cast<uint64_t>(tokens * 1000 + cols));
      const std::vector<float> x = random.Floats(tokens * cols, 2.0f);
      const ref::Values want = ref::Gemm(m.raw, x, tokens);
      const std::vector<double> fast_tolerance =
          IsPlain(w.payload().kind) ? std::vector<double>() : FastTolerance(m.raw, w, x, tokens);
      std::vector<float> first[2];
      for (IsaTier tier : RunnableTiers()) {
        for (ComputeMode mode : {ComputeMode::kExact, ComputeMode::kFast}) {
          Stream stream(pool, mode, tier);
          const std::vector<float> got = RunGemm({&w}, x, tokens, stream);
          for (size_t i = 0; i < got.size(); ++i) {
            double tolerance = ExactTolerance(want, i, cols);
            if (mode == ComputeMode::kFast && !fast_tolerance.empty())
              tolerance = fast_tolerance[i];
            ASSERT_NEAR(got[i], want.value[i], tolerance)
                << IsaTierName(tier) << " mode " << static_cast<int>(mode) << " [" << shape.rows
                << ", " << cols << "] tokens " << tokens << " element " << i;
          }
          // Tiers agree bit for bit, in both modes.
          std::vector<float>& yardstick = first[static_cast<int>(mode)];
          if (yardstick.empty()) yardstick = got;
          ASSERT_EQ(0, std::memcmp(got.data(), yardstick.data(), got.size() * sizeof(float)))
              << IsaTierName(tier) << " mode " << static_cast<int>(mode);
        }
      }
    }
  }
}

// Bytes equal in exact mode for any batch, split of the batch and number of workers, several
// matrices in a call included. The fast mode promises less but holds it too, which the speed work
// should keep.
TEST_P(GemmTest, BytesDoNotDependOnTheCompany) {
  const int64_t cols = RoundCols(GetParam(), 288), tokens = 100;
  const RandomMatrix m1 = MakeMatrix(GetParam(), 97, cols, 3),
                     m2 = MakeMatrix(GetParam(), 32, cols, 4);
  Random random(9);
  const std::vector<float> x = random.Floats(tokens * cols, 1.0f);
  for (ComputeMode mode : {ComputeMode::kExact, ComputeMode::kFast}) {
    std::vector<float> all1, all2;
    for (IsaTier tier : RunnableTiers()) {
      for (int workers : {1, 2, 3}) {
        ThreadPool pool(Workers(workers));
        Stream stream(pool, mode, tier);
        const PackedMatrix w1 = Pack(m1, stream), w2 = Pack(m2, stream);
        const std::vector<float> both = RunGemm({&w1, &w2}, x, tokens, stream);
        if (all1.empty()) {
          all1.assign(both.begin(), both.begin() + tokens * 97);
          all2.assign(both.begin() + tokens * 97, both.end());
        }
        ASSERT_EQ(0, std::memcmp(both.data(), all1.data(), all1.size() * 4));
        ASSERT_EQ(0, std::memcmp(both.data() + tokens * 97, all2.data(), all2.size() * 4));
        for (int64_t chunk : {1, 4, 64, 96}) {
          for (int64_t t = 0; t < tokens; t += chunk) {
            const int64_t count = std::min(chunk, tokens - t);
            const std::vector<float> part(x.begin() + t * cols, x.begin() + (t + count) * cols);
            const std::vector<float> got = RunGemm({&w2}, part, count, stream);
            ASSERT_EQ(0, std::memcmp(got.data(), all2.data() + t * 32, got.size() * 4))
                << IsaTierName(tier) << " workers " << workers << " chunk " << chunk << " at " << t;
          }
        }
      }
    }
  }
}

TEST_P(GemmTest, AccumulateAddsOnce) {
  const int64_t cols = RoundCols(GetParam(), 64);
  const RandomMatrix m = MakeMatrix(GetParam(), 37, cols, 3);
  Random random(9);
  const std::vector<float> x = random.Floats(9 * cols), start = random.Floats(9 * 37);
  ThreadPool pool(Workers(2));
  for (IsaTier tier : RunnableTiers()) {
    for (ComputeMode mode : {ComputeMode::kExact, ComputeMode::kFast}) {
      Stream stream(pool, mode, tier);
      const PackedMatrix w = Pack(m, stream);
      const std::vector<float> plain = RunGemm({&w}, x, 9, stream);
      const std::vector<float> sum = RunGemm({&w}, x, 9, stream, start);
      for (size_t i = 0; i < sum.size(); ++i) ASSERT_EQ(sum[i], start[i] + plain[i]) << i;
    }
  }
}

// A NaN or infinity in one token's activations ruins that token and no other.
TEST_P(GemmTest, NanStaysInItsRow) {
  const int64_t cols = RoundCols(GetParam(), 64);
  const RandomMatrix m = MakeMatrix(GetParam(), 20, cols, 3);
  ThreadPool pool(Workers(2));
  for (float poison : {NAN, INFINITY, -INFINITY}) {
    Random random(9);
    std::vector<float> x = random.Floats(5 * cols);
    x[static_cast<size_t>(2 * cols + 40)] = poison;
    for (IsaTier tier : RunnableTiers()) {
      for (ComputeMode mode : {ComputeMode::kExact, ComputeMode::kFast}) {
        Stream stream(pool, mode, tier);
        const PackedMatrix w = Pack(m, stream);
        const std::vector<float> got = RunGemm({&w}, x, 5, stream);
        for (size_t i = 0; i < got.size(); ++i) {
          ASSERT_EQ(std::isfinite(got[i]), i / 20 != 2) << IsaTierName(tier) << " element " << i;
        }
      }
    }
  }
}

TEST(GemmArguments, BadOnesAreRefused) {
  ThreadPool pool(Workers(1));
  Stream stream(pool, ComputeMode::kFast);
  const PackedMatrix w = Pack(MakeMatrix(WeightType::kQ4_1, 16, 64, 3), stream);
  const PackedMatrix other = Pack(MakeMatrix(WeightType::kQ4_1, 16, 96, 3), stream);
  const PackedMatrix empty;
  std::vector<float> x(64), y(16);
  auto code = [&](std::vector<const PackedMatrix*> weights, std::vector<float*> outputs,
                  const float* in, int64_t tokens) {
    GemmArgs args;
    args.x = in;
    args.tokens = tokens;
    args.weights = weights;
    args.outputs = outputs;
    return Gemm(args, stream).code();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({&w}, {y.data()}, x.data(), 1), absl::StatusCode::kOk);
  EXPECT_EQ(code({&w}, {nullptr}, nullptr, 0), absl::StatusCode::kOk);
  EXPECT_EQ(code({}, {}, x.data(), 1), invalid);
  EXPECT_EQ(code({&w}, {}, x.data(), 1), invalid);
  EXPECT_EQ(code({&w}, {nullptr}, x.data(), 1), invalid);
  EXPECT_EQ(code({nullptr}, {y.data()}, x.data(), 1), invalid);
  EXPECT_EQ(code({&empty}, {y.data()}, x.data(), 1), invalid);
  EXPECT_EQ(code({&w}, {y.data()}, nullptr, 1), invalid);
  EXPECT_EQ(code({&w}, {y.data()}, x.data(), -1), invalid);
  EXPECT_EQ(code({&w, &other}, {y.data(), y.data()}, x.data(), 1), invalid);
  EXPECT_EQ(code({&w, &w, &w, &w, &w}, std::vector<float*>(5, y.data()), x.data(), 1), invalid);
}

// W8A8 means one scale a token: the fast product is that of the integers so made, which differs
// from what the usual scales of 32 values give.
TEST(Gemm, Int8ChannelQuantizesATokenAtOnce) {
  const int64_t rows = 19, cols = 128, tokens = 3;
  const Format format = {"", WeightType::kInt8Channel, -1, false, WeightType::kF32};
  const RandomMatrix m = MakeMatrix(format, rows, cols, 5);
  Random random(9);
  std::vector<float> x = random.Floats(tokens * cols);
  for (size_t i = 0; i < x.size(); i += 32) x[i] *= static_cast<float>(1 + i % 128);
  ThreadPool pool(Workers(1));
  std::vector<float> scales(static_cast<size_t>(rows));
  std::memcpy(scales.data(), m.scales.data(), m.scales.size());
  for (IsaTier tier : RunnableTiers()) {
    Stream stream(pool, ComputeMode::kFast, tier);
    const PackedMatrix w = Pack(m, stream);
    const std::vector<float> got = RunGemm({&w}, x, tokens, stream);
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = &x[static_cast<size_t>(t * cols)];
      float largest = 0;
      for (int64_t k = 0; k < cols; ++k) largest = std::max(largest, std::abs(row[k]));
      for (int64_t n = 0; n < rows; ++n) {
        int64_t sum = 0, magnitude = 0;
        for (int64_t k = 0; k < cols; ++k) {
          const auto q = static_cast<int64_t>(std::nearbyint(row[k] * (127.0f / largest)));
          const int64_t product =
              q * static_cast<int8_t>(m.bytes[static_cast<size_t>(n * cols + k)]);
          sum += product;
          magnitude += std::abs(product);
        }
        const double unit = static_cast<double>(scales[static_cast<size_t>(n)]) * largest / 127;
        ASSERT_NEAR(got[static_cast<size_t>(t * rows + n)], static_cast<double>(sum) * unit,
                    static_cast<double>(magnitude) * std::abs(unit) * 16 * kEps)
            << IsaTierName(tier) << " token " << t << " row " << n;
      }
    }
  }
}

// The largest codes there are times the largest activations: sums of pairs in 16 bits, which tiers
// without a dot of four make, still hold them.
TEST(Gemm, LargestCodesFitSumsOfPairs) {
  struct Codes {
    WeightType type;
    size_t begin, end, block;  // bytes
  };
  // Q4_0, Q5_0 (with fifth bits), Q3_K (third bits, pairs), Q6_K (nibbles, pairs): codes alone.
  constexpr Codes kCodes[] = {{WeightType::kQ4_0, 2, 18, 18},
                              {WeightType::kQ5_0, 2, 22, 22},
                              {WeightType::kQ3_K, 0, 96, 110},
                              {WeightType::kQ6_K, 0, 192, 210}};
  const int64_t rows = 48, cols = 512, tokens = 7;
  ThreadPool pool(Workers(1));
  for (const Codes& codes : kCodes) {
    RandomMatrix m = MakeMatrix(codes.type, rows, cols, 5);
    for (size_t i = 0; i < m.bytes.size(); ++i) {
      if (i % codes.block >= codes.begin && i % codes.block < codes.end) m.bytes[i] = 0xff;
    }
    for (float value : {1.0f, -1.0f}) {
      const std::vector<float> x(static_cast<size_t>(tokens * cols), value);
      Stream plain(pool, ComputeMode::kFast, IsaTier::kScalar);
      const PackedMatrix packed = Pack(m, plain);
      const std::vector<float> want = RunGemm({&packed}, x, tokens, plain);
      for (IsaTier tier : RunnableTiers()) {
        Stream stream(pool, ComputeMode::kFast, tier);
        const PackedMatrix w = Pack(m, stream);
        ASSERT_EQ(RunGemm({&w}, x, tokens, stream), want)
            << static_cast<int>(codes.type) << " " << IsaTierName(tier);
      }
    }
  }
}

// Matrices of one call that read the same activations in different ways.
// On tiles too, beside F32, which is not.
TEST(Gemm, MixesFormatsInOneCall) {
  const int64_t cols = 256, tokens = 37;
  Random random(9);
  const std::vector<float> x = random.Floats(tokens * cols);
  ThreadPool pool(Workers(2));
  auto format = [](std::string_view name) {
    for (const Format& f : kAllFormats) {
      if (name == f.name) return f;
    }
    ADD_FAILURE() << name;
    return kAllFormats[0];
  };
  const char* const calls[][4] = {{"Gptq4Order", "Gptq8Order", "Q6_K", "F16"},
                                  {"Int8Channel", "Q4_K", "Gptq4Order", "Int8Channel"},
                                  {"Gptq4Narrow", "Gptq4Order", "Packed8Order", "Q3_K"},
                                  {"F32", "Int8Channel", "BF16", "Gptq4Order"},
                                  {"Q6_K", "Q4_K", "Q3_K", "Q4_0"}};
  const StreamShape shapes[] = {{ComputeMode::kExact, DetectIsaTier()},
                                {ComputeMode::kFast, DetectIsaTier()},
                                {ComputeMode::kFast, IsaTier::kAmxEmulated}};
  for (const StreamShape& shape : shapes) {
    for (const auto& call : calls) {
      Stream stream(pool, shape.mode, shape.tier);
      std::vector<PackedMatrix> packed;
      for (const char* name : call) {
        packed.push_back(Pack(MakeMatrix(format(name), 33, cols, packed.size() % 3), stream));
      }
      const std::vector<float> together =
          RunGemm({&packed[0], &packed[1], &packed[2], &packed[3]}, x, tokens, stream);
      for (size_t i = 0; i < 4; ++i) {
        const std::vector<float> alone = RunGemm({&packed[i]}, x, tokens, stream);
        EXPECT_EQ(0, std::memcmp(&together[i * alone.size()], alone.data(), alone.size() * 4))
            << call[i];
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, GemmTest, ::testing::ValuesIn(kAllFormats),
                         [](const auto& each) { return std::string(each.param.name); });

// Counted from shapes alone; several matrices share what they can.
TEST(GemmScratch, IsWhatGemmTakes) {
  ThreadPool pool(Workers(3));
  for (const Format& format : kAllFormats) {
    const int64_t cols = RoundCols(format, 320);
    const RandomMatrix a = MakeMatrix(format, 48, cols, 1), b = MakeMatrix(format, 33, cols, 2);
    const PackedMatrix shape_a = PackedMatrix::Describe(a.raw);
    const PackedMatrix shape_b = PackedMatrix::Describe(b.raw);
    EXPECT_EQ(shape_a.bytes(), PackedMatrix::PackedBytes(a.raw));
    const StreamShape streams[] = {{ComputeMode::kExact, DetectIsaTier()},
                                   {ComputeMode::kFast, DetectIsaTier()},
                                   {ComputeMode::kFast, IsaTier::kAmxEmulated}};
    for (const StreamShape& shape : streams) {
      for (int64_t tokens : {1, 7, 64}) {
        Stream stream(pool, shape.mode, shape.tier);
        const PackedMatrix packed_a = Pack(a, stream), packed_b = Pack(b, stream);
        const std::vector<float> x(static_cast<size_t>(tokens * cols), 1.0f);
        RunGemm({&packed_a, &packed_b}, x, tokens, stream);
        const PackedMatrix* const shapes[] = {&shape_a, &shape_b};
        EXPECT_EQ(stream.scratch_bytes(), GemmScratchBytes(shapes, tokens, stream.shape()))
            << format.name;
      }
    }
  }
}

}  // namespace
}  // namespace millrace::kernels
