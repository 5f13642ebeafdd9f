// The one transformer: embedding, layers as the family's LayerSpecs say, norm, head.
//
//   workspace   hidden | norm | rope tables | attention's or feed-forward's buffers, whichever are
//               more: a layer needs only one of the two at a time

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/architectures.h"
#include "model/decoder_layers.h"

namespace millrace::model {
namespace {

using kernels::PackedMatrix;

struct Layer {
  Layer(const ModelConfig& config, const LayerSpec& described)
      : spec(described), attention(config, spec), feed_forward(MakeFeedForward(config, spec)) {}

  LayerSpec spec;
  SelfAttention attention;
  std::unique_ptr<FeedForward> feed_forward;
  std::vector<float> attn_norm, ffn_norm;
  std::vector<float> attn_post_norm, ffn_post_norm;  // empty: none
  int32_t group = 0;                                 // in LayerGroups
  int32_t group_layer = 0;                           // in the group
};

// Angles that some layers share.
struct Rope {
  std::vector<float> inv_freq[2];  // in a short and in a long context
  float factor = 1.0f;
  size_t Floats(int64_t tokens) const {
    return LineFloats(tokens * 2 * static_cast<int64_t>(inv_freq[0].size()));
  }
};

Rope RopeOf(const RopeConfig& config) {
  Rope rope;
  rope.inv_freq[0] = RopeInverseFrequencies(config, false);
  rope.inv_freq[1] = RopeInverseFrequencies(config, true);
  rope.factor = RopeAttentionFactor(config);
  return rope;
}

// Thread: immutable once loaded.
class Decoder final : public Transformer {
 public:
  Decoder(const ModelConfig& config, const Architecture& architecture);

  absl::Status Load(WeightLoader& loader);

  const ModelConfig& config() const override { return config_; }
  size_t WeightBytes() const override;
  size_t WorkspaceFloats(int64_t max_tokens) const override;
  size_t ScratchBytes(const StepBounds& step) const override;
  absl::Status Forward(const Batch& batch, Workspace& workspace,
                       kernels::Stream& stream) const override;
  absl::Status Logits(std::span<const int32_t> token_rows, Workspace& workspace, float* out,
                      kernels::Stream& stream) const override;

 private:
  struct Buffers {
    float* hidden;
    float* norm;
    float* rope[2];
    float* layer;
  };
  Buffers Cut(const Workspace& workspace) const;
  absl::Status CheckBatch(const Batch& batch, const Workspace& workspace) const;
  absl::Status RunLayer(const Layer& layer, const Batch& batch, const Buffers& buffers,
                        const Workspace& workspace, kernels::Stream& stream) const;
  kernels::RmsNormArgs NormArgs(const float* x, const std::vector<float>& weight, float* out,
                                int64_t tokens) const;
  const PackedMatrix& head() const { return config_.tied_embeddings ? embedding_ : head_; }

  ModelConfig config_;
  std::vector<Layer> layers_;
  std::vector<Rope> ropes_;  // of global layers, then of local ones where they differ
  size_t groups_;
  PackedMatrix embedding_;
  PackedMatrix head_;  // empty when tied
  std::vector<float> final_norm_;
};

Decoder::Decoder(const ModelConfig& config, const Architecture& architecture) : config_(config) {
  for (int64_t i = 0; i < config.layers; ++i) {
    layers_.emplace_back(config_, architecture.layer(config_, i));
  }
  const std::vector<LayerGroup> groups = LayerGroups(config_);
  groups_ = groups.size();
  for (size_t g = 0; g < groups.size(); ++g) {
    for (size_t i = 0; i < groups[g].layers.size(); ++i) {
      Layer& layer = layers_[static_cast<size_t>(groups[g].layers[i])];
      layer.group = static_cast<int32_t>(g);
      layer.group_layer = static_cast<int32_t>(i);
    }
  }
  ropes_.push_back(RopeOf(config_.rope));
  if (config_.local_rope.has_value()) ropes_.push_back(RopeOf(*config_.local_rope));
}

absl::Status Decoder::Load(WeightLoader& loader) {
  const int64_t hidden = config_.hidden;
  RETURN_IF_ERROR(loader.Matrix("embedding", config_.vocab_size, hidden, &embedding_));
  for (int64_t i = 0; i < config_.layers; ++i) {
    Layer& layer = layers_[static_cast<size_t>(i)];
    RETURN_IF_ERROR(loader.Norm(LayerTensor(i, "attn_norm"), hidden, &layer.attn_norm));
    RETURN_IF_ERROR(loader.Norm(LayerTensor(i, "ffn_norm"), hidden, &layer.ffn_norm));
    if (layer.spec.post_norms) {
      RETURN_IF_ERROR(loader.Norm(LayerTensor(i, "attn_post_norm"), hidden, &layer.attn_post_norm));
      RETURN_IF_ERROR(loader.Norm(LayerTensor(i, "ffn_post_norm"), hidden, &layer.ffn_post_norm));
    }
    RETURN_IF_ERROR(layer.attention.Load(i, loader));
    RETURN_IF_ERROR(layer.feed_forward->Load(i, loader));
  }
  RETURN_IF_ERROR(loader.Norm("final_norm", hidden, &final_norm_));
  if (!config_.tied_embeddings) {
    RETURN_IF_ERROR(loader.Matrix("head", config_.vocab_size, hidden, &head_));
  }
  return loader.Finish();
}

size_t Decoder::WeightBytes() const {
  size_t bytes = head().bytes();
  for (const Layer& layer : layers_) {
    bytes += layer.attention.WeightBytes() + layer.feed_forward->WeightBytes();
  }
  return bytes;
}

size_t Decoder::WorkspaceFloats(int64_t max_tokens) const {
  size_t most = 0;
  for (const Layer& layer : layers_) {
    most = std::max({most, layer.attention.WorkspaceFloats(max_tokens),
                     layer.feed_forward->WorkspaceFloats(max_tokens)});
  }
  for (const Rope& rope : ropes_) most += rope.Floats(max_tokens);
  return 2 * LineFloats(max_tokens * config_.hidden) + most;
}

size_t Decoder::ScratchBytes(const StepBounds& step) const {
  const PackedMatrix* const logits[] = {&head()};
  size_t most = kernels::GemmScratchBytes(logits, step.logits_rows, step.stream);
  for (const Layer& layer : layers_) {
    most = std::max({most, layer.attention.ScratchBytes(step),
                     layer.feed_forward->ScratchBytes(step.tokens, step.stream)});
  }
  return most;
}

Decoder::Buffers Decoder::Cut(const Workspace& workspace) const {
  const int64_t tokens = workspace.max_tokens;
  Buffers b{};
  b.hidden = workspace.data;
  b.norm = b.hidden + LineFloats(tokens * config_.hidden);
  b.layer = b.norm + LineFloats(tokens * config_.hidden);
  for (size_t i = 0; i < ropes_.size(); ++i) {
    b.rope[i] = b.layer;
    b.layer += ropes_[i].Floats(tokens);
  }
  return b;
}

kernels::RmsNormArgs Decoder::NormArgs(const float* x, const std::vector<float>& weight, float* out,
                                       int64_t tokens) const {
  kernels::RmsNormArgs args;
  args.x = x;
  args.weight = weight.data();
  args.out = out;
  args.tokens = tokens;
  args.dim = config_.hidden;
  args.eps = static_cast<float>(config_.norm_eps);
  return args;
}

absl::Status Decoder::CheckBatch(const Batch& batch, const Workspace& workspace) const {
  if (static_cast<int64_t>(batch.tokens.size()) > workspace.max_tokens ||
      WorkspaceFloats(workspace.max_tokens) > workspace.floats ||
      batch.positions.size() != batch.tokens.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(config_.architecture, ": the batch does not fit the workspace"));
  }
  if (batch.kv.size() != 1 && batch.kv.size() != groups_) {
    return absl::InvalidArgumentError(absl::StrCat(config_.architecture, ": ", batch.kv.size(),
                                                   " KV groups, and the layers are in ", groups_));
  }
  return absl::OkStatus();
}

// Without a norm after it, a half adds to the hidden state as it goes; else the norm does.
absl::Status Decoder::RunLayer(const Layer& layer, const Batch& batch, const Buffers& b,
                               const Workspace& workspace, kernels::Stream& stream) const {
  const auto tokens = static_cast<int64_t>(batch.tokens.size());
  const bool direct = !layer.spec.post_norms;
  LayerRun run;
  run.tokens = tokens;
  run.x = b.norm;
  run.out = direct ? b.hidden : b.norm;
  run.accumulate = direct;
  run.workspace = b.layer;
  run.max_tokens = workspace.max_tokens;
  const auto add_normed = [&](const std::vector<float>& weight) {
    kernels::RmsNormArgs args = NormArgs(b.norm, weight, b.hidden, tokens);
    args.accumulate = true;
    return kernels::RmsNorm(args, stream);
  };

  RETURN_IF_ERROR(kernels::RmsNorm(NormArgs(b.hidden, layer.attn_norm, b.norm, tokens), stream));
  AttentionRun attention;
  attention.run = run;
  attention.positions = batch.positions;
  const bool one = batch.kv.size() == 1;
  attention.kv = &batch.kv[one ? 0 : static_cast<size_t>(layer.group)];
  attention.kv_layer = one ? static_cast<int32_t>(&layer - layers_.data()) : layer.group_layer;
  const size_t rope = layer.spec.local_rope ? 1 : 0;
  attention.rope_table = b.rope[rope];
  attention.inv_freq = ropes_[rope].inv_freq[batch.long_context ? 1 : 0];
  RETURN_IF_ERROR(layer.attention.Run(attention, stream));
  if (!direct) RETURN_IF_ERROR(add_normed(layer.attn_post_norm));

  RETURN_IF_ERROR(kernels::RmsNorm(NormArgs(b.hidden, layer.ffn_norm, b.norm, tokens), stream));
  RETURN_IF_ERROR(layer.feed_forward->Run(run, stream));
  return direct ? absl::OkStatus() : add_normed(layer.ffn_post_norm);
}

absl::Status Decoder::Forward(const Batch& batch, Workspace& workspace,
                              kernels::Stream& stream) const {
  RETURN_IF_ERROR(CheckBatch(batch, workspace));
  const Buffers b = Cut(workspace);
  const float scale =
      config_.embedding_scale == 0 ? 1.0f : static_cast<float>(config_.embedding_scale);
  RETURN_IF_ERROR(kernels::Embed({&embedding_, batch.tokens, b.hidden, scale}, stream));
  for (size_t i = 0; i < ropes_.size(); ++i) {
    const std::vector<float>& inv_freq = ropes_[i].inv_freq[batch.long_context ? 1 : 0];
    RETURN_IF_ERROR(
        kernels::RopeTable({batch.positions, inv_freq, b.rope[i], ropes_[i].factor}, stream));
  }
  for (const Layer& layer : layers_) {
    RETURN_IF_ERROR(RunLayer(layer, batch, b, workspace, stream));
  }
  return absl::OkStatus();
}

absl::Status Decoder::Logits(std::span<const int32_t> token_rows, Workspace& workspace, float* out,
                             kernels::Stream& stream) const {
  const int64_t rows = static_cast<int64_t>(token_rows.size());
  if (rows > workspace.max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat(config_.architecture, ": more logits rows than the workspace has"));
  }
  const Buffers b = Cut(workspace);
  // The wanted rows side by side; the norm buffer is free once the layers are done.
  const size_t bytes = static_cast<size_t>(config_.hidden) * sizeof(float);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t source = token_rows[static_cast<size_t>(i)];
    if (source < 0 || source >= workspace.max_tokens) {
      return absl::InvalidArgumentError(
          absl::StrCat(config_.architecture, ": a logits row outside the workspace"));
    }
    std::memcpy(b.norm + i * config_.hidden, b.hidden + source * config_.hidden, bytes);
  }
  RETURN_IF_ERROR(kernels::RmsNorm(NormArgs(b.norm, final_norm_, b.norm, rows), stream));
  const PackedMatrix* const head_matrix[] = {&head()};
  float* const logits[] = {out};
  RETURN_IF_ERROR(kernels::Gemm({b.norm, rows, head_matrix, logits, false}, stream));
  if (config_.logit_cap == 0) return absl::OkStatus();
  const float cap = static_cast<float>(config_.logit_cap);
  return kernels::SoftCap({out, rows * config_.vocab_size, cap}, stream);
}

// Null with a status when the configuration is not one.
absl::StatusOr<std::unique_ptr<Decoder>> Skeleton(const ModelConfig& config) {
  RETURN_IF_ERROR(ValidateConfig(config));
  const Architecture* architecture = FindArchitecture(config.architecture);
  if (architecture == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("architecture '", config.architecture, "' is not in the table"));
  }
  return std::make_unique<Decoder>(config, *architecture);
}

}  // namespace

absl::Status CheckDecoder(const ModelDescription& description) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Decoder> decoder, Skeleton(description.config));
  WeightLoader loader(description, nullptr);
  return decoder->Load(loader);
}

absl::StatusOr<std::unique_ptr<Transformer>> DescribeDecoder(const ModelDescription& description) {
  ASSIGN_OR_RETURN(std::unique_ptr<Decoder> decoder, Skeleton(description.config));
  WeightLoader loader(description, nullptr, /*describe=*/true);
  RETURN_IF_ERROR(decoder->Load(loader));
  return decoder;
}

absl::StatusOr<std::unique_ptr<Transformer>> MakeDecoder(const ModelDescription& description,
                                                         const PackArgs& args) {
  RETURN_IF_ERROR(CheckDecoder(description));
  ASSIGN_OR_RETURN(std::unique_ptr<Decoder> decoder, Skeleton(description.config));
  WeightLoader loader(description, &args);
  RETURN_IF_ERROR(decoder->Load(loader));
  return decoder;
}

}  // namespace millrace::model
