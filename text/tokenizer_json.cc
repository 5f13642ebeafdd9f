#include "text/tokenizer_json.h"

#include <bitset>

#include "absl/container/flat_hash_map.h"
#include "base/status_macros.h"
#include "text/json_field.h"
#include "text/token_bytes.h"
#include "text/tokenizer_json_steps.h"

namespace millrace::text {
namespace {

// Far above what is published (Gemma 3: 6,242); the trie that finds them is the bound's reason.
constexpr size_t kAddedMax = 65'536;
// Published vocabularies leave ids free (Phi-4-mini: a few); an id alone must not make us allocate.
constexpr size_t kFreeIdsMax = 65'536;

using IdsByText = absl::flat_hash_map<std::string_view, TokenId>;

// Everything about the vocabulary of one file while it is read.
struct Vocabulary {
  IdsByText ids;  // views into the file's Json
  TokenizerSpec& spec;

  // Puts a token at its id. False if another token is there.
  bool Place(size_t id, std::string_view text, TokenKind kind) {
    if (id >= spec.tokens.size()) {
      spec.tokens.resize(id + 1);
      spec.kinds.resize(id + 1, TokenKind::kUnused);
    }
    if (spec.kinds[id] != TokenKind::kUnused && spec.tokens[id] != text) return false;
    spec.tokens[id] = std::string(text);
    spec.kinds[id] = kind;
    return true;
  }
};

absl::Status ReadVocab(const JsonField& field, int64_t id_max, Vocabulary& vocabulary) {
  RETURN_IF_ERROR(field.IsObject());
  const JsonObject& object = field.json().object();
  vocabulary.ids.reserve(object.size());
  for (const JsonMember& member : object) {
    int64_t id = -1;
    if (!member.second.GetInt64(&id) || id < 0 || id > id_max) {
      return field.Wrong("the id of " + Quoted(member.first) + " is not an integer from 0 to " +
                         std::to_string(id_max));
    }
    const bool is_byte = vocabulary.spec.byte_fallback && ByteOfToken(member.first) >= 0;
    if (!vocabulary.Place(static_cast<size_t>(id), member.first,
                          is_byte ? TokenKind::kByte : TokenKind::kNormal)) {
      return field.Wrong("two tokens have id " + std::to_string(id));
    }
    vocabulary.ids.emplace(member.first, static_cast<TokenId>(id));
  }
  return absl::OkStatus();
}

absl::Status ReadMerge(const JsonField& field, size_t index, Vocabulary& vocabulary) {
  const Json& merge = field.json().array()[index];
  std::string_view left;
  std::string_view right;
  if (merge.is_string()) {
    const std::string_view text = merge.string_value();
    if (text.substr(0, 8) == "#version") return absl::OkStatus();
    const size_t space = text.find(' ');
    if (space != std::string_view::npos && text.find(' ', space + 1) == std::string_view::npos) {
      left = text.substr(0, space);
      right = text.substr(space + 1);
    }
  } else if (merge.is_array() && merge.array().size() == 2 && merge.array()[0].is_string() &&
             merge.array()[1].is_string()) {
    left = merge.array()[0].string_value();
    right = merge.array()[1].string_value();
  }
  if (left.empty() || right.empty()) return field.At(index).Wrong("is not two tokens");
  const auto left_it = vocabulary.ids.find(left);
  const auto right_it = vocabulary.ids.find(right);
  if (left_it == vocabulary.ids.end() || right_it == vocabulary.ids.end()) {
    return field.At(index).Wrong(Quoted(left_it == vocabulary.ids.end() ? left : right) +
                                 " is not in the vocabulary");
  }
  if (vocabulary.ids.find(std::string(left).append(right)) == vocabulary.ids.end()) {
    return field.At(index).Wrong("what it makes is not in the vocabulary");
  }
  vocabulary.spec.merge_ids.emplace_back(left_it->second, right_it->second);
  return absl::OkStatus();
}

absl::Status ReadModel(const JsonField& field, int64_t id_max, Vocabulary& vocabulary) {
  TokenizerSpec& spec = vocabulary.spec;
  RETURN_IF_ERROR(field.IsObject());
  // Files of before 2020 have no type; then it is one that has merges.
  ASSIGN_OR_RETURN(const std::string type, field["type"].String("BPE"));
  if (type != "BPE") return field["type"].Wrong(Quoted(type) + " is not supported");
  RETURN_IF_ERROR(field.HasOnly({"type", "dropout", "unk_token", "continuing_subword_prefix",
                                 "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges",
                                 "vocab", "merges"}));
  if (!field["dropout"].absent()) RETURN_IF_ERROR(field["dropout"].Double(0, 0).status());
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::string affix, field[name].String(""));
    if (!affix.empty()) return field[name].Wrong("is not supported");
  }
  ASSIGN_OR_RETURN(spec.fuse_unknown, field["fuse_unk"].Bool(false));
  ASSIGN_OR_RETURN(spec.byte_fallback, field["byte_fallback"].Bool(false));
  ASSIGN_OR_RETURN(spec.ignore_merges, field["ignore_merges"].Bool(false));
  RETURN_IF_ERROR(ReadVocab(field["vocab"], id_max, vocabulary));
  const JsonField merges = field["merges"];
  RETURN_IF_ERROR(merges.IsArray());
  spec.merge_ids.reserve(merges.json().array().size());
  for (size_t i = 0; i < merges.json().array().size(); ++i) {
    RETURN_IF_ERROR(ReadMerge(merges, i, vocabulary));
  }
  return absl::OkStatus();
}

absl::Status ReadAddedToken(const JsonField& field, int64_t id_max, Vocabulary& vocabulary) {
  RETURN_IF_ERROR(
      field.HasOnly({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
  AddedToken token;
  ASSIGN_OR_RETURN(const int64_t id, field["id"].Int(0, id_max));
  token.id = static_cast<TokenId>(id);
  ASSIGN_OR_RETURN(const std::string content, field["content"].String(""));
  if (content.empty()) return field["content"].Wrong("is empty");
  ASSIGN_OR_RETURN(token.single_word, field["single_word"].Bool(false));
  ASSIGN_OR_RETURN(token.lstrip, field["lstrip"].Bool(false));
  ASSIGN_OR_RETURN(token.rstrip, field["rstrip"].Bool(false));
  ASSIGN_OR_RETURN(const bool special, field["special"].Bool(false));
  ASSIGN_OR_RETURN(token.normalized, field["normalized"].Bool(!special));
  const auto known = vocabulary.ids.find(content);
  if (known != vocabulary.ids.end() && known->second != token.id) {
    return field["id"].Wrong("is " + std::to_string(id) + ", but " + Quoted(content) + " has id " +
                             std::to_string(known->second) + " already");
  }
  if (!vocabulary.Place(static_cast<size_t>(id), content,
                        special ? TokenKind::kControl : TokenKind::kUserDefined)) {
    return field["id"].Wrong(std::to_string(id) + " is another token already");
  }
  vocabulary.ids.emplace(field["content"].json().string_value(), token.id);
  vocabulary.spec.added.push_back(token);
  return absl::OkStatus();
}

// A symbol that has no token is spelled in bytes, or it is the unknown token, or it is left out.
absl::Status ReadUnknown(const JsonField& model, Vocabulary& vocabulary) {
  TokenizerSpec& spec = vocabulary.spec;
  const JsonField field = model["unk_token"];
  ASSIGN_OR_RETURN(const std::string text, field.String(""));
  if (!text.empty()) {
    const auto it = vocabulary.ids.find(text);
    if (it == vocabulary.ids.end()) return field.Wrong(Quoted(text) + " is not in the vocabulary");
    spec.unknown = it->second;
    spec.emit_unknown = true;
  }
  if (spec.model != "bpe" || !spec.byte_fallback) return absl::OkStatus();
  // With ByteLevel every byte is a character of the alphabet. If all of them have tokens there is
  // nothing to fall back from.
  std::bitset<256> have;
  for (const std::string& bytes : TokenBytesOf(spec)) {
    if (bytes.size() == 1) have.set(static_cast<unsigned char>(bytes[0]));
  }
  return have.all() ? absl::OkStatus()
                    : model["byte_fallback"].Wrong("is not supported with ByteLevel");
}

}  // namespace

JsonLimits TokenizerJsonLimits() {
  JsonLimits limits;
  limits.bytes_max = size_t{128} << 20;
  limits.values_max = 8'000'000;
  limits.keys_per_object_max = size_t{1} << 20;
  return limits;
}

absl::StatusOr<TokenizerSpec> TokenizerSpecFromJson(std::string_view json,
                                                    const std::string& file_name) {
  absl::StatusOr<Json> parsed = Json::Parse(json, TokenizerJsonLimits());
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(file_name + ": " + std::string(parsed.status().message()));
  }
  const JsonField root(*parsed, file_name);
  // Truncation and padding are a caller's choice in the reference too; it overrides what is here.
  RETURN_IF_ERROR(root.HasOnly({"version", "truncation", "padding", "added_tokens", "normalizer",
                                "pre_tokenizer", "post_processor", "decoder", "model"}));
  TokenizerSpec spec;
  Vocabulary vocabulary{{}, spec};
  RETURN_IF_ERROR(ReadNormalizer(root["normalizer"], spec));
  RETURN_IF_ERROR(ReadPreTokenizer(root["pre_tokenizer"], spec));
  const JsonField added = root["added_tokens"];
  size_t added_count = 0;
  if (!added.absent()) {
    RETURN_IF_ERROR(added.IsArray());
    added_count = added.json().array().size();
    if (added_count > kAddedMax) {
      return added.Wrong(std::to_string(added_count) + " tokens, at most " +
                         std::to_string(kAddedMax));
    }
  }
  RETURN_IF_ERROR(root["model"].IsObject());
  RETURN_IF_ERROR(root["model"]["vocab"].IsObject());
  const size_t vocab_count = root["model"]["vocab"].json().object().size();
  const auto id_max = static_cast<int64_t>(vocab_count + added_count + kFreeIdsMax);
  RETURN_IF_ERROR(ReadModel(root["model"], id_max, vocabulary));
  for (size_t i = 0; i < added_count; ++i) {
    RETURN_IF_ERROR(ReadAddedToken(added.At(i), id_max, vocabulary));
  }
  if (spec.tokens.empty()) return root["model"]["vocab"].Wrong("is empty");
  RETURN_IF_ERROR(ReadUnknown(root["model"], vocabulary));
  RETURN_IF_ERROR(ReadDecoder(root["decoder"], spec));
  RETURN_IF_ERROR(ReadPostProcessor(root["post_processor"], spec));
  return spec;
}

}  // namespace millrace::text
