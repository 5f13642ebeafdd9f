#pragma once
// A tokenizer from the tokenizer.ggml.* values of a GGUF file. Reading them out of the file is the
// caller's (text/ knows no file format); what they mean, and what an absent one means, is here.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "text/tokenizer_spec.h"

namespace millrace::text {

// One member a key; what is absent in the file stays empty.
struct GgufVocabulary {
  std::string file_name;   // for messages
  std::string model_name;  // general.name
  std::string model;       // "gpt2": byte-level BPE; "llama": SentencePiece pieces
  std::string pre;         // of "gpt2" only
  std::vector<std::string> tokens;
  std::vector<double>
      token_types;             // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
  std::vector<double> scores;  // of "llama" only
  std::vector<std::string> merges;  // of "gpt2" only
  std::optional<int64_t> bos_token_id;
  std::optional<int64_t> eos_token_id;
  std::optional<int64_t> unknown_token_id;
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
  std::optional<bool> add_space_prefix;
};

// InvalidArgument names the file and the key. (What Tokenizer::Create finds is not checked here.)
absl::StatusOr<TokenizerSpec> TokenizerSpecFromGguf(GgufVocabulary vocabulary);

}  // namespace millrace::text
