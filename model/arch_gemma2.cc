// Gemma 2: norms before and after each half of a layer, GeGLU, embeddings scaled by the root of
// their length, soft caps on scores and logits, every second layer local (the even ones).
//
// Gemma Team, "Gemma 2", arXiv:2408.00118.

#include <cmath>

#include "model/architectures.h"

namespace millrace::model {
namespace {

absl::Status Complete(ModelConfig* config) {
  config->activation = kernels::Activation::kGeluTanh;
  config->post_norms = true;
  config->embedding_scale = std::sqrt(static_cast<double>(config->hidden));
  if (config->window > 0 && config->local_layers.empty()) {
    config->local_layers = EveryNthGlobal(config->layers, 2);
  }
  // GGUF has no key for it: 27B (46 layers) divides by its width a head, the others by head_dim.
  if (config->query_scale == 0 && config->layers == 46 && config->heads > 0) {
    config->query_scale =
        std::sqrt(static_cast<double>(config->heads) / static_cast<double>(config->hidden));
  }
  return absl::OkStatus();
}

}  // namespace

constexpr Architecture kGemma2 = {.name = "gemma2", .complete = &Complete};

}  // namespace millrace::model
