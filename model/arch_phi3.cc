// Phi-3, 3.5 and 4 (mini and medium): Llama with rope over part of a head, longrope and a window
// where a file says so. Files hold q, k, v as one tensor and gate, up as one: the readers split
// them.
//
// Marah Abdin et al., "Phi-3 Technical Report", arXiv:2404.14219.

#include "model/architectures.h"

namespace millrace::model {
namespace {

// All of it is in the file. Longrope's factor is the ratio of the two contexts where none is given.
absl::Status Complete(ModelConfig* config) {
  RopeConfig& rope = config->rope;
  if (rope.scaling == RopeScaling::kLongRope && rope.factor == 1.0 && rope.original_context > 0) {
    rope.factor =
        static_cast<double>(config->context_length) / static_cast<double>(rope.original_context);
  }
  return absl::OkStatus();
}

}  // namespace

constexpr Architecture kPhi3 = {.name = "phi3", .complete = &Complete};

}  // namespace millrace::model
