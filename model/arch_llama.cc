// Llama: RMS norm, rotary attention with grouped queries, gated SiLU feed-forward, two residuals.
//
//   h = embedding[token]
//   each layer:  h += Wo attention(rope(Wq n), rope(Wk n), Wv n)   n = norm(h)
//                h += Wdown (silu(Wgate m) * (Wup m))              m = norm(h)
//   logits = Whead norm(h)
//
// Hugo Touvron et al., "LLaMA", arXiv:2302.13971; grouped queries: arXiv:2305.13245.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/architectures.h"

namespace millrace::model {
namespace {

using kernels::PackedMatrix;
using kernels::RawMatrix;

struct LayerWeights {
  std::vector<float> attn_norm;
  std::vector<float> ffn_norm;
  PackedMatrix q, k, v, o;
  PackedMatrix gate, up, down;
};

struct LlamaWeights {
  PackedMatrix embedding;
  PackedMatrix head;  // empty when tied
  std::vector<float> final_norm;
  std::vector<LayerWeights> layers;
};

// A matrix of a layer: where it goes, and its shape.
struct Slot {
  const char* name;
  PackedMatrix LayerWeights::*target;
  int64_t rows;
  int64_t cols;
};

std::vector<Slot> LayerSlots(const ModelConfig& c) {
  const int64_t q_dim = c.heads * c.head_dim;
  const int64_t kv_dim = c.kv_heads * c.head_dim;
  return {{"q", &LayerWeights::q, q_dim, c.hidden},
          {"k", &LayerWeights::k, kv_dim, c.hidden},
          {"v", &LayerWeights::v, kv_dim, c.hidden},
          {"o", &LayerWeights::o, c.hidden, q_dim},
          {"gate", &LayerWeights::gate, c.feed_forward, c.hidden},
          {"up", &LayerWeights::up, c.feed_forward, c.hidden},
          {"down", &LayerWeights::down, c.hidden, c.feed_forward}};
}

// Walks the tensors in the order of the file's layers; with `args` null only checks them.
// Thread: one caller.
class Loader {
 public:
  Loader(const ModelDescription& description, const PackArgs* args)
      : description_(description), reader_(description), args_(args) {
    for (const auto& item : description.tensors) total_ += item.second.matrix.bytes;
  }

  absl::Status Run(LlamaWeights* out);

 private:
  absl::Status Pack(std::string_view name, int64_t rows, int64_t cols, PackedMatrix* out);
  absl::Status Norm(std::string_view name, std::vector<float>* out);

  const ModelDescription& description_;
  WeightReader reader_;
  const PackArgs* args_;
  size_t done_ = 0;
  size_t total_ = 0;
};

absl::Status Loader::Pack(std::string_view name, int64_t rows, int64_t cols, PackedMatrix* out) {
  ASSIGN_OR_RETURN(const RawMatrix raw, reader_.Matrix(name, rows, cols));
  if (args_ == nullptr) return absl::OkStatus();
  absl::StatusOr<PackedMatrix> packed = PackedMatrix::Pack(raw, *args_->stream);
  if (!packed.ok()) {
    return absl::Status(packed.status().code(),
                        absl::StrCat(description_.source, ": tensor '", std::string(name),
                                     "': ", std::string(packed.status().message())));
  }
  *out = *std::move(packed);
  done_ += raw.bytes;
  if (args_->packed) args_->packed(raw);
  if (args_->progress) args_->progress(done_, total_);
  return absl::OkStatus();
}

absl::Status Loader::Norm(std::string_view name, std::vector<float>* out) {
  ASSIGN_OR_RETURN(*out, reader_.Vector(name, description_.config.hidden));
  done_ += out->size() * sizeof(float);
  return absl::OkStatus();
}

absl::Status Loader::Run(LlamaWeights* out) {
  const ModelConfig& config = description_.config;
  RETURN_IF_ERROR(ValidateConfig(config));
  RETURN_IF_ERROR(Pack("embedding", config.vocab_size, config.hidden, &out->embedding));
  const std::vector<Slot> slots = LayerSlots(config);
  out->layers.resize(static_cast<size_t>(config.layers));
  for (int64_t i = 0; i < config.layers; ++i) {
    LayerWeights& layer = out->layers[static_cast<size_t>(i)];
    RETURN_IF_ERROR(Norm(LayerTensor(i, "attn_norm"), &layer.attn_norm));
    RETURN_IF_ERROR(Norm(LayerTensor(i, "ffn_norm"), &layer.ffn_norm));
    for (const Slot& slot : slots) {
      RETURN_IF_ERROR(Pack(LayerTensor(i, slot.name), slot.rows, slot.cols, &(layer.*slot.target)));
    }
  }
  RETURN_IF_ERROR(Norm("final_norm", &out->final_norm));
  if (!config.tied_embeddings) {
    RETURN_IF_ERROR(Pack("head", config.vocab_size, config.hidden, &out->head));
  }
  return reader_.Finish();
}

// Rounded up so that every buffer begins on a cache line.
size_t Line(int64_t floats) {
  return (static_cast<size_t>(floats) + 15) / 16 * 16;
}

// Thread: immutable.
class Llama final : public Transformer {
 public:
  Llama(ModelConfig config, LlamaWeights weights)
      : config_(std::move(config)),
        weights_(std::move(weights)),
        inv_freq_(RopeInverseFrequencies(config_.rope)) {}

  const ModelConfig& config() const override { return config_; }
  size_t WeightBytes() const override;
  size_t WorkspaceFloats(int64_t max_tokens) const override {
    return LlamaWorkspaceFloats(config_, max_tokens);
  }
  absl::Status Forward(const Batch& batch, Workspace& workspace,
                       kernels::Stream& stream) const override;
  absl::Status Logits(std::span<const int32_t> token_rows, Workspace& workspace, float* out,
                      kernels::Stream& stream) const override;

 private:
  // The workspace, cut into its buffers: [max_tokens, ...] each.
  struct Buffers {
    float* hidden;
    float* norm;
    float* q;  // q, k, v, attention live in the first half of a layer,
    float* k;
    float* v;
    float* attention;
    float* gate;  // gate and up in the second: the same memory
    float* up;
  };

  Buffers Cut(const Workspace& workspace) const;
  absl::Status AttentionHalf(const LayerWeights& layer, int32_t index, const Batch& batch,
                             const Buffers& buffers, kernels::Stream& stream) const;
  absl::Status FeedForwardHalf(const LayerWeights& layer, int64_t tokens, const Buffers& buffers,
                               kernels::Stream& stream) const;
  absl::Status Norm(const float* x, const std::vector<float>& weight, int64_t tokens, float* out,
                    kernels::Stream& stream) const;
  const PackedMatrix& head() const {
    return config_.tied_embeddings ? weights_.embedding : weights_.head;
  }

  ModelConfig config_;
  LlamaWeights weights_;
  std::vector<float> inv_freq_;
};

size_t Llama::WeightBytes() const {
  size_t bytes = head().bytes();
  for (const LayerWeights& layer : weights_.layers) {
    for (const Slot& slot : LayerSlots(config_)) bytes += (layer.*slot.target).bytes();
  }
  return bytes;
}

Llama::Buffers Llama::Cut(const Workspace& workspace) const {
  const int64_t tokens = workspace.max_tokens;
  const int64_t kv_dim = config_.kv_heads * config_.head_dim;
  Buffers b{};
  b.hidden = workspace.data;
  b.norm = b.hidden + Line(tokens * config_.hidden);
  b.q = b.norm + Line(tokens * config_.hidden);
  b.k = b.q + Line(tokens * config_.heads * config_.head_dim);
  b.v = b.k + Line(tokens * kv_dim);
  b.attention = b.v + Line(tokens * kv_dim);
  b.gate = b.q;
  b.up = b.gate + Line(tokens * config_.feed_forward);
  return b;
}

absl::Status Llama::Norm(const float* x, const std::vector<float>& weight, int64_t tokens,
                         float* out, kernels::Stream& stream) const {
  kernels::RmsNormArgs args;
  args.x = x;
  args.weight = weight.data();
  args.out = out;
  args.tokens = tokens;
  args.dim = config_.hidden;
  args.eps = static_cast<float>(config_.norm_eps);
  return kernels::RmsNorm(args, stream);
}

absl::Status Llama::AttentionHalf(const LayerWeights& layer, int32_t index, const Batch& batch,
                                  const Buffers& b, kernels::Stream& stream) const {
  const int64_t tokens = static_cast<int64_t>(batch.tokens.size());
  RETURN_IF_ERROR(Norm(b.hidden, layer.attn_norm, tokens, b.norm, stream));

  const PackedMatrix* const projections[] = {&layer.q, &layer.k, &layer.v};
  float* const projected[] = {b.q, b.k, b.v};
  RETURN_IF_ERROR(kernels::Gemm({b.norm, tokens, projections, projected, false}, stream));

  kernels::RopeArgs rope;
  rope.positions = batch.positions;
  rope.inv_freq = inv_freq_;
  rope.head_dim = config_.head_dim;
  rope.interleaved = config_.rope.interleaved;
  rope.x = b.q;
  rope.heads = config_.heads;
  RETURN_IF_ERROR(kernels::Rope(rope, stream));
  rope.x = b.k;
  rope.heads = config_.kv_heads;
  RETURN_IF_ERROR(kernels::Rope(rope, stream));

  kernels::AttentionArgs attention;
  attention.q = b.q;
  attention.k = b.k;
  attention.v = b.v;
  attention.out = b.attention;
  attention.tokens = tokens;
  attention.heads = config_.heads;
  attention.scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  attention.layout = batch.layout;
  attention.layer = index;
  attention.arena = batch.arena;
  attention.rows = batch.rows;
  RETURN_IF_ERROR(kernels::Attention(attention, stream));

  const PackedMatrix* const out[] = {&layer.o};
  float* const residual[] = {b.hidden};
  return kernels::Gemm({b.attention, tokens, out, residual, true}, stream);
}

absl::Status Llama::FeedForwardHalf(const LayerWeights& layer, int64_t tokens, const Buffers& b,
                                    kernels::Stream& stream) const {
  RETURN_IF_ERROR(Norm(b.hidden, layer.ffn_norm, tokens, b.norm, stream));
  const PackedMatrix* const in[] = {&layer.gate, &layer.up};
  float* const gated[] = {b.gate, b.up};
  RETURN_IF_ERROR(kernels::Gemm({b.norm, tokens, in, gated, false}, stream));
  RETURN_IF_ERROR(kernels::Glu({b.gate, b.up, b.gate, tokens, config_.feed_forward, config_.activation}, stream));
  const PackedMatrix* const out[] = {&layer.down};
  float* const residual[] = {b.hidden};
  return kernels::Gemm({b.gate, tokens, out, residual, true}, stream);
}

absl::Status Llama::Forward(const Batch& batch, Workspace& workspace,
                            kernels::Stream& stream) const {
  const int64_t tokens = static_cast<int64_t>(batch.tokens.size());
  if (tokens > workspace.max_tokens || WorkspaceFloats(workspace.max_tokens) > workspace.floats ||
      batch.positions.size() != batch.tokens.size()) {
    return absl::InvalidArgumentError("llama: the batch does not fit the workspace");
  }
  const Buffers buffers = Cut(workspace);
  RETURN_IF_ERROR(kernels::Embed({&weights_.embedding, batch.tokens, buffers.hidden}, stream));
  int32_t index = 0;
  for (const LayerWeights& layer : weights_.layers) {
    RETURN_IF_ERROR(AttentionHalf(layer, index++, batch, buffers, stream));
    RETURN_IF_ERROR(FeedForwardHalf(layer, tokens, buffers, stream));
  }
  return absl::OkStatus();
}

absl::Status Llama::Logits(std::span<const int32_t> token_rows, Workspace& workspace, float* out,
                           kernels::Stream& stream) const {
  const int64_t rows = static_cast<int64_t>(token_rows.size());
  if (rows > workspace.max_tokens) {
    return absl::InvalidArgumentError("llama: more logits rows than the workspace has");
  }
  const Buffers b = Cut(workspace);
  // The wanted rows side by side; the norm buffer is free once the layers are done.
  const size_t bytes = static_cast<size_t>(config_.hidden) * sizeof(float);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t source = token_rows[static_cast<size_t>(i)];
    if (source < 0 || source >= workspace.max_tokens) {
      return absl::InvalidArgumentError("llama: a logits row outside the workspace");
    }
    std::memcpy(b.norm + i * config_.hidden, b.hidden + source * config_.hidden, bytes);
  }
  RETURN_IF_ERROR(Norm(b.norm, weights_.final_norm, rows, b.norm, stream));
  const PackedMatrix* const head_matrix[] = {&head()};
  float* const logits[] = {out};
  return kernels::Gemm({b.norm, rows, head_matrix, logits, false}, stream);
}

}  // namespace

// hidden and norm, then whichever half of a layer is wider: see Llama::Buffers.
size_t LlamaWorkspaceFloats(const ModelConfig& config, int64_t max_tokens) {
  const int64_t q_dim = config.heads * config.head_dim;
  const int64_t kv_dim = config.kv_heads * config.head_dim;
  const size_t attention = 2 * Line(max_tokens * q_dim) + 2 * Line(max_tokens * kv_dim);
  const size_t feed_forward = 2 * Line(max_tokens * config.feed_forward);
  return 2 * Line(max_tokens * config.hidden) + std::max(attention, feed_forward);
}

absl::Status CheckLlama(const ModelDescription& description) {
  LlamaWeights unused;
  return Loader(description, nullptr).Run(&unused);
}

absl::StatusOr<std::unique_ptr<Transformer>> MakeLlama(const ModelDescription& description,
                                                       const PackArgs& args) {
  RETURN_IF_ERROR(CheckLlama(description));
  LlamaWeights weights;
  RETURN_IF_ERROR(Loader(description, &args).Run(&weights));
  return std::make_unique<Llama>(description.config, std::move(weights));
}

}  // namespace millrace::model
