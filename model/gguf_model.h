#pragma once
// GGUF's names and keys turned into the neutral description. Tables only: no weight is read.

#include <cstdint>

#include "absl/status/statusor.h"
#include "model/gguf.h"
#include "model/weights.h"

namespace millrace::model {

// A validated configuration and tensors that point into the bytes that `contents` was parsed from.
// Errors are one line that names the file and the key or tensor. A key that would change the answer
// and is not implemented is refused by name.
absl::StatusOr<ModelDescription> DescribeGguf(const GgufContents& contents);

// The tokenizer's keys, where there are any: every list of the right type and as long as the
// vocabulary, every id inside it, byte tokens well-formed.
absl::Status CheckTokenizerKeys(const GgufMetadata& metadata, int64_t vocab_size);

}  // namespace millrace::model
