#pragma once
// What a decoder layer is made of. A family says by a LayerSpec which parts there are; the parts
// are here, once for all families.
//
//   h += post(Wo attention(rope(norm(Wq n + b)), rope(norm(Wk n + b)), Wv n + b) + b)  n = norm(h)
//   h += post(feed_forward(m))                                                         m = norm(h)
//
// Each part loads its own weights by their neutral names (model/weights.h), so a list of tensors
// exists nowhere else. The feed-forward is behind an interface: a mixture of experts is one more
// class, one more FeedForwardKind, and nothing else.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "model/architectures.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace millrace::model {

// Hands weights to the parts of a model. Without PackArgs it only checks that they are there and of
// the right shape, and may describe the matrices. Thread: one caller.
class WeightLoader {
 public:
  // Both outlive the loader.
  WeightLoader(const ModelDescription& description, const PackArgs* args, bool describe = false);

  absl::Status Matrix(std::string_view name, int64_t rows, int64_t cols,
                      kernels::PackedMatrix* out);
  absl::Status Vector(std::string_view name, int64_t size, std::vector<float>* out);
  // A norm's weights: a vector plus config.norm_offset.
  absl::Status Norm(std::string_view name, int64_t size, std::vector<float>* out);
  // InvalidArgument when a tensor was never asked for.
  absl::Status Finish() const { return reader_.Finish(); }

 private:
  void Done(const kernels::RawMatrix& raw);

  const ModelDescription& description_;
  WeightReader reader_;
  const PackArgs* args_;
  bool describe_;
  size_t done_ = 0;
  size_t total_ = 0;
};

// Floats rounded up so that every buffer begins on a cache line.
inline size_t LineFloats(int64_t floats) {
  return (static_cast<size_t>(floats) + 15) / 16 * 16;
}

// One layer's share of a step.
struct LayerRun {
  int64_t tokens = 0;
  const float* x = nullptr;    // [T, hidden], normed
  float* out = nullptr;        // [T, hidden]; may be x: it is written when x has been read
  bool accumulate = false;     // out +=
  float* workspace = nullptr;  // of the part, cut for max_tokens
  int64_t max_tokens = 0;
};

// The second half of a layer. Thread: immutable once loaded.
class FeedForward {
 public:
  virtual ~FeedForward() = default;
  virtual absl::Status Load(int64_t layer, WeightLoader& loader) = 0;
  virtual size_t WeightBytes() const = 0;  // that a step reads
  virtual size_t WorkspaceFloats(int64_t max_tokens) const = 0;
  virtual size_t ScratchBytes(int64_t tokens, const kernels::StreamShape& stream) const = 0;
  virtual absl::Status Run(const LayerRun& run, kernels::Stream& stream) const = 0;
};
std::unique_ptr<FeedForward> MakeFeedForward(const ModelConfig& config, const LayerSpec& spec);

// Where a step's keys, values and angles are for one layer.
struct AttentionRun {
  LayerRun run;
  std::span<const int32_t> positions;
  const KvView* kv = nullptr;
  int32_t kv_layer = 0;               // index of the layer in its KV group
  const float* rope_table = nullptr;  // [T, rotary_dim]
  std::span<const float> inv_freq;    // that the table was made of
};

// The first half of a layer. Thread: immutable once loaded.
class SelfAttention {
 public:
  SelfAttention(const ModelConfig& config, const LayerSpec& spec);
  absl::Status Load(int64_t layer, WeightLoader& loader);
  size_t WeightBytes() const;
  size_t WorkspaceFloats(int64_t max_tokens) const;
  size_t ScratchBytes(const StepBounds& step) const;
  absl::Status Run(const AttentionRun& run, kernels::Stream& stream) const;

 private:
  absl::Status Project(const LayerRun& run, float* const (&qkv)[3], kernels::Stream& stream) const;
  absl::Status Turn(const AttentionRun& run, float* x, const std::vector<float>& norm,
                    int64_t heads, kernels::Stream& stream) const;

  LayerSpec spec_;
  int64_t hidden_, heads_, kv_heads_, head_dim_;
  float norm_eps_;
  bool interleaved_;
  kernels::PackedMatrix q_, k_, v_, o_;
  std::vector<float> q_bias_, k_bias_, v_bias_, o_bias_;  // empty: none
  std::vector<float> q_norm_, k_norm_;                    // [head_dim]; empty: none
};

}  // namespace millrace::model
