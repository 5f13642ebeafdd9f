#include "kernels/logits.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/stream.h"
#include "kernels/test_support.h"

namespace millrace::kernels {
namespace {

using testing::Random;
using testing::RunnableTiers;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kCounts[] = {1, 2, 15, 16, 17, 31, 32, 33, 255, 256, 257, 1000};

// Coarse steps, so that there are ties.
std::vector<float> Logits(int64_t count, uint64_t seed, bool ties) {
  Random random(seed);
  std::vector<float> out = random.Floats(count, 20.0f);
  for (float& x : out) x = ties ? std::nearbyint(x) : x;
  return out;
}

TEST(Logits, ScanFindsThePeakAndWhatIsNotFinite) {
  for (IsaTier tier : RunnableTiers()) {
    const LogitsKernels& k = ChooseLogits(tier);
    for (int64_t count : kCounts) {
      const std::vector<float> x = Logits(count, 3, false);
      const LogitsScan scan = k.scan(x.data(), count);
      EXPECT_TRUE(scan.finite);
      EXPECT_EQ(scan.peak, *std::max_element(x.begin(), x.end()));
      for (int64_t at : {int64_t{0}, count / 2, count - 1}) {
        for (float bad : {kInfinity, -kInfinity, std::nanf(""), -std::nanf("")}) {
          std::vector<float> sick = x;
          sick[static_cast<size_t>(at)] = bad;
          EXPECT_FALSE(k.scan(sick.data(), count).finite) << count << " at " << at << " " << bad;
        }
        std::vector<float> high = x;
        high[static_cast<size_t>(at)] = 1e30f;
        EXPECT_EQ(k.scan(high.data(), count).peak, 1e30f) << count << " at " << at;
      }
      const std::vector<float> banned(static_cast<size_t>(count), -kInfinity);
      EXPECT_EQ(k.scan(banned.data(), count).peak, -kInfinity);
    }
  }
}

TEST(Logits, WeightsAreExponentialsAndTheSameInAllTiers) {
  for (int64_t count : kCounts) {
    std::vector<float> x = Logits(count, 5, false);
    if (count > 3) x[2] = -kInfinity;  // a banned token
    if (count > 9) x[7] = 20.0f - 90.0f;
    float peak = -kInfinity;
    for (float v : x) peak = std::max(peak, v);
    for (const LogitsScale& s : {LogitsScale{peak, 1.0f, 0.0f}, LogitsScale{peak, 2.5f, 0.0f},
                                 LogitsScale{peak, 0.7f, 0.01f}}) {
      std::vector<float> first;
      double first_sum = 0;
      for (IsaTier tier : RunnableTiers()) {
        const LogitsKernels& k = ChooseLogits(tier);
        std::vector<float> w(static_cast<size_t>(count), -1.0f);
        k.weigh(x.data(), count, s, w.data());
        double sum = 0;
        for (size_t i = 0; i < w.size(); ++i) {
          const float scaled = (x[i] - s.peak) * s.scale;  // rounded as there
          const double want = scaled < -87.0f ? 0.0 : std::exp(static_cast<double>(scaled));
          if (std::abs(want - static_cast<double>(s.least)) > 1e-8) {
            const double kept = want < static_cast<double>(s.least) ? 0.0 : want;
            ASSERT_NEAR(w[i], kept, 3e-7 * kept + 1e-37) << count << " " << i;
          }
          sum += static_cast<double>(w[i]);
        }
        ASSERT_NEAR(k.sum(w.data(), count), sum, 1e-12 * sum);
        if (first.empty()) first = w, first_sum = k.sum(w.data(), count);
        ASSERT_EQ(0, std::memcmp(first.data(), w.data(), w.size() * sizeof(float)));
        ASSERT_EQ(k.sum(w.data(), count), first_sum);
      }
    }
  }
}

TEST(Logits, FindAboveAndDropBelowAgreeWithLoops) {
  for (IsaTier tier : RunnableTiers()) {
    const LogitsKernels& k = ChooseLogits(tier);
    for (int64_t count : kCounts) {
      const std::vector<float> x = Logits(count, 8, true);
      for (float threshold : {-kInfinity, -20.5f, 0.0f, 18.0f, 19.5f, 21.0f}) {
        for (int64_t begin : {int64_t{0}, int64_t{1}, count / 2, count}) {
          int64_t want = begin;
          while (want < count && !(x[static_cast<size_t>(want)] > threshold)) ++want;
          EXPECT_EQ(k.find_above(x.data(), begin, count, threshold), want);
        }
      }
      for (int64_t id : {int64_t{0}, int64_t{7}, count / 2, count - 1, count + 5}) {
        const LogitsBorder border{std::nearbyint(x[static_cast<size_t>(count / 3)]), id};
        std::vector<float> weights(static_cast<size_t>(count), 2.0f), want = weights;
        for (int64_t i = 0; i < count; ++i) {
          const float value = x[static_cast<size_t>(i)];
          const bool after = value < border.value || (value == border.value && i > id);
          if (after) want[static_cast<size_t>(i)] = 0;
        }
        k.drop_below(x.data(), count, border, weights.data());
        EXPECT_EQ(weights, want) << IsaTierName(tier) << count << " border " << id;
        std::vector<float> own = x;  // values that are the weights
        k.drop_below(own.data(), count, border, own.data());
        for (size_t i = 0; i < own.size(); ++i) EXPECT_EQ(own[i], want[i] == 0 ? 0.0f : x[i]);
      }
    }
  }
}

}  // namespace
}  // namespace millrace::kernels
