#include "cli/gguf_text.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/gguf_vocabulary.h"

namespace millrace::cli {
namespace {

using model::GgufMetadata;

absl::Status Wrong(const GgufMetadata& metadata, const char* key, const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat(metadata.file_name(), ": ", "tokenizer.ggml.", key, ": ", what));
}

// An id key: absent is -1, outside the vocabulary is an error.
absl::StatusOr<TokenId> IdOf(const GgufMetadata& metadata, const char* key, size_t vocab_size) {
  const std::string full = absl::StrCat("tokenizer.ggml.", key);
  if (!metadata.Has(full)) return -1;
  ASSIGN_OR_RETURN(const int64_t id, metadata.Int(full));
  if (id < 0 || static_cast<uint64_t>(id) >= vocab_size) {
    return Wrong(metadata, key, absl::StrCat(id, " is outside the vocabulary of ", vocab_size));
  }
  return static_cast<TokenId>(id);
}

// "" when the file has no such key.
absl::StatusOr<std::string> StringOf(const GgufMetadata& metadata, const char* key) {
  if (!metadata.Has(key)) return std::string();
  ASSIGN_OR_RETURN(const std::string_view value, metadata.String(key));
  return std::string(value);
}

std::vector<std::string> Copy(const std::vector<std::string_view>& views) {
  return {views.begin(), views.end()};
}

}  // namespace

absl::StatusOr<text::TokenizerSpec> TokenizerSpecFromGguf(const GgufMetadata& metadata) {
  text::GgufVocabulary vocabulary;
  vocabulary.file_name = metadata.file_name();
  ASSIGN_OR_RETURN(vocabulary.model_name, StringOf(metadata, "general.name"));
  ASSIGN_OR_RETURN(const std::string_view kind, metadata.String("tokenizer.ggml.model"));
  vocabulary.model = std::string(kind);
  ASSIGN_OR_RETURN(vocabulary.pre, StringOf(metadata, "tokenizer.ggml.pre"));
  ASSIGN_OR_RETURN(const auto tokens, metadata.Strings("tokenizer.ggml.tokens"));
  vocabulary.tokens = Copy(tokens);
  ASSIGN_OR_RETURN(vocabulary.token_types, metadata.Numbers("tokenizer.ggml.token_type"));
  if (kind == "gpt2") {
    ASSIGN_OR_RETURN(const auto merges, metadata.Strings("tokenizer.ggml.merges"));
    vocabulary.merges = Copy(merges);
  } else if (kind == "llama") {
    ASSIGN_OR_RETURN(vocabulary.scores, metadata.Numbers("tokenizer.ggml.scores"));
  }
  const std::pair<const char*, std::optional<int64_t>*> ids[] = {
      {"tokenizer.ggml.bos_token_id", &vocabulary.bos_token_id},
      {"tokenizer.ggml.eos_token_id", &vocabulary.eos_token_id},
      {"tokenizer.ggml.unknown_token_id", &vocabulary.unknown_token_id}};
  for (const auto& id : ids) {
    if (!metadata.Has(id.first)) continue;
    ASSIGN_OR_RETURN(*id.second, metadata.Int(id.first));
  }
  const std::pair<const char*, std::optional<bool>*> flags[] = {
      {"tokenizer.ggml.add_bos_token", &vocabulary.add_bos_token},
      {"tokenizer.ggml.add_eos_token", &vocabulary.add_eos_token},
      {"tokenizer.ggml.add_space_prefix", &vocabulary.add_space_prefix}};
  for (const auto& flag : flags) {
    if (!metadata.Has(flag.first)) continue;
    ASSIGN_OR_RETURN(*flag.second, metadata.Bool(flag.first));
  }
  return text::TokenizerSpecFromGguf(std::move(vocabulary));
}

absl::StatusOr<std::optional<std::string>> ChatTemplateFromGguf(const GgufMetadata& metadata) {
  if (!metadata.Has("tokenizer.chat_template")) return std::nullopt;
  ASSIGN_OR_RETURN(const std::string_view source, metadata.String("tokenizer.chat_template"));
  return std::optional<std::string>(source);
}

absl::StatusOr<std::vector<TokenId>> EndTokensFromGguf(const GgufMetadata& metadata,
                                                       const text::TokenizerSpec& spec) {
  std::vector<TokenId> ends;
  if (spec.eos >= 0) ends.push_back(spec.eos);
  for (const char* key : {"eot_token_id", "eom_token_id"}) {
    ASSIGN_OR_RETURN(const TokenId id, IdOf(metadata, key, spec.tokens.size()));
    if (id >= 0 && std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
  }
  return ends;
}

}  // namespace millrace::cli
