// Gemma 3 (text): Gemma 2 with norms of q and k instead of the soft caps, and five local layers for
// each global one; local layers turn by a rope of their own, plain and with a small base.
//
// Gemma Team, "Gemma 3 Technical Report", arXiv:2503.19786.

#include <cmath>

#include "model/architectures.h"

namespace millrace::model {
namespace {

absl::Status Complete(ModelConfig* config) {
  config->activation = kernels::Activation::kGeluTanh;
  config->post_norms = true;
  config->qk_norm = true;
  config->embedding_scale = std::sqrt(static_cast<double>(config->hidden));
  if (config->window > 0 && config->local_layers.empty()) {
    config->local_layers = EveryNthGlobal(config->layers, 6);
  }
  if (config->window > 0 && !config->local_rope.has_value()) {
    RopeConfig local;
    local.freq_base = 10000.0;
    local.rotary_dim = config->rope.rotary_dim;
    local.interleaved = config->rope.interleaved;
    config->local_rope = local;
  }
  // GGUF has no key for it: 27B (62 layers) divides by its width a head, the others by head_dim.
  if (config->query_scale == 0 && config->layers == 62 && config->heads > 0) {
    config->query_scale =
        std::sqrt(static_cast<double>(config->heads) / static_cast<double>(config->hidden));
  }
  return absl::OkStatus();
}

}  // namespace

constexpr Architecture kGemma3 = {.name = "gemma3", .complete = &Complete};

}  // namespace millrace::model
