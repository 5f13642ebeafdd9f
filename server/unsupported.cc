#include "server/unsupported.h"

#include <array>
#include <cmath>

namespace millrace::server {
namespace {

bool Never(const Json&) {
  return false;
}
bool IsFalse(const Json& value) {
  return value.is_bool() && !value.bool_value();
}
bool IsEmpty(const Json& value) {
  return (value.is_array() && value.array().empty()) ||
         (value.is_object() && value.object().empty()) ||
         (value.is_string() && value.string_value().empty());
}
bool IsNumber(const Json& value, double wanted) {
  double number = 0;
  return value.GetDouble(&number) && number == wanted;
}
bool IsZero(const Json& value) {
  return IsNumber(value, 0) || IsFalse(value);
}
bool IsOne(const Json& value) {
  return IsNumber(value, 1);
}
bool IsNoToolChoice(const Json& value) {
  return value.is_string() && (value.string_value() == "none" || value.string_value() == "auto");
}
bool IsTextFormat(const Json& value) {
  const Json* type = value.Find("type");
  return type != nullptr && type->is_string() && type->string_value() == "text";
}
bool IsTextOnly(const Json& value) {
  return value.is_array() && value.array().size() == 1 && value.array()[0].is_string() &&
         value.array()[0].string_value() == "text";
}

constexpr std::string_view kTools = "tool calls are not implemented yet";
constexpr std::string_view kStructured = "constrained output is not implemented yet";
constexpr std::string_view kSampler = "this sampler is not implemented";
constexpr std::string_view kTextOnly = "the model takes and makes text only";
constexpr std::string_view kPolicy = "refused by design: requests cannot carry code or file names";
constexpr std::string_view kRenamed = "use max_tokens";

constexpr auto kTable = std::to_array<UnsupportedParameter>({
    {"tools", true, true, IsEmpty, kTools},
    {"tool_choice", true, true, IsNoToolChoice, kTools},
    {"functions", true, true, IsEmpty, kTools},
    {"function_call", true, true, IsNoToolChoice, kTools},
    {"response_format", true, true, IsTextFormat, kStructured},
    {"structured_outputs", true, true, IsEmpty, kStructured},
    {"guided_json", true, true, Never, kStructured},
    {"guided_regex", true, true, Never, kStructured},
    {"guided_choice", true, true, Never, kStructured},
    {"guided_grammar", true, true, Never, kStructured},
    {"guided_decoding", true, true, Never, kStructured},
    {"json_schema", true, true, Never, kStructured},
    {"grammar", true, true, IsEmpty, kStructured},
    // An empty list of allowed tokens would allow nothing: never harmless.
    {"allowed_token_ids", true, true, Never, kStructured},
    {"bad_words", true, true, IsEmpty, kStructured},
    {"logprob_token_ids", true, true, IsEmpty, "scores of chosen ids are not implemented"},
    {"use_beam_search", true, true, IsFalse, kSampler},
    {"length_penalty", true, true, IsOne, kSampler},
    {"typical_p", true, true, IsOne, kSampler},
    {"xtc_probability", true, true, IsZero, kSampler},
    {"dry_multiplier", true, true, IsZero, kSampler},
    {"mirostat", true, true, IsZero, kSampler},
    {"repetition_detection", true, true, IsEmpty, kSampler},
    {"thinking_token_budget", true, true, Never, "reasoning budgets are not implemented"},
    {"n_predict", true, false, Never, kRenamed},
    {"repeat_penalty", true, false, IsOne, "use repetition_penalty"},
    {"suffix", true, true, IsEmpty, "the model cannot fill in"},
    {"prediction", true, true, Never, "predicted output is not implemented"},
    {"modalities", true, true, IsTextOnly, kTextOnly},
    {"audio", true, true, Never, kTextOnly},
    {"images", true, true, IsEmpty, kTextOnly},
    {"mm_processor_kwargs", true, true, IsEmpty, kTextOnly},
    {"web_search_options", true, true, Never, "this node never opens an outbound connection"},
    {"documents", true, true, IsEmpty, "retrieval documents are not implemented"},
    {"chat_template", true, true, Never, kPolicy},
    {"logits_processors", true, true, IsEmpty, kPolicy},
    {"logit_processors", true, true, IsEmpty, kPolicy},
    {"lora", true, true, IsEmpty, "adapters are not implemented yet"},
    {"lora_request", true, true, IsEmpty, "adapters are not implemented yet"},
    {"prompt_embeds", true, true, Never, kPolicy},
    {"kv_transfer_params", true, true, IsEmpty, kPolicy},
    {"vllm_xargs", true, true, IsEmpty, kPolicy},
});

}  // namespace

std::span<const UnsupportedParameter> UnsupportedParameters() {
  return kTable;
}

const UnsupportedParameter* FindUnsupported(std::string_view name) {
  for (const UnsupportedParameter& row : kTable) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

ApiError UnsupportedError(std::string_view name, std::string_view why) {
  if (why.empty()) {
    const UnsupportedParameter* row = FindUnsupported(name);
    why = row != nullptr ? row->why : "not implemented";
  }
  ApiError error;
  error.kind = ErrorKind::kUnsupportedParameter;
  error.param = std::string(name);
  error.message = "Unsupported parameter '" + error.param + "': " + std::string(why);
  error.metadata.emplace_back("parameter", error.param);
  return error;
}

}  // namespace millrace::server
