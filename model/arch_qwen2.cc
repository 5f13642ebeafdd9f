// Qwen 2 and 2.5: Llama, and the projections to q, k and v have biases.
//
// An Yang et al., "Qwen2 Technical Report", arXiv:2407.10671.

#include "model/architectures.h"

namespace millrace::model {
namespace {

absl::Status Complete(ModelConfig* config) {
  config->qkv_bias = true;
  return absl::OkStatus();
}

}  // namespace

constexpr Architecture kQwen2 = {.name = "qwen2", .complete = &Complete};

}  // namespace millrace::model
