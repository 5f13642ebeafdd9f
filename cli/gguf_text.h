#pragma once
// What text/ needs from a GGUF file: the vocabulary as a TokenizerSpec, and the chat template.
// Here, because text/ knows no file format and model/ no text.

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/gguf.h"
#include "text/tokenizer.h"

namespace millrace::cli {

// InvalidArgument names the file and the key: another tokenizer model, arrays of different lengths,
// token ids outside the vocabulary, token types that are none.
absl::StatusOr<text::TokenizerSpec> TokenizerSpecFromGguf(const model::GgufMetadata& metadata);

// nullopt when the file has none.
absl::StatusOr<std::optional<std::string>> ChatTemplateFromGguf(
    const model::GgufMetadata& metadata);

// End tokens: eos, and end of turn and of message where the file names them.
absl::StatusOr<std::vector<TokenId>> EndTokensFromGguf(const model::GgufMetadata& metadata,
                                                       const text::TokenizerSpec& spec);

}  // namespace millrace::cli
