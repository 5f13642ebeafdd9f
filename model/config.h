#pragma once
// The numbers that say what a decoder is. Independent of any file format.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace millrace::model {

enum class RopeScaling : uint8_t {
  kNone,
  kLinear,  // every frequency divided by `factor`
  kLlama3,  // low frequencies divided, high ones kept, a ramp between (Llama 3.1's config.json)
};

struct RopeConfig {
  double freq_base = 10000.0;
  int64_t rotary_dim = 0;    // leading values of a head that turn; <= head_dim
  bool interleaved = false;  // pairs (2i, 2i+1), else (i, i + rotary_dim/2)
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;  // kLlama3 only, as are the next two
  double high_freq_factor = 4.0;
  int64_t original_context = 0;
  std::vector<float> freq_factors;  // empty, or rotary_dim/2 divisors (GGUF's rope_freqs.weight)
};

struct ModelConfig {
  std::string architecture;  // a name in the table of model/architectures.h
  int64_t vocab_size = 0;
  int64_t hidden = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t feed_forward = 0;
  int64_t context_length = 0;
  double norm_eps = 0;
  bool tied_embeddings = false;  // the head is the embedding
  RopeConfig rope;
};

// Ceilings: far above any model that this node could hold, far below what overflows or what makes a
// hostile file allocate.
inline constexpr int64_t kMaxVocab = int64_t{1} << 22;
inline constexpr int64_t kMaxHidden = int64_t{1} << 17;
inline constexpr int64_t kMaxLayers = 1024;
inline constexpr int64_t kMaxHeads = 1024;
inline constexpr int64_t kMaxHeadDim = 1024;
inline constexpr int64_t kMaxFeedForward = int64_t{1} << 20;
inline constexpr int64_t kMaxContext = int64_t{1} << 24;

// The one list of rules that a configuration must meet; the error names the first one broken.
absl::Status ValidateConfig(const ModelConfig& config);

// Angle per position of each pair, [rotary_dim / 2], in fp32 as the reference implementation
// computes it. REQUIRES: a valid config.
std::vector<float> RopeInverseFrequencies(const RopeConfig& rope);

}  // namespace millrace::model
