#include "text/gguf_vocabulary.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "text/json_field.h"

namespace millrace::text {
namespace {

absl::Status Wrong(const GgufVocabulary& vocabulary, const char* key, const std::string& what) {
  return absl::InvalidArgumentError(vocabulary.file_name + ": tokenizer.ggml." + key + ": " + what);
}

absl::Status ReadKinds(const GgufVocabulary& vocabulary, TokenizerSpec& spec) {
  const std::vector<double>& types = vocabulary.token_types;
  if (types.size() != vocabulary.tokens.size()) {
    return Wrong(vocabulary, "token_type",
                 std::to_string(types.size()) + " entries for " +
                     std::to_string(vocabulary.tokens.size()) + " tokens");
  }
  constexpr TokenKind kKinds[] = {TokenKind::kNormal,      TokenKind::kUnknown, TokenKind::kControl,
                                  TokenKind::kUserDefined, TokenKind::kUnused,  TokenKind::kByte};
  spec.kinds.reserve(types.size());
  for (size_t i = 0; i < types.size(); ++i) {
    if (!(types[i] >= 1 && types[i] <= 6)) {
      return Wrong(vocabulary, "token_type",
                   "that of token " + std::to_string(i) + " is none of 1 to 6");
    }
    spec.kinds.push_back(kKinds[static_cast<int>(types[i]) - 1]);
  }
  return absl::OkStatus();
}

// An absent key leaves `id` as it is.
absl::Status ReadId(const GgufVocabulary& vocabulary, const char* key,
                    const std::optional<int64_t>& value, TokenId& id) {
  if (!value.has_value()) return absl::OkStatus();
  if (*value < 0 || static_cast<uint64_t>(*value) >= vocabulary.tokens.size()) {
    return Wrong(vocabulary, key,
                 std::to_string(*value) + " is outside the vocabulary of " +
                     std::to_string(vocabulary.tokens.size()));
  }
  id = static_cast<TokenId>(*value);
  return absl::OkStatus();
}

absl::Status ReadPieces(const GgufVocabulary& vocabulary, TokenizerSpec& spec) {
  spec.model = "spm";
  const size_t n = vocabulary.tokens.size();
  if (vocabulary.scores.size() != n) {
    return Wrong(
        vocabulary, "scores",
        std::to_string(vocabulary.scores.size()) + " entries for " + std::to_string(n) + " tokens");
  }
  spec.scores.assign(vocabulary.scores.begin(), vocabulary.scores.end());
  SetSentencePieceSteps(vocabulary.add_space_prefix.value_or(true), spec);
  return absl::OkStatus();
}

// Phi-3's special tokens take the white space behind them along, which its tokenizer.json says and
// a GGUF file has no key for; the reference implementation goes by the model's name, too.
void AddPhi3Rules(TokenizerSpec& spec) {
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const TokenKind kind = spec.kinds[i];
    if (kind != TokenKind::kControl && kind != TokenKind::kUserDefined) continue;
    const std::string& text = spec.tokens[i];
    if (text == "<s>" || text == "<unk>" || text == "<|endoftext|>") continue;
    AddedToken& token = spec.added.emplace_back();
    token.id = static_cast<TokenId>(i);
    token.rstrip = true;
  }
}

bool IsPhi3(std::string name) {
  for (char& c : name) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  }
  return name.find("phi-3") != std::string::npos || name.find("phi3") != std::string::npos;
}

}  // namespace

absl::StatusOr<TokenizerSpec> TokenizerSpecFromGguf(GgufVocabulary vocabulary) {
  const bool pieces = vocabulary.model == "llama";
  if (!pieces && vocabulary.model != "gpt2") {
    return Wrong(vocabulary, "model",
                 Quoted(vocabulary.model) + " is not supported (supported: gpt2, llama)");
  }
  TokenizerSpec spec;
  // What an absent key means: the files' writer, llama.cpp, has these as defaults.
  const std::string& pre = vocabulary.pre;
  const bool is_llama3 = !pieces && (pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3");
  const auto n = static_cast<TokenId>(vocabulary.tokens.size());
  if (pieces && n > 2) spec.unknown = 0, spec.bos = 1, spec.eos = 2;
  RETURN_IF_ERROR(ReadKinds(vocabulary, spec));
  RETURN_IF_ERROR(ReadId(vocabulary, "bos_token_id", vocabulary.bos_token_id, spec.bos));
  RETURN_IF_ERROR(ReadId(vocabulary, "eos_token_id", vocabulary.eos_token_id, spec.eos));
  RETURN_IF_ERROR(
      ReadId(vocabulary, "unknown_token_id", vocabulary.unknown_token_id, spec.unknown));
  spec.add_bos = vocabulary.add_bos_token.value_or((pieces || is_llama3) && spec.bos >= 0);
  spec.add_eos = vocabulary.add_eos_token.value_or(false);
  if (pieces) {
    RETURN_IF_ERROR(ReadPieces(vocabulary, spec));
  } else {
    if (pre.empty()) return Wrong(vocabulary, "pre", "is missing");
    spec.pre_tokenizer = pre;
    spec.merges = std::move(vocabulary.merges);
  }
  spec.tokens = std::move(vocabulary.tokens);
  if (IsPhi3(vocabulary.model_name)) AddPhi3Rules(spec);
  return spec;
}

}  // namespace millrace::text
