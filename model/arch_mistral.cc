// Mistral 7B: Llama, and (version 0.1) every layer sees a window only. GGUF files of it say
// "llama".
//
// Albert Jiang et al., "Mistral 7B", arXiv:2310.06825.

#include "model/architectures.h"

namespace millrace::model {
namespace {

// All of it is in the file: a window without a list of local layers means that all are.
absl::Status Complete(ModelConfig*) {
  return absl::OkStatus();
}

}  // namespace

constexpr Architecture kMistral = {.name = "mistral", .complete = &Complete};

}  // namespace millrace::model
