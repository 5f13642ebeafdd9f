#include "text/generation_config.h"

#include <algorithm>
#include <limits>

#include "base/status_macros.h"
#include "text/json_field.h"

namespace millrace::text {
namespace {

constexpr int64_t kIdMax = std::numeric_limits<TokenId>::max();

// A value of a key that is off, whatever the key means.
bool IsOff(const Json& value) {
  double number = 0;
  if (value.is_null()) return true;
  if (value.is_bool()) return !value.bool_value();
  if (value.GetDouble(&number)) return number == 0;
  if (value.is_array()) return value.array().empty();
  if (value.is_object()) return value.object().empty();
  return value.is_string() && value.string_value().empty();
}

// Keys of transformers' GenerationConfig that change what is generated, with the number at which
// they do nothing (0 does nothing for all).
struct Unapplied {
  const char* key;
  double neutral;
};
constexpr Unapplied kUnapplied[] = {
    {"num_beams", 1},
    {"num_beam_groups", 1},
    {"diversity_penalty", 0},
    {"penalty_alpha", 0},
    {"no_repeat_ngram_size", 0},
    {"encoder_no_repeat_ngram_size", 0},
    {"typical_p", 1},
    {"epsilon_cutoff", 0},
    {"eta_cutoff", 0},
    {"length_penalty", 1},
    {"min_length", 0},
    {"min_new_tokens", 0},
    {"bad_words_ids", 0},
    {"force_words_ids", 0},
    {"suppress_tokens", 0},
    {"guidance_scale", 1},
    {"begin_suppress_tokens", 0},
    {"forced_bos_token_id", -1},
    {"top_h", 0},
    {"forced_eos_token_id", -1},
    {"sequence_bias", 0},
    {"stop_strings", 0},
    {"encoder_repetition_penalty", 1},
    {"watermarking_config", 0},
    {"constraints", 0},
    {"exponential_decay_length_penalty", 0},
};

absl::Status AddEndToken(const JsonField& field, GenerationConfig& config) {
  ASSIGN_OR_RETURN(const int64_t id, field.Int(0, kIdMax));
  const TokenId token = static_cast<TokenId>(id);
  std::vector<TokenId>& ends = config.end_tokens;
  if (std::find(ends.begin(), ends.end(), token) == ends.end()) ends.push_back(token);
  return absl::OkStatus();
}

absl::Status ReadEndTokens(const JsonField& field, GenerationConfig& config) {
  if (field.absent()) return absl::OkStatus();
  if (!field.json().is_array()) return AddEndToken(field, config);
  const size_t count = field.json().array().size();
  if (count > 1024) return field.Wrong("more than 1024 ids");
  for (size_t i = 0; i < count; ++i) RETURN_IF_ERROR(AddEndToken(field.At(i), config));
  return absl::OkStatus();
}

// One id; a list of several is taken by its first, as the reference does for bos and pad.
absl::Status ReadId(const JsonField& field, TokenId& id) {
  if (field.absent()) return absl::OkStatus();
  const JsonField one = field.json().is_array() ? field.At(0) : field;
  ASSIGN_OR_RETURN(const int64_t value, one.Int(0, kIdMax));
  id = static_cast<TokenId>(value);
  return absl::OkStatus();
}

absl::Status ReadNumber(const JsonField& field, double high, std::optional<double>& out) {
  if (field.absent()) return absl::OkStatus();
  ASSIGN_OR_RETURN(out, field.Double(0, high));
  return absl::OkStatus();
}

absl::Status ReadCount(const JsonField& field, int64_t low, std::optional<int64_t>& out) {
  if (field.absent()) return absl::OkStatus();
  ASSIGN_OR_RETURN(out, field.Int(low, std::numeric_limits<int32_t>::max()));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerationConfig> ParseGenerationConfig(std::string_view json,
                                                       const std::string& file_name) {
  absl::StatusOr<Json> parsed = Json::Parse(json);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(file_name + ": " + std::string(parsed.status().message()));
  }
  const JsonField root(*parsed, file_name);
  RETURN_IF_ERROR(root.IsObject());
  GenerationConfig config;
  RETURN_IF_ERROR(ReadEndTokens(root["eos_token_id"], config));
  RETURN_IF_ERROR(ReadId(root["bos_token_id"], config.bos));
  RETURN_IF_ERROR(ReadId(root["pad_token_id"], config.pad));
  if (!root["do_sample"].absent()) {
    ASSIGN_OR_RETURN(config.do_sample, root["do_sample"].Bool(false));
  }
  RETURN_IF_ERROR(ReadNumber(root["temperature"], 100, config.temperature));
  RETURN_IF_ERROR(ReadNumber(root["top_p"], 1, config.top_p));
  RETURN_IF_ERROR(ReadNumber(root["min_p"], 1, config.min_p));
  RETURN_IF_ERROR(ReadCount(root["top_k"], -1, config.top_k));
  RETURN_IF_ERROR(ReadNumber(root["repetition_penalty"], 100, config.repetition_penalty));
  RETURN_IF_ERROR(ReadCount(root["max_new_tokens"], 1, config.max_new_tokens));
  for (const Unapplied& entry : kUnapplied) {
    const JsonField field = root[entry.key];
    double number = 0;
    if (field.absent() || IsOff(field.json())) continue;
    if (field.json().GetDouble(&number) && number == entry.neutral) continue;
    config.not_applied.emplace_back(entry.key);
  }
  return config;
}

}  // namespace millrace::text
