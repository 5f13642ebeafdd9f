#include "model/decoder_layers.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace millrace::model {

using kernels::PackedMatrix;
using kernels::RawMatrix;

WeightLoader::WeightLoader(const ModelDescription& description, const PackArgs* args, bool describe)
    : description_(description), reader_(description), args_(args), describe_(describe) {
  for (const auto& item : description.tensors) total_ += item.second.matrix.bytes;
}

void WeightLoader::Done(const RawMatrix& raw) {
  if (args_ == nullptr) return;
  done_ += raw.bytes;
  if (args_->packed) args_->packed(raw);
  if (args_->progress) args_->progress(done_, total_);
}

absl::Status WeightLoader::Matrix(std::string_view name, int64_t rows, int64_t cols,
                                  PackedMatrix* out) {
  ASSIGN_OR_RETURN(const RawMatrix raw, reader_.Matrix(name, rows, cols));
  const bool int8 = description_.int8_head && name == HeadTensor(description_);
  if (args_ == nullptr) {
    if (describe_) *out = PackedMatrix::Describe(int8 ? Int8Form(raw) : raw);
    return absl::OkStatus();
  }
  if (args_->stored != nullptr) {
    const RawMatrix form = int8 ? Int8Form(raw) : raw;
    const auto strips = args_->stored->Find(name, PackedMatrix::Describe(form));
    if (!strips.empty()) {
      ASSIGN_OR_RETURN(*out, PackedMatrix::View(form, strips));
      Done(raw);
      return absl::OkStatus();
    }
  }
  absl::StatusOr<PackedMatrix> packed =
      int8 ? PackedMatrix::PackInt8(raw, *args_->stream) : PackedMatrix::Pack(raw, *args_->stream);
  if (!packed.ok()) {
    return absl::Status(packed.status().code(),
                        absl::StrCat(description_.source, ": tensor '", std::string(name),
                                     "': ", std::string(packed.status().message())));
  }
  *out = *std::move(packed);
  if (args_->made) args_->made(name, *out);
  Done(raw);
  return absl::OkStatus();
}

absl::Status WeightLoader::Vector(std::string_view name, int64_t size, std::vector<float>* out) {
  ASSIGN_OR_RETURN(const RawMatrix raw, reader_.Matrix(name, 1, size));
  if (args_ == nullptr) return absl::OkStatus();
  out->resize(static_cast<size_t>(size));
  kernels::DequantizeRawRow(raw, 0, out->data());
  Done(raw);
  return absl::OkStatus();
}

absl::Status WeightLoader::Norm(std::string_view name, int64_t size, std::vector<float>* out) {
  RETURN_IF_ERROR(Vector(name, size, out));
  const float offset = static_cast<float>(description_.config.norm_offset);
  for (float& weight : *out) weight += offset;
  return absl::OkStatus();
}

namespace {

// down(activation(gate x) * (up x)). Thread: immutable once loaded.
class GatedFeedForward final : public FeedForward {
 public:
  GatedFeedForward(const ModelConfig& config, const LayerSpec& spec)
      : hidden_(config.hidden), width_(config.feed_forward), activation_(spec.activation) {}

  absl::Status Load(int64_t layer, WeightLoader& loader) override {
    RETURN_IF_ERROR(loader.Matrix(LayerTensor(layer, "gate"), width_, hidden_, &gate_));
    RETURN_IF_ERROR(loader.Matrix(LayerTensor(layer, "up"), width_, hidden_, &up_));
    return loader.Matrix(LayerTensor(layer, "down"), hidden_, width_, &down_);
  }
  size_t WeightBytes() const override { return gate_.bytes() + up_.bytes() + down_.bytes(); }
  size_t WorkspaceFloats(int64_t max_tokens) const override {
    return 2 * LineFloats(max_tokens * width_);
  }
  size_t ScratchBytes(int64_t tokens, const kernels::StreamShape& stream) const override {
    const PackedMatrix* const in[] = {&gate_, &up_};
    const PackedMatrix* const out[] = {&down_};
    return std::max(kernels::GemmScratchBytes(in, tokens, stream),
                    kernels::GemmScratchBytes(out, tokens, stream));
  }
  absl::Status Run(const LayerRun& run, kernels::Stream& stream) const override {
    float* const gate = run.workspace;
    float* const up = gate + LineFloats(run.max_tokens * width_);
    const PackedMatrix* const in[] = {&gate_, &up_};
    float* const gated[] = {gate, up};
    RETURN_IF_ERROR(kernels::Gemm({run.x, run.tokens, in, gated, false}, stream));
    RETURN_IF_ERROR(kernels::Glu({gate, up, gate, run.tokens, width_, activation_}, stream));
    const PackedMatrix* const out[] = {&down_};
    float* const target[] = {run.out};
    return kernels::Gemm({gate, run.tokens, out, target, run.accumulate}, stream);
  }

 private:
  int64_t hidden_;
  int64_t width_;
  kernels::Activation activation_;
  PackedMatrix gate_, up_, down_;
};

}  // namespace

std::unique_ptr<FeedForward> MakeFeedForward(const ModelConfig& config, const LayerSpec& spec) {
  switch (spec.feed_forward) {
    case FeedForwardKind::kGated:
      return std::make_unique<GatedFeedForward>(config, spec);
  }
  return nullptr;
}

SelfAttention::SelfAttention(const ModelConfig& config, const LayerSpec& spec)
    : spec_(spec),
      hidden_(config.hidden),
      heads_(config.heads),
      kv_heads_(config.kv_heads),
      head_dim_(config.head_dim),
      norm_eps_(static_cast<float>(config.norm_eps)),
      interleaved_(spec.local_rope ? config.local_rope->interleaved : config.rope.interleaved) {}

absl::Status SelfAttention::Load(int64_t layer, WeightLoader& loader) {
  const auto name = [&](const char* part) { return LayerTensor(layer, part); };
  const int64_t q_dim = heads_ * head_dim_, kv_dim = kv_heads_ * head_dim_;
  RETURN_IF_ERROR(loader.Matrix(name("q"), q_dim, hidden_, &q_));
  RETURN_IF_ERROR(loader.Matrix(name("k"), kv_dim, hidden_, &k_));
  RETURN_IF_ERROR(loader.Matrix(name("v"), kv_dim, hidden_, &v_));
  RETURN_IF_ERROR(loader.Matrix(name("o"), hidden_, q_dim, &o_));
  if (spec_.qkv_bias) {
    RETURN_IF_ERROR(loader.Vector(name("q_bias"), q_dim, &q_bias_));
    RETURN_IF_ERROR(loader.Vector(name("k_bias"), kv_dim, &k_bias_));
    RETURN_IF_ERROR(loader.Vector(name("v_bias"), kv_dim, &v_bias_));
  }
  if (spec_.o_bias) RETURN_IF_ERROR(loader.Vector(name("o_bias"), hidden_, &o_bias_));
  if (spec_.qk_norm) {
    RETURN_IF_ERROR(loader.Norm(name("q_norm"), head_dim_, &q_norm_));
    RETURN_IF_ERROR(loader.Norm(name("k_norm"), head_dim_, &k_norm_));
  }
  return absl::OkStatus();
}

size_t SelfAttention::WeightBytes() const {
  return q_.bytes() + k_.bytes() + v_.bytes() + o_.bytes();
}

// q, k, v and what attention makes of them.
size_t SelfAttention::WorkspaceFloats(int64_t max_tokens) const {
  return 2 * LineFloats(max_tokens * heads_ * head_dim_) +
         2 * LineFloats(max_tokens * kv_heads_ * head_dim_);
}

size_t SelfAttention::ScratchBytes(const StepBounds& step) const {
  const PackedMatrix* const in[] = {&q_, &k_, &v_};
  const PackedMatrix* const out[] = {&o_};
  kernels::AttentionBounds bounds;
  bounds.tokens = step.tokens;
  bounds.heads = heads_;
  bounds.positions = step.positions;
  bounds.layout.kv_heads = static_cast<int32_t>(kv_heads_);
  bounds.layout.head_dim = static_cast<int32_t>(head_dim_);
  bounds.layout.block_tokens = step.block_tokens;
  return std::max({kernels::GemmScratchBytes(in, step.tokens, step.stream),
                   kernels::GemmScratchBytes(out, step.tokens, step.stream),
                   kernels::AttentionScratchBytes(bounds, step.stream)});
}

absl::Status SelfAttention::Project(const LayerRun& run, float* const (&qkv)[3],
                                    kernels::Stream& stream) const {
  const PackedMatrix* const matrices[] = {&q_, &k_, &v_};
  RETURN_IF_ERROR(kernels::Gemm({run.x, run.tokens, matrices, qkv, false}, stream));
  const std::vector<float>* const biases[] = {&q_bias_, &k_bias_, &v_bias_};
  for (int i = 0; i < 3; ++i) {
    if (biases[i]->empty()) continue;
    const int64_t dim = (i == 0 ? heads_ : kv_heads_) * head_dim_;
    RETURN_IF_ERROR(kernels::AddBias({qkv[i], biases[i]->data(), run.tokens, dim}, stream));
  }
  return absl::OkStatus();
}

// The norm of each head, where there is one, and the rotation.
absl::Status SelfAttention::Turn(const AttentionRun& a, float* x, const std::vector<float>& norm,
                                 int64_t heads, kernels::Stream& stream) const {
  if (!norm.empty()) {
    kernels::RmsNormArgs args;
    args.x = args.out = x;
    args.weight = norm.data();
    args.tokens = a.run.tokens * heads;
    args.dim = head_dim_;
    args.eps = norm_eps_;
    RETURN_IF_ERROR(kernels::RmsNorm(args, stream));
  }
  kernels::RopeArgs rope;
  rope.x = x;
  rope.positions = a.positions;
  rope.inv_freq = a.inv_freq;
  rope.heads = heads;
  rope.head_dim = head_dim_;
  rope.interleaved = interleaved_;
  rope.table = a.rope_table;
  return kernels::Rope(rope, stream);
}

absl::Status SelfAttention::Run(const AttentionRun& a, kernels::Stream& stream) const {
  const LayerRun& run = a.run;
  float* const q = run.workspace;
  float* const k = q + LineFloats(run.max_tokens * heads_ * head_dim_);
  float* const v = k + LineFloats(run.max_tokens * kv_heads_ * head_dim_);
  float* const mixed = v + LineFloats(run.max_tokens * kv_heads_ * head_dim_);
  RETURN_IF_ERROR(Project(run, {q, k, v}, stream));
  RETURN_IF_ERROR(Turn(a, q, q_norm_, heads_, stream));
  RETURN_IF_ERROR(Turn(a, k, k_norm_, kv_heads_, stream));

  kernels::AttentionArgs args;
  args.q = q;
  args.k = k;
  args.v = v;
  args.out = mixed;
  args.tokens = run.tokens;
  args.heads = heads_;
  args.scale = spec_.query_scale;
  args.soft_cap = spec_.attention_cap;
  args.window = spec_.window;
  args.layout = a.kv->layout;
  args.layer = a.kv_layer;
  args.arena = a.kv->arena;
  args.rows = a.kv->rows;
  RETURN_IF_ERROR(kernels::Attention(args, stream));

  const PackedMatrix* const out[] = {&o_};
  float* const target[] = {run.out};
  RETURN_IF_ERROR(kernels::Gemm({mixed, run.tokens, out, target, run.accumulate}, stream));
  if (o_bias_.empty()) return absl::OkStatus();
  return kernels::AddBias({run.out, o_bias_.data(), run.tokens, hidden_}, stream);
}

}  // namespace millrace::model
