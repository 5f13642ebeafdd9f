#pragma once
// Every weight format there is, the grouped ones with their variants, for the tests of kernels/.

#include <algorithm>
#include <ostream>

#include "kernels/test_support.h"
#include "kernels/weights_file.h"

namespace millrace::kernels::testing {

struct Format {
  const char* name;
  WeightType type;
  int64_t group_size = 0;
  bool zeros = false;
  WeightType scale = WeightType::kF16;
  bool act_order = false;
};

inline void PrintTo(const Format& format, std::ostream* out) {
  *out << format.name;
}

inline constexpr Format kAllFormats[] = {
    {"F32", WeightType::kF32},
    {"F16", WeightType::kF16},
    {"BF16", WeightType::kBF16},
    {"Q8_0", WeightType::kQ8_0},
    {"Q4_0", WeightType::kQ4_0},
    {"Q4_1", WeightType::kQ4_1},
    {"Q5_0", WeightType::kQ5_0},
    {"Q5_1", WeightType::kQ5_1},
    {"IQ4_NL", WeightType::kIQ4_NL},
    {"Q3_K", WeightType::kQ3_K},
    {"Q4_K", WeightType::kQ4_K},
    {"Q5_K", WeightType::kQ5_K},
    {"Q6_K", WeightType::kQ6_K},
    {"IQ4_XS", WeightType::kIQ4_XS},
    {"Gptq4", WeightType::kGptq4, 64},
    {"Gptq4Zeros", WeightType::kGptq4, 32, true},
    {"Gptq4Column", WeightType::kGptq4, -1, true, WeightType::kBF16},
    {"Gptq4Order", WeightType::kGptq4, 32, true, WeightType::kF16, true},
    {"Gptq4Short", WeightType::kGptq4, 80, true, WeightType::kF16, true},
    {"Gptq4Narrow", WeightType::kGptq4, 16, false, WeightType::kF32},
    {"Gptq8", WeightType::kGptq8, 32},
    {"Gptq8Zeros", WeightType::kGptq8, 64, true, WeightType::kF32},
    {"Gptq8Order", WeightType::kGptq8, 32, true, WeightType::kF16, true},
    {"Awq4", WeightType::kAwq4, 32, true},
    {"Awq4Wide", WeightType::kAwq4, 128, true},
    {"Packed4", WeightType::kPacked4, 32},
    {"Packed4Zeros", WeightType::kPacked4, 64, true, WeightType::kBF16},
    {"Packed8", WeightType::kPacked8, -1, false, WeightType::kBF16},
    {"Packed8Order", WeightType::kPacked8, 32, true, WeightType::kF16, true},
    {"Int8Channel", WeightType::kInt8Channel, -1, false, WeightType::kF32},
};

// The columns that a format allows, `cols` or more.
inline int64_t RoundCols(const Format& format, int64_t cols) {
  const int64_t values = BlockValues(format.type);
  return (cols + values - 1) / values * values;
}

inline std::vector<uint8_t> RandomBytes(Random& random, int64_t count) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(random.Next());
  return bytes;
}

inline RandomMatrix MakeMatrix(const Format& format, int64_t rows, int64_t cols, uint64_t seed) {
  if (!IsGrouped(format.type)) return MakeMatrix(format.type, rows, cols, seed);
  Random random(seed);
  RandomMatrix m;
  m.groups = std::make_unique<RawGroups>();
  RawGroups& g = *m.groups;
  m.raw = {format.type, rows, cols, nullptr, 0, m.groups.get()};
  g.group_size = format.group_size;
  g.scale_type = format.scale;
  g.zero_offset = format.zeros && format.type == WeightType::kGptq4 ? 1 : 0;
  const int64_t per_word = 32 / CodeBits(format.type), groups = GroupCount(m.raw);
  const int64_t row_words = (rows + per_word - 1) / per_word;
  const int64_t col_words = (cols + per_word - 1) / per_word;
  const bool int8 = format.type == WeightType::kInt8Channel;
  const bool awq = format.type == WeightType::kAwq4;
  const bool gptq = format.type == WeightType::kGptq4 || format.type == WeightType::kGptq8;
  m.bytes = RandomBytes(random, int8   ? rows * cols
                                : awq  ? 4 * cols * row_words
                                : gptq ? 4 * col_words * rows
                                       : 4 * rows * col_words);
  for (int64_t i = 0; i < groups * rows; ++i) {
    const float value = random.Uniform(-0.01f, 0.01f);
    const uint16_t half = RandomHalf(random);
    const auto* p = reinterpret_cast<const uint8_t*>(&value);
    const auto* h = reinterpret_cast<const uint8_t*>(&half);
    if (format.scale == WeightType::kF32) m.scales.insert(m.scales.end(), p, p + 4);
    if (format.scale == WeightType::kBF16) m.scales.insert(m.scales.end(), p + 2, p + 4);
    if (format.scale == WeightType::kF16) m.scales.insert(m.scales.end(), h, h + 2);
  }
  if (format.zeros) m.zeros = RandomBytes(random, 4 * row_words * groups);
  if (format.act_order) {
    std::vector<int32_t> order(static_cast<size_t>(cols));
    for (size_t k = 0; k < order.size(); ++k) {
      order[k] = static_cast<int32_t>(static_cast<int64_t>(k) / GroupColumns(m.raw));
    }
    for (size_t k = order.size() - 1; k > 0; --k) {
      std::swap(order[k], order[static_cast<size_t>(random.Below(static_cast<int64_t>(k) + 1))]);
    }
    m.order.resize(4 * order.size());
    std::memcpy(m.order.data(), order.data(), m.order.size());
  }
  m.raw.data = m.bytes.data();
  m.raw.bytes = m.bytes.size();
  g.scales = m.scales.data();
  g.scale_bytes = m.scales.size();
  if (format.zeros) g.zeros = m.zeros.data();
  g.zero_bytes = m.zeros.size();
  if (format.act_order) g.g_idx = m.order.data();
  g.g_idx_bytes = m.order.size();
  return m;
}

}  // namespace millrace::kernels::testing
