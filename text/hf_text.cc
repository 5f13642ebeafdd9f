// The files beside a tokenizer.json: which tokens are bos, eos and pad, and the chat template.
#include <algorithm>

#include "base/status_macros.h"
#include "text/json_field.h"
#include "text/tokenizer_json.h"

namespace millrace::text {
namespace {

absl::StatusOr<Json> ParseFile(std::optional<std::string_view> text, const std::string& name) {
  if (!text.has_value()) return Json(JsonObject{});
  absl::StatusOr<Json> parsed = Json::Parse(*text);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(name + ": " + std::string(parsed.status().message()));
  }
  return parsed;
}

// The text of a named special token: a string, or an object with its content; "" if absent.
absl::StatusOr<std::string> SpecialText(const JsonField& field) {
  if (field.absent() || !field.json().is_object()) return field.String("");
  return field["content"].String("");
}

TokenId FindAdded(const TokenizerSpec& spec, std::string_view text) {
  TokenId found = -1;
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    if (spec.tokens[i] != text || spec.kinds[i] == TokenKind::kUnused) continue;
    const bool added = spec.kinds[i] != TokenKind::kNormal && spec.kinds[i] != TokenKind::kByte;
    if (added) return static_cast<TokenId>(i);
    if (found < 0) found = static_cast<TokenId>(i);
  }
  return found;
}

// As the reference (transformers 5) does: special_tokens_map.json is older than a config that lists
// the added tokens, which then says all; before such a config the map goes first.
absl::StatusOr<TokenId> NamedToken(const JsonField& config, const JsonField& map, const char* name,
                                   const TokenizerSpec& spec) {
  std::string text;
  const bool use_map = config["added_tokens_decoder"].absent() && !map[name].absent();
  const JsonField from = use_map ? map[name] : config[name];
  ASSIGN_OR_RETURN(text, SpecialText(from));
  if (text.empty()) return -1;
  const TokenId id = FindAdded(spec, text);
  if (id < 0) return from.Wrong(Quoted(text) + " is not in the vocabulary");
  return id;
}

// The config lists added tokens again, by id. Those that tokenizer.json lacks are added.
absl::Status AddConfigTokens(const JsonField& list, TokenizerSpec& spec) {
  if (list.absent()) return absl::OkStatus();
  RETURN_IF_ERROR(list.IsObject());
  for (const JsonMember& member : list.json().object()) {
    const JsonField field = list[member.first];
    int64_t number = -1;
    const bool is_id = Json(JsonNumber{member.first}).GetInt64(&number);
    const size_t end = spec.tokens.size();
    // One behind the last extends the vocabulary.
    if (!is_id || number < 0 || static_cast<uint64_t>(number) > end) {
      return field.Wrong("is not an id of the vocabulary");
    }
    const size_t id = static_cast<size_t>(number);
    ASSIGN_OR_RETURN(const std::string content, field["content"].String(""));
    ASSIGN_OR_RETURN(const bool special, field["special"].Bool(false));
    if (id < end && spec.kinds[id] != TokenKind::kUnused) {
      if (spec.tokens[id] == content) continue;
      return field["content"].Wrong("is " + Quoted(content) + ", but tokenizer.json has " +
                                    Quoted(spec.tokens[id]));
    }
    if (content.empty()) return field["content"].Wrong("is empty");
    AddedToken token;
    token.id = static_cast<TokenId>(id);
    ASSIGN_OR_RETURN(token.single_word, field["single_word"].Bool(false));
    ASSIGN_OR_RETURN(token.lstrip, field["lstrip"].Bool(false));
    ASSIGN_OR_RETURN(token.rstrip, field["rstrip"].Bool(false));
    ASSIGN_OR_RETURN(token.normalized, field["normalized"].Bool(!special));
    if (id == end) {
      spec.tokens.emplace_back();
      spec.kinds.push_back(TokenKind::kUnused);
    }
    spec.tokens[id] = content;
    spec.kinds[id] = special ? TokenKind::kControl : TokenKind::kUserDefined;
    spec.added.push_back(token);
  }
  return absl::OkStatus();
}

absl::Status ReadTemplates(const JsonField& field, HfText& text) {
  if (field.absent()) return absl::OkStatus();
  if (field.json().is_string()) {
    text.chat_template = field.json().string_value();
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(field.IsArray());
  for (size_t i = 0; i < field.json().array().size(); ++i) {
    const JsonField entry = field.At(i);
    RETURN_IF_ERROR(entry.IsObject());
    ASSIGN_OR_RETURN(std::string name, entry["name"].String(""));
    ASSIGN_OR_RETURN(std::string source, entry["template"].String(""));
    if (name == "default") {
      text.chat_template = std::move(source);
    } else {
      text.named_templates.emplace_back(std::move(name), std::move(source));
    }
  }
  if (!text.chat_template.has_value() && text.named_templates.size() == 1) {
    text.chat_template = text.named_templates[0].second;
  }
  return absl::OkStatus();
}

absl::Status CheckEndTokens(const HfText& text, const std::string& file) {
  for (TokenId id : text.generation.end_tokens) {
    if (static_cast<size_t>(id) < text.spec.tokens.size()) continue;
    return absl::InvalidArgumentError(file + ": eos_token_id: " + std::to_string(id) +
                                      " is outside the vocabulary of " +
                                      std::to_string(text.spec.tokens.size()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<HfText> ReadHfText(const HfTextFiles& files) {
  const std::string at = files.directory.empty() ? "" : files.directory + "/";
  const std::string config_name = at + "tokenizer_config.json";
  const std::string map_name = at + "special_tokens_map.json";
  const std::string generation_name = at + "generation_config.json";
  HfText text;
  ASSIGN_OR_RETURN(text.spec, TokenizerSpecFromJson(files.tokenizer_json, at + "tokenizer.json"));
  ASSIGN_OR_RETURN(const Json config_json, ParseFile(files.tokenizer_config, config_name));
  ASSIGN_OR_RETURN(const Json map_json, ParseFile(files.special_tokens_map, map_name));
  const JsonField config(config_json, config_name);
  const JsonField map(map_json, map_name);
  RETURN_IF_ERROR(config.IsObject());
  RETURN_IF_ERROR(map.IsObject());
  RETURN_IF_ERROR(AddConfigTokens(config["added_tokens_decoder"], text.spec));
  ASSIGN_OR_RETURN(text.spec.bos, NamedToken(config, map, "bos_token", text.spec));
  ASSIGN_OR_RETURN(text.spec.eos, NamedToken(config, map, "eos_token", text.spec));
  ASSIGN_OR_RETURN(text.pad, NamedToken(config, map, "pad_token", text.spec));
  // add_bos_token and add_eos_token are for tokenizers that are built from a vocabulary: where
  // there is a tokenizer.json, its post-processor says what is put around a text.
  RETURN_IF_ERROR(ReadTemplates(config["chat_template"], text));
  if (files.chat_template.has_value()) text.chat_template = std::string(*files.chat_template);
  if (files.generation_config.has_value()) {
    ASSIGN_OR_RETURN(text.generation,
                     ParseGenerationConfig(*files.generation_config, generation_name));
    RETURN_IF_ERROR(CheckEndTokens(text, generation_name));
  }
  std::vector<TokenId>& ends = text.generation.end_tokens;
  if (text.spec.eos >= 0 && std::find(ends.begin(), ends.end(), text.spec.eos) == ends.end()) {
    ends.push_back(text.spec.eos);
  }
  return text;
}

}  // namespace millrace::text
