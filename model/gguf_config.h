#pragma once
// GGUF's keys of an architecture ("llama.block_count") as the neutral configuration. A key that
// would change the answers and is not implemented is refused by name.
// Names: gguf-py's constants; what absent keys mean: llama.cpp.

#include <vector>

#include "absl/status/status.h"
#include "model/config.h"
#include "model/gguf.h"

namespace millrace::model {

// All but what the tensors say: vocabulary, tied embeddings, biases, rope's factors. Errors are one
// line that names the file and the key.
absl::Status ReadGgufConfig(const GgufMetadata& metadata, ModelConfig* config);

// The same for rope when the file has the two tensors of longrope's divisors.
// REQUIRES: ReadGgufConfig has filled `config`.
absl::Status ReadGgufLongRope(const GgufMetadata& metadata, std::vector<float> short_factors,
                              std::vector<float> long_factors, ModelConfig* config);

}  // namespace millrace::model
