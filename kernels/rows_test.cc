#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/ops.h"
#include "kernels/ref/ref.h"
#include "kernels/test_support.h"

namespace millrace::kernels {
namespace {

using testing::Random;
using testing::RunnableTiers;
using testing::Workers;

constexpr double kEps = 0x1p-24;  // half a unit in the last place of fp32

// Fails unless |got - want| <= factor * eps * magnitude everywhere, and gives back whether `got`
// is, byte for byte, what the first tier had.
void ExpectNear(const std::vector<float>& got, const ref::Values& want, double factor,
                const std::string& what) {
  ASSERT_EQ(got.size(), want.value.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], want.value[i], factor * kEps * want.magnitude[i])
        << what << " element " << i;
  }
}

const int64_t kDims[] = {1, 3, 15, 16, 17, 31, 33, 576, 1536};

TEST(RmsNorm, AgreesWithTheSlowTwinInEveryTier) {
  ThreadPool pool(Workers(2));
  for (int64_t dim : kDims) {
    for (int64_t tokens : {1, 3, 70}) {
      Random random(static_cast<uint64_t>(dim + tokens));
      const std::vector<float> x = random.Floats(tokens * dim, 3.0f), weight = random.Floats(dim);
      RmsNormArgs args;
      args.x = x.data();
      args.weight = weight.data();
      args.tokens = tokens;
      args.dim = dim;
      args.eps = 1e-5f;
      const ref::Values want = ref::RmsNorm(args);
      const std::vector<float> before = random.Floats(tokens * dim, 2.0f);
      std::vector<float> first;
      for (IsaTier tier : RunnableTiers()) {
        Stream stream(pool, ComputeMode::kExact, tier);
        std::vector<float> out(x.size());
        args.out = out.data();
        ASSERT_TRUE(RmsNorm(args, stream).ok());
        // A chain of dim / 16 squares, all positive, halved by the root; then some single
        // roundings.
        ExpectNear(out, want, static_cast<double>(dim) / 32 + 10, IsaTierName(tier));
        if (first.empty()) first = out;
        EXPECT_EQ(0, std::memcmp(first.data(), out.data(), out.size() * 4)) << IsaTierName(tier);
        std::vector<float> in_place = x;
        args.out = in_place.data();
        RmsNormArgs same = args;
        same.x = in_place.data();
        ASSERT_TRUE(RmsNorm(same, stream).ok());
        EXPECT_EQ(in_place, out);
        // As a residual: one rounding more, and the same sum in every tier.
        std::vector<float> sum = before;
        args.out = sum.data();
        args.accumulate = true;
        ASSERT_TRUE(RmsNorm(args, stream).ok());
        for (size_t i = 0; i < sum.size(); ++i) ASSERT_EQ(sum[i], before[i] + out[i]);
        args.accumulate = false;
      }
    }
  }
}

TEST(Glu, AgreesWithTheSlowTwinInEveryTier) {
  ThreadPool pool(Workers(2));
  for (int64_t dim : kDims) {
    Random random(static_cast<uint64_t>(dim));
    const int64_t tokens = 5;
    std::vector<float> gate = random.Floats(tokens * dim, 12.0f);
    const std::vector<float> up = random.Floats(tokens * dim);
    gate[0] = 0.0f;
    gate[gate.size() - 1] = -85.0f;  // the logistic is near the smallest normal number
    GluArgs args;
    args.gate = gate.data();
    args.up = up.data();
    args.tokens = tokens;
    args.dim = dim;
    const ref::Values want = ref::Glu(args);
    std::vector<float> first;
    for (IsaTier tier : RunnableTiers()) {
      Stream stream(pool, ComputeMode::kExact, tier);
      std::vector<float> out(gate.size());
      args.out = out.data();
      ASSERT_TRUE(Glu(args, stream).ok());
      // The exponential's 2 eps and one rounding each for the sum, the quotient and the product.
      ExpectNear(out, want, 6, IsaTierName(tier));
      if (first.empty()) first = out;
      EXPECT_EQ(0, std::memcmp(first.data(), out.data(), out.size() * 4)) << IsaTierName(tier);
    }
  }
}

TEST(Glu, GeluTanhAgreesWithTheSlowTwinInEveryTier) {
  ThreadPool pool(Workers(2));
  for (int64_t dim : kDims) {
    Random random(static_cast<uint64_t>(dim));
    std::vector<float> gate = random.Floats(5 * dim, 4.5f);
    const std::vector<float> up = random.Floats(5 * dim);
    gate[0] = 0.0f;
    gate[gate.size() - 1] = 90.0f;
    GluArgs args;
    args.gate = gate.data();
    args.up = up.data();
    args.tokens = 5;
    args.dim = dim;
    args.activation = Activation::kGeluTanh;
    std::vector<float> first;
    for (IsaTier tier : RunnableTiers()) {
      Stream stream(pool, ComputeMode::kExact, tier);
      std::vector<float> out(gate.size());
      args.out = out.data();
      ASSERT_TRUE(Glu(args, stream).ok());
      for (size_t i = 0; i < out.size(); ++i) {
        const double g = gate[i], u2 = 2 * std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g);
        const double want = g / (1 + std::exp(-u2)) * up[i];
        // The argument of e^-2u rounds four times, which moves the result by |2u| times as much;
        // the rest as for the other activation.
        const double moved = std::abs(u2) / (1 + std::exp(u2));
        ASSERT_NEAR(out[i], want, (4 * moved + 6) * kEps * std::abs(want) + 1e-44) << gate[i];
      }
      if (first.empty()) first = out;
      EXPECT_EQ(0, std::memcmp(first.data(), out.data(), out.size() * 4)) << IsaTierName(tier);
    }
    // The formula itself, as the twin writes it: there 1 + tanh cancels, even in double.
    const ref::Values twin = ref::Glu(args);
    for (size_t i = 0; i < first.size(); ++i) {
      ASSERT_NEAR(first[i], twin.value[i], 1e-5 * twin.magnitude[i] + 1e-14);
    }
  }
}

TEST(SoftCap, AgreesWithTanhInEveryTier) {
  ThreadPool pool(Workers(2));
  for (float cap : {1.0f, 30.0f, 50.0f}) {
    Random random(9);
    std::vector<float> x = random.Floats(10007, 4 * cap);
    x[0] = 0.0f;
    x[1] = 1e6f;
    x[2] = -1e6f;
    std::vector<float> first;
    for (IsaTier tier : RunnableTiers()) {
      Stream stream(pool, ComputeMode::kExact, tier);
      std::vector<float> out = x;
      ASSERT_TRUE(SoftCap({out.data(), static_cast<int64_t>(out.size()), cap}, stream).ok());
      for (size_t i = 0; i < x.size(); ++i) {
        const double limit = static_cast<double>(cap);
        // 2 / (e + 1) is at most 2 and rounds three times, e's own error included; then 1 - t and
        // the product.
        ASSERT_NEAR(out[i], limit * std::tanh(x[i] / limit), 8 * kEps * limit) << x[i];
      }
      if (first.empty()) first = out;
      EXPECT_EQ(0, std::memcmp(first.data(), out.data(), out.size() * 4)) << IsaTierName(tier);
      std::vector<float> nan = {NAN};
      ASSERT_TRUE(SoftCap({nan.data(), 1, cap}, stream).ok());
      EXPECT_TRUE(std::isnan(nan[0]));
    }
  }
}

TEST(AddBias, AddsToEveryRow) {
  ThreadPool pool(Workers(2));
  Stream stream(pool, ComputeMode::kExact);
  Random random(4);
  const std::vector<float> x = random.Floats(70 * 33), bias = random.Floats(33);
  std::vector<float> out = x;
  ASSERT_TRUE(AddBias({out.data(), bias.data(), 70, 33}, stream).ok());
  for (size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], x[i] + bias[i % 33]);
}

TEST(Embed, ScalesTheRows) {
  ThreadPool pool(Workers(2));
  Stream stream(pool, ComputeMode::kExact);
  const testing::RandomMatrix matrix = testing::MakeMatrix(WeightType::kQ8_0, 5, 64, 3);
  const auto table = PackedMatrix::Pack(matrix.raw, stream);
  ASSERT_TRUE(table.ok());
  const std::vector<int32_t> ids = {4, 0, 4};
  std::vector<float> plain(3 * 64), scaled(3 * 64);
  ASSERT_TRUE(Embed({&*table, ids, plain.data()}, stream).ok());
  ASSERT_TRUE(Embed({&*table, ids, scaled.data(), 1.75f}, stream).ok());
  for (size_t i = 0; i < plain.size(); ++i) ASSERT_EQ(scaled[i], plain[i] * 1.75f);
}

TEST(Exp, IsWithinOneUnitInTheLastPlaceAndTheSameInEveryTier) {
  std::vector<float> x;
  for (float v = -104.4f; v < 88.8f; v += 0.0131f) x.push_back(v);
  Random random(1);
  for (int i = 0; i < 20000; ++i) x.push_back(random.Uniform(-2.0f, 2.0f));
  std::vector<float> first;
  for (IsaTier tier : RunnableTiers()) {
    std::vector<float> y(x.size());
    ChooseRowKernels(tier).exp(x.data(), y.data(), static_cast<int64_t>(x.size()));
    for (size_t i = 0; i < x.size(); ++i) {
      const double want = std::exp(static_cast<double>(x[i]));
      if (want > 3.4028234e38) continue;  // may round to either side of infinity
      const double ulp = std::max(std::ldexp(1.0, std::ilogb(want) - 23), 0x1p-149);
      ASSERT_NEAR(y[i], want, ulp) << IsaTierName(tier) << " exp(" << x[i] << ")";
    }
    if (first.empty()) first = y;
    EXPECT_EQ(0, std::memcmp(first.data(), y.data(), y.size() * 4)) << IsaTierName(tier);

    const float special[] = {0.0f, -0.0f, -INFINITY, INFINITY, NAN, 100.0f, -110.0f};
    float out[7];
    ChooseRowKernels(tier).exp(special, out, 7);
    EXPECT_EQ(out[0], 1.0f);
    EXPECT_EQ(out[1], 1.0f);
    EXPECT_EQ(out[2], 0.0f);
    EXPECT_EQ(out[3], INFINITY);
    EXPECT_TRUE(std::isnan(out[4]));
    EXPECT_EQ(out[5], INFINITY);
    EXPECT_EQ(out[6], 0.0f);
  }
}

std::vector<float> Frequencies(int64_t pairs, float theta) {
  std::vector<float> f;
  for (int64_t i = 0; i < pairs; ++i) {
    f.push_back(1.0f / std::pow(theta, static_cast<float>(i) / static_cast<float>(pairs)));
  }
  return f;
}

TEST(Rope, AgreesWithTheSlowTwinInEveryTier) {
  ThreadPool pool(Workers(2));
  const std::vector<int32_t> positions = {0, 1, 2, 31, 100, 4095, 8191, 131071};
  for (bool interleaved : {false, true}) {
    for (int64_t head_dim : {2, 6, 64, 80}) {
      for (int64_t rotary : {head_dim, head_dim / 2 / 2 * 2}) {
        if (rotary < 2) continue;
        const std::vector<float> inv_freq = Frequencies(rotary / 2, 100000.0f);
        RopeArgs args;
        args.positions = positions;
        args.inv_freq = inv_freq;
        args.heads = 9;
        args.head_dim = head_dim;
        args.interleaved = interleaved;
        Random random(2);
        std::vector<float> x = random.Floats(static_cast<int64_t>(positions.size()) * 9 * head_dim);
        args.x = x.data();
        const ref::Values want = ref::Rope(args);
        std::vector<float> first;
        for (IsaTier tier : RunnableTiers()) {
          Stream stream(pool, ComputeMode::kExact, tier);
          std::vector<float> y = x;
          args.x = y.data();
          ASSERT_TRUE(Rope(args, stream).ok());
          // Sine and cosine round once, each product once, the sum once.
          ExpectNear(y, want, 3.1, IsaTierName(tier));
          if (first.empty()) first = y;
          EXPECT_EQ(0, std::memcmp(first.data(), y.data(), y.size() * 4)) << IsaTierName(tier);

          std::vector<float> table(positions.size() * static_cast<size_t>(rotary)), z = x;
          ASSERT_TRUE(RopeTable({positions, inv_freq, table.data()}, stream).ok());
          RopeArgs with_table = args;
          with_table.x = z.data();
          with_table.table = table.data();
          ASSERT_TRUE(Rope(with_table, stream).ok());
          EXPECT_EQ(z, y);

          std::vector<float> scaled(table.size());
          ASSERT_TRUE(RopeTable({positions, inv_freq, scaled.data(), 1.25f}, stream).ok());
          for (size_t i = 0; i < table.size(); ++i) ASSERT_EQ(scaled[i], table[i] * 1.25f);
        }
      }
    }
  }
}

TEST(RowOps, RefuseBadArguments) {
  ThreadPool pool(Workers(1));
  Stream stream(pool, ComputeMode::kExact);
  using absl::StatusCode;
  float x[64] = {}, weight[64] = {};
  RmsNormArgs norm;
  norm.x = norm.out = x;
  norm.tokens = 1;
  norm.dim = 0;
  norm.weight = weight;
  EXPECT_EQ(RmsNorm(norm, stream).code(), StatusCode::kInvalidArgument);
  norm.dim = 64;
  norm.weight = nullptr;
  EXPECT_EQ(RmsNorm(norm, stream).code(), StatusCode::kInvalidArgument);
  norm.weight = weight;
  norm.tokens = -1;
  EXPECT_EQ(RmsNorm(norm, stream).code(), StatusCode::kInvalidArgument);
  norm.tokens = 0;
  EXPECT_TRUE(RmsNorm(norm, stream).ok());

  GluArgs glu;
  glu.gate = glu.up = x;
  glu.tokens = 1;
  glu.dim = 64;
  EXPECT_EQ(Glu(glu, stream).code(), StatusCode::kInvalidArgument);

  EXPECT_FALSE(AddBias({x, nullptr, 1, 64}, stream).ok());
  EXPECT_FALSE(AddBias({x, weight, 1, 0}, stream).ok());
  EXPECT_FALSE(SoftCap({x, 64, 0.0f}, stream).ok());
  EXPECT_FALSE(SoftCap({x, 64, NAN}, stream).ok());
  EXPECT_FALSE(SoftCap({nullptr, 64, 1.0f}, stream).ok());

  const std::vector<int32_t> positions = {3};
  const std::vector<float> frequencies(32, 1.0f);
  RopeArgs rope;
  rope.x = x;
  rope.positions = positions;
  rope.inv_freq = frequencies;
  rope.heads = 1;
  rope.head_dim = 62;  // less than 2 * 32
  EXPECT_EQ(Rope(rope, stream).code(), StatusCode::kInvalidArgument);
  rope.head_dim = 64;
  EXPECT_TRUE(Rope(rope, stream).ok());
  const std::vector<int32_t> negative = {-1};
  rope.positions = negative;
  EXPECT_EQ(Rope(rope, stream).code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace millrace::kernels
