#pragma once
// Random inputs and the grid of tiers for the tests and benches of kernels/.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/dispatch.h"
#include "kernels/weights.h"

namespace millrace::kernels::testing {

// splitmix64 (Steele, Lea, Flood 2014).
// Thread: any, one at a time.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // In [low, high).
  float Uniform(float low, float high) {
    return low + (high - low) * static_cast<float>(Next() >> 40) * 0x1p-24f;
  }
  int64_t Below(int64_t n) { return static_cast<int64_t>(Next() % static_cast<uint64_t>(n)); }
  std::vector<float> Floats(int64_t count, float scale = 1.0f) {
    std::vector<float> v(static_cast<size_t>(count));
    for (float& x : v) x = Uniform(-scale, scale);
    return v;
  }

 private:
  uint64_t state_;
};

// A matrix in a file's layout, with its bytes.
struct RandomMatrix {
  std::vector<uint8_t> bytes, scales, zeros, order;
  std::unique_ptr<RawGroups> groups;  // of a grouped type
  RawMatrix raw;
};

// Positive or negative fp16 near `scale`, bits made by hand: exponent and mantissa random.
inline uint16_t RandomHalf(Random& random) {
  const auto exponent = static_cast<uint16_t>(6 + random.Below(4));  // 2^-9 .. 2^-6
  return static_cast<uint16_t>((random.Next() & 0x83ff) | exponent << 10);
}

// Where a block type keeps its fp16 scale, and its fp16 minimum (0: none).
inline size_t ScaleOffset(WeightType type) {
  if (type == WeightType::kQ3_K) return 108;
  return type == WeightType::kQ6_K ? 208 : 0;
}
inline size_t MinimumOffset(WeightType type) {
  const bool has = type == WeightType::kQ4_1 || type == WeightType::kQ5_1 ||
                   type == WeightType::kQ4_K || type == WeightType::kQ5_K;
  return has ? 2 : 0;
}

// Of a plain or block type: finite values, random otherwise.
inline RandomMatrix MakeMatrix(WeightType type, int64_t rows, int64_t cols, uint64_t seed) {
  Random random(seed);
  RandomMatrix m;
  const int64_t blocks = rows * (cols / BlockValues(type));
  m.bytes.resize(static_cast<size_t>(blocks * BlockBytes(type)));
  for (uint8_t& b : m.bytes) b = static_cast<uint8_t>(random.Next());
  uint8_t* p = m.bytes.data();
  for (int64_t b = 0; b < blocks; ++b, p += BlockBytes(type)) {
    const uint16_t half = RandomHalf(random), second = RandomHalf(random);
    const float plain = random.Uniform(-0.1f, 0.1f);
    if (type == WeightType::kF32) {
      std::memcpy(p, &plain, 4);
    } else if (type == WeightType::kBF16) {
      std::memcpy(p, reinterpret_cast<const char*>(&plain) + 2, 2);
    } else {
      std::memcpy(p + ScaleOffset(type), &half, 2);
    }
    if (MinimumOffset(type) != 0) std::memcpy(p + MinimumOffset(type), &second, 2);
  }
  m.raw.type = type;
  m.raw.rows = rows;
  m.raw.cols = cols;
  m.raw.data = m.bytes.data();
  m.raw.bytes = m.bytes.size();
  return m;
}

inline constexpr WeightType kBlockTypes[] = {
    WeightType::kF32,  WeightType::kF16,  WeightType::kBF16, WeightType::kQ8_0,   WeightType::kQ4_0,
    WeightType::kQ4_1, WeightType::kQ5_0, WeightType::kQ5_1, WeightType::kIQ4_NL, WeightType::kQ3_K,
    WeightType::kQ4_K, WeightType::kQ5_K, WeightType::kQ6_K, WeightType::kIQ4_XS};

// The tiers this machine can run. Says which it cannot, so that a log shows what a run has not
// proved.
inline std::vector<IsaTier> RunnableTiers() {
  std::vector<IsaTier> tiers;
  for (IsaTier tier : kAllTiers) {
    if (RunsIsaTier(tier)) {
      tiers.push_back(tier);
    } else {
      std::fprintf(stderr, "NOT RUN: tier %s, this CPU lacks it\n", IsaTierName(tier));
    }
  }
  return tiers;
}

inline ThreadPoolOptions Workers(int count) {
  ThreadPoolOptions options;
  options.workers = count;
  options.pin = false;  // tests may run with more workers than CPUs
  return options;
}

}  // namespace millrace::kernels::testing
