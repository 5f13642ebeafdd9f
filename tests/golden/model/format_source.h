#pragma once
// The random bytes and numbers of make_format_golden.py, made again: the same bits from the same
// seeds. See there for the rules.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "kernels/weights_file.h"
#include "model/safetensors.h"

namespace millrace::golden {

inline int64_t JsonInt(const Json& json) {
  int64_t value = 0;
  json.GetInt64(&value);
  return value;
}
inline double JsonDouble(const Json& json) {
  double value = 0;
  json.GetDouble(&value);
  return value;
}
inline float JsonFloat(const Json& json) {
  return static_cast<float>(JsonDouble(json));
}

template <typename T>
std::vector<std::byte> BytesOf(const std::vector<T>& values) {
  std::vector<std::byte> out(values.size() * sizeof(T));
  std::memcpy(out.data(), values.data(), out.size());
  return out;
}

inline uint64_t Fnv1a64(std::string_view text) {
  uint64_t value = 0xCBF29CE484222325u;
  for (char c : text) value = (value ^ static_cast<uint8_t>(c)) * 0x100000001B3u;
  return value;
}
inline uint64_t SplitMix(uint64_t seed) {
  uint64_t z = seed + 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}
// fp32 in [-1, 1), exact.
inline float Uniform(uint64_t seed) {
  return static_cast<float>(SplitMix(seed) >> 40) * 0x1p-23f - 1.0f;
}

struct HfTensor {
  std::string name;
  int64_t rows = 0, cols = 0;  // rows 0: a vector
  float mean = 0, scale = 0;
};

struct HfPart {
  model::SafetensorsTensor tensor;  // without data
  std::vector<std::byte> data;
};

// Thread: immutable.
class FormatSource {
 public:
  // `spec` outlives it.
  FormatSource(uint64_t seed, const Json& spec)
      : seed_(seed), spec_(spec), prefix_(Text("carrier") + " " + Text("name")) {}

  std::vector<float> Values(const std::string& tensor, int64_t count, float mean,
                            float scale) const {
    const uint64_t seed = Seed(tensor, "values");
    std::vector<float> out(static_cast<size_t>(count));
    for (size_t i = 0; i < out.size(); ++i) {
      const float scaled = scale * Uniform(seed + i);
      out[i] = mean + scaled;
    }
    return out;
  }
  std::vector<std::byte> GgufMatrix(const std::string& tensor, int64_t rows, int64_t cols,
                                    float scale) const;
  std::vector<HfPart> Plain(const HfTensor& tensor) const;
  // REQUIRES: a matrix, and a grouped format.
  std::vector<HfPart> Grouped(const HfTensor& tensor) const;

 private:
  const std::string& Text(const char* key) const { return spec_.Find(key)->string_value(); }
  int64_t Int(const char* key) const { return JsonInt(*spec_.Find(key)); }
  uint64_t Seed(const std::string& tensor, const char* part) const {
    return seed_ ^ Fnv1a64(prefix_ + "/" + tensor + "/" + part);
  }
  std::vector<std::byte> Bytes(const std::string& tensor, const char* part, int64_t count) const {
    const uint64_t seed = Seed(tensor, part);
    std::vector<uint64_t> words(static_cast<size_t>(count + 7) / 8);
    for (size_t i = 0; i < words.size(); ++i) words[i] = SplitMix(seed + i);
    std::vector<std::byte> out(static_cast<size_t>(count));
    std::memcpy(out.data(), words.data(), out.size());
    return out;
  }
  std::vector<float> Scales(const std::string& tensor, int64_t count, float base) const {
    const uint64_t seed = Seed(tensor, "scales");
    std::vector<float> out(static_cast<size_t>(count));
    for (size_t i = 0; i < out.size(); ++i) {
      const float u = Uniform(seed + i);
      const float size = base * (0.75f + 0.5f * std::abs(u));
      out[i] = u < 0 ? -size : size;
    }
    return out;
  }
  HfPart Order(const std::string& tensor, const std::string& leaf, int64_t size,
               int64_t cols) const;
  float Base(float scale) const { return scale * JsonFloat(*spec_.Find("factor")); }
  static std::vector<std::byte> Encode(const std::string& type, const std::vector<float>& values);

  uint64_t seed_;
  const Json& spec_;
  std::string prefix_;
};

}  // namespace millrace::golden
