#include "model/architectures.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace millrace::model {
namespace {

constexpr const Architecture* kArchitectures[] = {
    &kLlama, &kMistral, &kQwen2, &kQwen3, &kPhi3, &kGemma2, &kGemma3,
};

}  // namespace

const Architecture* FindArchitecture(std::string_view name) {
  for (const Architecture* architecture : kArchitectures) {
    if (architecture->name == name) return architecture;
  }
  return nullptr;
}

std::string ArchitectureNames() {
  std::string out;
  for (const Architecture* architecture : kArchitectures) {
    absl::StrAppend(&out, out.empty() ? "" : ", ", std::string(architecture->name));
  }
  return out;
}

LayerSpec DescribeLayer(const ModelConfig& config, int64_t layer) {
  const bool local = config.IsLocal(layer);
  LayerSpec spec;
  spec.window = local ? static_cast<int32_t>(config.window) : 0;
  spec.local_rope = local && config.local_rope.has_value();
  spec.query_scale = config.query_scale != 0
                         ? static_cast<float>(config.query_scale)
                         : 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  spec.attention_cap = static_cast<float>(config.attention_cap);
  spec.qkv_bias = config.qkv_bias;
  spec.o_bias = config.o_bias;
  spec.qk_norm = config.qk_norm;
  spec.post_norms = config.post_norms;
  spec.activation = config.activation;
  return spec;
}

}  // namespace millrace::model
