#include "cli/gguf_text.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace millrace::cli {
namespace {

using model::GgufMetadata;
using text::TokenKind;

absl::Status Wrong(const GgufMetadata& metadata, const char* key, const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat(metadata.file_name(), ": ", "tokenizer.ggml.", key, ": ", what));
}

// llama.cpp's token types, 1 to 6.
absl::StatusOr<TokenKind> KindOf(double type, const GgufMetadata& metadata) {
  switch (static_cast<int>(type)) {
    case 1:
      return TokenKind::kNormal;
    case 2:
      return TokenKind::kUnknown;
    case 3:
      return TokenKind::kControl;
    case 4:
      return TokenKind::kUserDefined;
    case 5:
      return TokenKind::kUnused;
    case 6:
      return TokenKind::kByte;
    default:
      return Wrong(metadata, "token_type", absl::StrCat("type ", type, " does not exist"));
  }
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

std::vector<std::string> Copy(const std::vector<std::string_view>& views) {
  return {views.begin(), views.end()};
}

// A boolean key, or what holds without it.
absl::StatusOr<bool> BoolOr(const GgufMetadata& metadata, const char* key, bool fallback) {
  const std::string full = absl::StrCat("tokenizer.ggml.", key);
  if (!metadata.Has(full)) return fallback;
  return metadata.Bool(full);
}

// Byte-level BPE: merge rules, and a name for the splits.
absl::Status ReadBpe(const GgufMetadata& metadata, text::TokenizerSpec& spec) {
  spec.model = "bpe";
  ASSIGN_OR_RETURN(const std::string_view pre, metadata.String("tokenizer.ggml.pre"));
  spec.pre_tokenizer = std::string(pre);
  ASSIGN_OR_RETURN(const auto merges, metadata.Strings("tokenizer.ggml.merges"));
  spec.merges = Copy(merges);
  // llama.cpp puts it first for these vocabularies even when the key is missing.
  const bool llama3 = pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3";
  ASSIGN_OR_RETURN(spec.add_bos, BoolOr(metadata, "add_bos_token", llama3));
  ASSIGN_OR_RETURN(spec.add_eos, BoolOr(metadata, "add_eos_token", false));
  return absl::OkStatus();
}

// SentencePiece: neighbours merge by score, and bytes spell what has no token. What absent keys
// mean: llama.cpp.
absl::Status ReadSentencePiece(const GgufMetadata& metadata, text::TokenizerSpec& spec) {
  spec.model = "spm";
  ASSIGN_OR_RETURN(const auto scores, metadata.Numbers("tokenizer.ggml.scores"));
  if (scores.size() != spec.tokens.size()) {
    return Wrong(metadata, "scores",
                 absl::StrCat(scores.size(), " entries for ", spec.tokens.size(), " tokens"));
  }
  for (const double score : scores) spec.scores.push_back(static_cast<float>(score));
  ASSIGN_OR_RETURN(spec.add_bos, BoolOr(metadata, "add_bos_token", true));
  ASSIGN_OR_RETURN(spec.add_eos, BoolOr(metadata, "add_eos_token", false));
  ASSIGN_OR_RETURN(const bool prefix, BoolOr(metadata, "add_space_prefix", true));
  ASSIGN_OR_RETURN(const bool strip, BoolOr(metadata, "remove_extra_whitespaces", false));
  if (strip) return Wrong(metadata, "remove_extra_whitespaces", "true is not supported");
  text::SetSentencePieceSteps(prefix, spec);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<text::TokenizerSpec> TokenizerSpecFromGguf(const GgufMetadata& metadata) {
  ASSIGN_OR_RETURN(const std::string_view kind, metadata.String("tokenizer.ggml.model"));
  if (kind != "gpt2" && kind != "llama") {
    return Wrong(
        metadata, "model",
        absl::StrCat(model::QuoteName(kind), " is not supported (supported: gpt2, llama)"));
  }
  text::TokenizerSpec spec;
  ASSIGN_OR_RETURN(const auto tokens, metadata.Strings("tokenizer.ggml.tokens"));
  ASSIGN_OR_RETURN(const auto types, metadata.Numbers("tokenizer.ggml.token_type"));
  if (types.size() != tokens.size()) {
    return Wrong(metadata, "token_type",
                 absl::StrCat(types.size(), " entries for ", tokens.size(), " tokens"));
  }
  spec.tokens = Copy(tokens);
  spec.kinds.reserve(types.size());
  for (const double type : types) {
    ASSIGN_OR_RETURN(const TokenKind token_kind, KindOf(type, metadata));
    spec.kinds.push_back(token_kind);
  }
  ASSIGN_OR_RETURN(spec.bos, IdOf(metadata, "bos_token_id", tokens.size()));
  ASSIGN_OR_RETURN(spec.eos, IdOf(metadata, "eos_token_id", tokens.size()));
  ASSIGN_OR_RETURN(spec.unknown, IdOf(metadata, "unknown_token_id", tokens.size()));
  RETURN_IF_ERROR(kind == "gpt2" ? ReadBpe(metadata, spec) : ReadSentencePiece(metadata, spec));
  return spec;
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
