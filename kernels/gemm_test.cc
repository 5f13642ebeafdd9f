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

INSTANTIATE_TEST_SUITE_P(Types, GemmTest, ::testing::ValuesIn(kAllTypes),
                         [](const auto& each) { return WeightTypeName(each.param); });

}  // namespace
}  // namespace millrace::kernels
