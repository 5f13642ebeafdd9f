// Llama 2 and 3.x: RMS norm, rotary attention with grouped queries, gated SiLU feed-forward, two
// residuals; rope plain, linear, llama3 or yarn; biases where a file has them.
//
// Hugo Touvron et al., "LLaMA", arXiv:2302.13971; grouped queries: arXiv:2305.13245.

#include "model/architectures.h"

namespace millrace::model {
namespace {

// All of it is in the file.
absl::Status Complete(ModelConfig*) {
  return absl::OkStatus();
}

}  // namespace

constexpr Architecture kLlama = {.name = "llama", .complete = &Complete};

}  // namespace millrace::model
