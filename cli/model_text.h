#pragma once
// What text/ needs from a model, whichever format it has: a GGUF file's keys or the files of a
// Hugging Face directory.

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/load_model.h"
#include "text/generation_config.h"
#include "text/tokenizer_spec.h"

namespace millrace::cli {

struct ModelText {
  text::TokenizerSpec spec;
  std::optional<std::string> chat_template;  // nullopt: the model has none
  std::vector<TokenId> end_tokens;           // any of them ends a text
  text::GenerationConfig generation;         // directories only
};

// InvalidArgument or NotFound: one line that names the file and the key. Every id lies in the
// model's vocabulary; the tokenizer may know fewer tokens than that, never more.
absl::StatusOr<ModelText> ReadModelText(const model::ModelFile& file);

}  // namespace millrace::cli
