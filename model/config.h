#pragma once
// The numbers that say what a decoder is. Independent of any file format.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"

namespace millrace::model {

enum class RopeScaling : uint8_t {
  kNone,
  kLinear,    // every frequency divided by `factor`
  kLlama3,    // low frequencies divided, high ones kept, a ramp between (Llama 3.1's config.json)
  kYarn,      // the same by rotations in the original context (Peng et al., arXiv:2309.00071)
  kLongRope,  // a divisor for each frequency, one list for each regime (Phi-3; arXiv:2402.13753)
};

struct RopeConfig {
  double freq_base = 10000.0;
  int64_t rotary_dim = 0;    // leading values of a head that turn; <= head_dim
  bool interleaved = false;  // pairs (2i, 2i+1), else (i, i + rotary_dim/2)
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;           // kLongRope: context over original context
  int64_t original_context = 0;  // kLlama3, kYarn, kLongRope
  double low_freq_factor = 1.0;  // kLlama3 only, as is the next
  double high_freq_factor = 4.0;
  double beta_fast = 32.0;  // kYarn only, as are the next four: rotations that are kept as they are
  double beta_slow = 1.0;   // rotations that are divided by `factor`
  bool truncate = true;     // the ramp's ends are whole numbers
  double mscale = 0;        // both or none; see RopeAttentionFactor
  double mscale_all_dim = 0;
  // Multiplies cosines and sines, so the scores by its square; 0: what the scaling implies.
  double attention_factor = 0;
  std::vector<float> freq_factors;   // empty, or rotary_dim/2 divisors (GGUF's rope_freqs.weight)
  std::vector<float> short_factors;  // kLongRope: rotary_dim/2 divisors
  std::vector<float> long_factors;
};

// A reader of a file sets what the file says and calls the family's Architecture::complete, which
// adds what only the family knows; then the configuration must pass ValidateConfig.
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

  // Local layers see the last `window` positions, their own included; 0: none is local.
  int64_t window = 0;
  std::vector<uint8_t> local_layers;     // [layers], 1: local; empty: all are when window > 0
  std::optional<RopeConfig> local_rope;  // of local layers; absent: `rope`

  double query_scale = 0;      // multiplies q . k; 0: 1 / sqrt(head_dim)
  double attention_cap = 0;    // scores become cap * tanh(score / cap); 0: as they are
  double logit_cap = 0;        // the same for logits
  double embedding_scale = 0;  // multiplies embeddings; 0: as they are
  double norm_offset = 0;      // 1: norms' weights are stored less one, and it is added at load
  kernels::Activation activation = kernels::Activation::kSilu;  // of the feed-forward's gate
  bool qkv_bias = false;
  bool o_bias = false;
  bool qk_norm = false;     // an RMS norm of each head of q and k, before rope
  bool post_norms = false;  // a norm after attention and feed-forward too, before the residual

  std::vector<int32_t> end_tokens;  // any of them ends a text; empty: the tokenizer's

  bool IsLocal(int64_t layer) const {
    return window > 0 && (local_layers.empty() || local_layers[static_cast<size_t>(layer)] != 0);
  }
};

// Layers whose keys and values are kept for as long: all positions (window 0), or the last
// `window`.
struct LayerGroup {
  int64_t window = 0;
  std::vector<int32_t> layers;  // ascending
};
// Global layers first, then local ones; an empty group is left out. The seam for KV memory: a
// group's layers share their block tables.
std::vector<LayerGroup> LayerGroups(const ModelConfig& config);

// [layers] for `local_layers`: every n-th layer is global, the others local (n = 2: even ones are).
std::vector<uint8_t> EveryNthGlobal(int64_t layers, int64_t n);

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
// computes it; `long_context` picks the list of kLongRope. REQUIRES: a valid config.
std::vector<float> RopeInverseFrequencies(const RopeConfig& rope, bool long_context = false);
// What multiplies cosines and sines: `attention_factor`, or what the scaling implies.
float RopeAttentionFactor(const RopeConfig& rope);

}  // namespace millrace::model
