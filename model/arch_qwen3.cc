// Qwen 3 (dense): Llama, and each head of q and k has an RMS norm before rope.
//
// An Yang et al., "Qwen3 Technical Report", arXiv:2505.09388.

#include "model/architectures.h"

namespace millrace::model {
namespace {

absl::Status Complete(ModelConfig* config) {
  config->qk_norm = true;
  return absl::OkStatus();
}

}  // namespace

constexpr Architecture kQwen3 = {.name = "qwen3", .complete = &Complete};

}  // namespace millrace::model
