// The tokenizer's keys, checked as a whole before any tokenizer sees them.
#include <cctype>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/gguf_model.h"

namespace millrace::model {
namespace {

constexpr size_t kMaxTokenBytes = 64 * 1024;
// A merge is one way to split a token in two, and a file may list several of a token: Llama 3 has
// 280,147 for 128,256 tokens.
constexpr size_t kMergesPerToken = 8;
constexpr int32_t kByteToken = 6;  // llama.cpp's LLAMA_TOKEN_TYPE_BYTE

absl::Status Error(const GgufMetadata& metadata, std::string_view key, std::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat(metadata.file_name(), ": key ", QuoteName(key), " ", std::string(why)));
}

absl::Status CheckLength(const GgufMetadata& metadata, std::string_view key, size_t length,
                         int64_t wanted) {
  if (static_cast<int64_t>(length) == wanted) return absl::OkStatus();
  return Error(metadata, key,
               absl::StrCat("has ", length, " elements; the vocabulary has ", wanted));
}

absl::Status CheckId(const GgufMetadata& metadata, std::string_view name, int64_t vocab_size) {
  const std::string key = absl::StrCat("tokenizer.ggml.", std::string(name), "_token_id");
  if (!metadata.Has(key)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int64_t id, metadata.Int(key));
  if (id >= 0 && id < vocab_size) return absl::OkStatus();
  return Error(metadata, key,
               absl::StrCat("is ", id, "; the vocabulary has ", vocab_size, " tokens"));
}

// "<0x0A>" and nothing else.
bool IsByteToken(std::string_view text) {
  return text.size() == 6 && text.substr(0, 3) == "<0x" && text[5] == '>' &&
         std::isxdigit(static_cast<unsigned char>(text[3])) &&
         std::isxdigit(static_cast<unsigned char>(text[4]));
}

absl::Status CheckTypes(const GgufMetadata& metadata, const std::vector<std::string_view>& tokens) {
  constexpr std::string_view kKey = "tokenizer.ggml.token_type";
  if (!metadata.Has(kKey)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<double> types, metadata.Numbers(kKey));
  RETURN_IF_ERROR(CheckLength(metadata, kKey, types.size(), static_cast<int64_t>(tokens.size())));
  for (size_t i = 0; i < types.size(); ++i) {
    // Also refuses NaN and fractions, which only a list of floats can hold.
    if (!(types[i] >= 0 && types[i] <= kByteToken) || types[i] != std::floor(types[i])) {
      return Error(metadata, kKey, absl::StrCat("[", i, "] is ", types[i], ": no token type"));
    }
    if (types[i] == kByteToken && !IsByteToken(tokens[i])) {
      return Error(metadata, "tokenizer.ggml.tokens",
                   absl::StrCat("[", i, "] ", QuoteName(tokens[i]), " is no byte token"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckTokenizerKeys(const GgufMetadata& metadata, int64_t vocab_size) {
  constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
  constexpr std::string_view kScores = "tokenizer.ggml.scores";
  constexpr std::string_view kMerges = "tokenizer.ggml.merges";
  constexpr std::string_view kCharsMap = "tokenizer.ggml.precompiled_charsmap";
  if (metadata.Has(kTokens)) {
    ASSIGN_OR_RETURN(const std::vector<std::string_view> tokens, metadata.Strings(kTokens));
    RETURN_IF_ERROR(CheckLength(metadata, kTokens, tokens.size(), vocab_size));
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i].size() <= kMaxTokenBytes) continue;
      return Error(
          metadata, kTokens,
          absl::StrCat("[", i, "] has ", tokens[i].size(), " bytes; at most ", kMaxTokenBytes));
    }
    RETURN_IF_ERROR(CheckTypes(metadata, tokens));
  }
  if (metadata.Has(kScores)) {
    ASSIGN_OR_RETURN(const std::vector<double> scores, metadata.Numbers(kScores));
    RETURN_IF_ERROR(CheckLength(metadata, kScores, scores.size(), vocab_size));
  }
  if (metadata.Has(kMerges)) {
    ASSIGN_OR_RETURN(const std::vector<std::string_view> merges, metadata.Strings(kMerges));
    if (merges.size() > kMergesPerToken * static_cast<size_t>(vocab_size)) {
      return Error(metadata, kMerges,
                   absl::StrCat("has ", merges.size(), " entries for ", vocab_size, " tokens"));
    }
  }
  if (metadata.Has(kCharsMap)) return Error(metadata, kCharsMap, "is not supported");
  for (const char* name : {"bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask"}) {
    RETURN_IF_ERROR(CheckId(metadata, name, vocab_size));
  }
  return absl::OkStatus();
}

}  // namespace millrace::model
