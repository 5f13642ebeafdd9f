#include "kernels/ops.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/ref/ref.h"
#include "kernels/test_support.h"

namespace millrace::kernels {
namespace {

using testing::kAllTypes;
using testing::MakeMatrix;
using testing::Random;
using testing::RandomMatrix;
using testing::RunnableTiers;
using testing::Workers;

constexpr double kEps = 0x1p-24;  // half a unit in the last place of fp32

std::vector<float> RunGemm(const std::vector<const PackedMatrix*>& weights,
                           const std::vector<float>& x, int64_t tokens, Stream& stream,
                           std::vector<float> start = {}) {
  int64_t rows = 0;
  for (const PackedMatrix* w : weights) rows += w->rows();
  const bool accumulate = !start.empty();
  std::vector<float> out =
      accumulate ? std::move(start) : std::vector<float>(static_cast<size_t>(tokens * rows), NAN);
  std::vector<float*> outputs;
  float* p = out.data();
  for (const PackedMatrix* w : weights) {
    outputs.push_back(p);
    p += tokens * w->rows();
  }
  GemmArgs args;
  args.x = x.data();
  args.tokens = tokens;
  args.weights = weights;
  args.outputs = outputs;
  args.accumulate = accumulate;
  EXPECT_TRUE(Gemm(args, stream).ok());
  return out;
}

PackedMatrix Pack(const RandomMatrix& m, Stream& stream) {
  auto packed = PackedMatrix::Pack(m.raw, stream);
  EXPECT_TRUE(packed.ok()) << packed.status();
  return *std::move(packed);
}

struct Shape {
  int64_t rows, cols;
};
// 1, odd, tile +- 1 and the demo model's own (576 x 576, 192 x 576, 1536 x 576, 576 x 1536).
const Shape kShapes[] = {{1, 32},   {15, 32},  {16, 64},   {17, 96},   {31, 128},
                         {33, 160}, {48, 320}, {192, 576}, {576, 576}, {200, 1536}};
const int64_t kTokens[] = {1, 2, 3, 5, 6, 7, 13};

// fp32 over K products: each partial sum is off by at most eps of the magnitude, K + 2 times over.
double ExactTolerance(const ref::Values& want, size_t i, int64_t cols) {
  return static_cast<double>(cols + 2) * kEps * want.magnitude[i];
}

// In fast mode each activation moves by at most half a step, largest / 254, of its block: the
// result by that times the sum of the block's |w|. Rounding in fp32 comes on top, relative to the
// terms before they cancel (|q| d, at most 15 d and |m| instead of |w|), hence the wide factor.
std::vector<double> FastTolerance(const RawMatrix& raw, const std::vector<float>& x,
                                  int64_t tokens) {
  std::vector<double> out(static_cast<size_t>(tokens * raw.rows));
  std::vector<float> w(static_cast<size_t>(raw.cols));
  for (int64_t n = 0; n < raw.rows; ++n) {
    DequantizeRawRow(raw, n, w.data());
    for (int64_t t = 0; t < tokens; ++t) {
      double bound = 0;
      for (int64_t b = 0; b < raw.cols; b += 32) {
        double largest = 0, weights = 0, widest = 0;
        for (int64_t k = b; k < b + 32; ++k) {
          largest = std::max(
              largest, std::abs(static_cast<double>(x[static_cast<size_t>(t * raw.cols + k)])));
          weights += std::abs(w[static_cast<size_t>(k)]);
          widest = std::max(widest, std::abs(static_cast<double>(w[static_cast<size_t>(k)])));
        }
        bound += largest / 254 * weights * 1.0001;
        bound += largest * 32 * 32 * widest * static_cast<double>(raw.cols / 32 + 4) * kEps;
      }
      out[static_cast<size_t>(t * raw.rows + n)] = bound;
    }
  }
  return out;
}

class GemmTest : public ::testing::TestWithParam<WeightType> {};

TEST_P(GemmTest, AgreesWithTheSlowTwinInEveryTierAndMode) {
  ThreadPool pool(Workers(2));
  for (const Shape& shape : kShapes) {
    const RandomMatrix m = MakeMatrix(GetParam(), shape.rows, shape.cols, 7);
    for (int64_t tokens : kTokens) {
      Random random(static_cast<uint64_t>(tokens * 1000 + shape.cols));
      const std::vector<float> x = random.Floats(tokens * shape.cols, 2.0f);
      const ref::Values want = ref::Gemm(m.raw, x, tokens);
      const std::vector<double> fast_tolerance =
          BlockValues(GetParam()) == 32 ? FastTolerance(m.raw, x, tokens) : std::vector<double>();
      std::vector<float> first[2];
      for (IsaTier tier : RunnableTiers()) {
        for (ComputeMode mode : {ComputeMode::kExact, ComputeMode::kFast}) {
          Stream stream(pool, mode, tier);
          const PackedMatrix w = Pack(m, stream);
          const std::vector<float> got = RunGemm({&w}, x, tokens, stream);
          for (size_t i = 0; i < got.size(); ++i) {
            double tolerance = ExactTolerance(want, i, shape.cols);
            if (mode == ComputeMode::kFast && !fast_tolerance.empty())
              tolerance = fast_tolerance[i];
            ASSERT_NEAR(got[i], want.value[i], tolerance)
                << IsaTierName(tier) << " mode " << static_cast<int>(mode) << " [" << shape.rows
                << ", " << shape.cols << "] tokens " << tokens << " element " << i;
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
  const int64_t cols = 288, tokens = 150;
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
  const RandomMatrix m = MakeMatrix(GetParam(), 37, 64, 3);
  Random random(9);
  const std::vector<float> x = random.Floats(9 * 64), start = random.Floats(9 * 37);
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
  const RandomMatrix m = MakeMatrix(GetParam(), 20, 64, 3);
  ThreadPool pool(Workers(2));
  for (float poison : {NAN, INFINITY, -INFINITY}) {
    Random random(9);
    std::vector<float> x = random.Floats(5 * 64);
    x[2 * 64 + 40] = poison;
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

INSTANTIATE_TEST_SUITE_P(Types, GemmTest, ::testing::ValuesIn(kAllTypes),
                         [](const auto& each) { return WeightTypeName(each.param); });

}  // namespace
}  // namespace millrace::kernels
