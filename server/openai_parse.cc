#include "server/openai_parse.h"

#include <charconv>
#include <string>
#include <utility>

#include "server/json_fields.h"
#include "server/unsupported.h"

namespace millrace::server {
namespace {

// Known, and no answer depends on them here.
const std::set<std::string_view>& IgnoredNames() {
  static const std::set<std::string_view> names = {"user",
                                                   "metadata",
                                                   "store",
                                                   "service_tier",
                                                   "safety_identifier",
                                                   "prompt_cache_key",
                                                   "prompt_cache_retention",
                                                   "prompt_cache_options",
                                                   "verbosity",
                                                   "parallel_tool_calls",
                                                   "spaces_between_special_tokens",
                                                   "request_id",
                                                   "session_id",
                                                   "return_prompt_text",
                                                   "stream_interval",
                                                   "include_reasoning",
                                                   "cache_prompt",
                                                   "moderation"};
  return names;
}

ApiError BadJson(std::string message) {
  ApiError error;
  error.kind = ErrorKind::kInvalidJson;
  error.message = std::move(message);
  return error;
}

std::variant<Json, ApiError> ParseObject(std::string_view body) {
  absl::StatusOr<Json> json = Json::Parse(body);
  if (!json.ok()) {
    return BadJson("The body is not valid JSON: " + std::string(json.status().message()));
  }
  if (!json->is_object()) return BadJson("The body must be a JSON object.");
  return *std::move(json);
}

void ReadLogitBias(JsonFields& fields, SamplingFields& sampling) {
  const Json* value = fields.Get("logit_bias");
  if (value == nullptr) return;
  constexpr std::string_view kWanted = "an object of token ids (as strings) and numbers";
  if (!value->is_object()) return fields.Fail("logit_bias", kWanted);
  for (const JsonMember& member : value->object()) {
    int64_t id = 0;
    const char* end = member.first.data() + member.first.size();
    const auto parsed = std::from_chars(member.first.data(), end, id);
    double bias = 0;
    if (parsed.ec != std::errc() || parsed.ptr != end || !member.second.GetDouble(&bias)) {
      return fields.Fail("logit_bias", kWanted);
    }
    sampling.logit_bias.emplace_back(id, bias);
  }
}

void ReadStop(JsonFields& fields, StopFields& stop) {
  const Json* value = fields.Get("stop");
  if (value == nullptr) return;
  if (value->is_string()) {
    stop.strings.push_back(value->string_value());
    return;
  }
  if (!value->is_array()) return fields.Fail("stop", "a string or an array of strings");
  for (const Json& item : value->array()) {
    if (!item.is_string()) return fields.Fail("stop", "a string or an array of strings");
    stop.strings.push_back(item.string_value());
  }
}

void ReadStreamOptions(JsonFields& fields, OutputFields& output) {
  const Json* value = fields.Get("stream_options");
  if (value == nullptr) return;
  if (!value->is_object()) return fields.Fail("stream_options", "an object");
  JsonFields options(*value);
  options.Read("include_usage", output.include_usage);
  options.Read("continuous_usage_stats", output.continuous_usage_stats);
  if (options.error()) fields.Fail(*options.error());
}

void ReadTemplateFields(JsonFields& fields, PromptFields& prompt) {
  fields.Read("add_special_tokens", prompt.add_special_tokens);
  fields.Read("add_generation_prompt", prompt.add_generation_prompt);
  fields.Read("continue_final_message", prompt.continue_final_message);
  if (const Json* kwargs = fields.Get("chat_template_kwargs"))
    prompt.chat_template_kwargs = *kwargs;
  if (const Json* messages = fields.Get("messages")) prompt.messages = *messages;
}

// What both kinds of request have.
void ReadCommon(JsonFields& fields, GenerationRequest& request) {
  fields.Read("model", request.model);
  SamplingFields& sampling = request.sampling;
  fields.Read("temperature", sampling.temperature);
  fields.Read("top_p", sampling.top_p);
  fields.Read("min_p", sampling.min_p);
  fields.Read("top_k", sampling.top_k);
  fields.Read("repetition_penalty", sampling.repetition_penalty);
  fields.Read("presence_penalty", sampling.presence_penalty);
  fields.Read("frequency_penalty", sampling.frequency_penalty);
  fields.Read("seed", sampling.seed);
  ReadLogitBias(fields, sampling);
  StopFields& stop = request.stop;
  fields.Read("max_tokens", stop.max_tokens);
  fields.Read("min_tokens", stop.min_tokens);
  fields.Read("ignore_eos", stop.ignore_eos);
  fields.Read("include_stop_str_in_output", stop.include_stop_in_output);
  fields.Read("stop_token_ids", stop.token_ids);
  ReadStop(fields, stop);
  OutputFields& output = request.output;
  fields.Read("stream", output.stream);
  ReadStreamOptions(fields, output);
  fields.Read("echo", output.echo);
  fields.Read("prompt_logprobs", output.prompt_logprobs);
  fields.Read("return_token_ids", output.return_token_ids);
  fields.Read("return_tokens_as_token_ids", output.return_tokens_as_token_ids);
  fields.Read("skip_special_tokens", output.skip_special_tokens);
  PromptFields& prompt = request.prompt;
  fields.Read("add_special_tokens", prompt.add_special_tokens);
  fields.Read("truncate_prompt_tokens", prompt.truncate_prompt_tokens);
  std::optional<std::string> text;
  fields.Read("truncation_side", text);
  prompt.truncation_side = text.value_or("");
  std::optional<std::string> salt;
  fields.Read("cache_salt", salt);
  if (salt && salt->empty()) fields.Fail("cache_salt", "1 to 128 characters");
  prompt.cache_salt = salt.value_or("");
  fields.Read("n", request.n);
  fields.Read("best_of", request.best_of);
  fields.Read("priority", request.priority);
}

void ReadChatLogprobs(JsonFields& fields, OutputFields& output) {
  bool wanted = false;
  std::optional<int64_t> top;
  fields.Read("logprobs", wanted);
  fields.Read("top_logprobs", top);
  if (top.value_or(0) != 0 && !wanted) {
    fields.Fail(InvalidField("top_logprobs", "'top_logprobs' needs 'logprobs': true."));
  }
  if (wanted) output.logprobs = top.value_or(0);
}

bool ReadTokenPrompt(const JsonArray& items, PromptInput& prompt) {
  prompt.is_tokens = true;
  prompt.tokens.reserve(items.size());
  for (const Json& item : items) {
    int64_t id = 0;
    if (!item.GetInt64(&id)) return false;
    prompt.tokens.push_back(id);
  }
  return true;
}

// A string, an array of strings, an array of token ids, or an array of such arrays.
void ReadPrompt(JsonFields& fields, std::vector<PromptInput>& prompts) {
  constexpr std::string_view kWanted =
      "a string, an array of strings, an array of token ids, or an array of arrays of token ids";
  const Json* value = fields.Get("prompt");
  if (value == nullptr) return fields.Fail(InvalidField("prompt", "'prompt' is required."));
  if (value->is_string()) {
    PromptInput prompt;
    prompt.text = value->string_value();
    prompts.push_back(std::move(prompt));
    return;
  }
  if (!value->is_array()) return fields.Fail("prompt", kWanted);
  const JsonArray& items = value->array();
  if (items.empty()) return fields.Fail(InvalidField("prompt", "A prompt must not be empty."));
  if (items[0].is_number()) {
    PromptInput prompt;
    if (!ReadTokenPrompt(items, prompt)) return fields.Fail("prompt", kWanted);
    prompts.push_back(std::move(prompt));
    return;
  }
  for (const Json& item : items) {
    PromptInput prompt;
    if (item.type() != items[0].type()) return fields.Fail("prompt", kWanted);
    if (item.is_string()) {
      prompt.text = item.string_value();
    } else if (!item.is_array() || !ReadTokenPrompt(item.array(), prompt)) {
      return fields.Fail("prompt", kWanted);
    }
    prompts.push_back(std::move(prompt));
  }
}

// Templates that know reasoning efforts read it as a variable; others do not see it.
void ReadReasoningEffort(JsonFields& fields, PromptFields& prompt) {
  std::optional<std::string> effort;
  fields.Read("reasoning_effort", effort);
  if (!effort) return;
  if (effort->size() > 16) return fields.Fail("reasoning_effort", "a known effort");
  if (prompt.chat_template_kwargs.is_null()) prompt.chat_template_kwargs = JsonObject{};
  if (!prompt.chat_template_kwargs.is_object()) return;
  if (prompt.chat_template_kwargs.Find("reasoning_effort") != nullptr) return;
  prompt.chat_template_kwargs.Add("reasoning_effort", Json(*effort));
}

}  // namespace

std::variant<GenerationRequest, ApiError> ParseChat(std::string_view body) {
  std::variant<Json, ApiError> json = ParseObject(body);
  if (auto* error = std::get_if<ApiError>(&json)) return std::move(*error);
  JsonFields fields(std::get<Json>(json));
  GenerationRequest request;
  request.kind = RequestKind::kChat;
  ReadCommon(fields, request);
  ReadTemplateFields(fields, request.prompt);
  ReadReasoningEffort(fields, request.prompt);
  ReadChatLogprobs(fields, request.output);
  // The newer name wins.
  fields.Read("max_completion_tokens", request.stop.max_tokens);
  request.unknown_fields = fields.Finish(IgnoredNames());
  if (fields.error()) return *fields.error();
  return request;
}

std::variant<GenerationRequest, ApiError> ParseCompletion(std::string_view body) {
  std::variant<Json, ApiError> json = ParseObject(body);
  if (auto* error = std::get_if<ApiError>(&json)) return std::move(*error);
  JsonFields fields(std::get<Json>(json));
  GenerationRequest request;
  request.kind = RequestKind::kCompletion;
  ReadCommon(fields, request);
  ReadPrompt(fields, request.prompt.prompts);
  fields.Read("logprobs", request.output.logprobs);
  request.unknown_fields = fields.Finish(IgnoredNames());
  if (fields.error()) return *fields.error();
  return request;
}

std::variant<TokenizeBody, ApiError> ParseTokenize(std::string_view body) {
  std::variant<Json, ApiError> json = ParseObject(body);
  if (auto* error = std::get_if<ApiError>(&json)) return std::move(*error);
  JsonFields fields(std::get<Json>(json));
  TokenizeBody out;
  fields.Read("model", out.input.model);
  ReadTemplateFields(fields, out.input.prompt);
  fields.Read("return_token_strs", out.return_pieces);
  std::optional<std::string> text;
  fields.Read("content", text);  // llama.cpp's name
  fields.Read("add_special", out.input.prompt.add_special_tokens);
  fields.Read("with_pieces", out.return_pieces);
  fields.Read("prompt", text);
  out.input.is_chat = !text && !out.input.prompt.messages.is_null();
  if (!text && !out.input.is_chat) {
    fields.Fail(InvalidField("prompt", "'prompt' or 'messages' is required."));
  }
  out.input.text = text.value_or("");
  fields.Finish(IgnoredNames());
  if (fields.error()) return *fields.error();
  return out;
}

std::variant<DetokenizeBody, ApiError> ParseDetokenize(std::string_view body) {
  std::variant<Json, ApiError> json = ParseObject(body);
  if (auto* error = std::get_if<ApiError>(&json)) return std::move(*error);
  JsonFields fields(std::get<Json>(json));
  DetokenizeBody out;
  fields.Read("model", out.model);
  if (fields.Get("tokens") == nullptr) {
    fields.Fail(InvalidField("tokens", "'tokens' is required."));
  }
  fields.Read("tokens", out.tokens);
  if (fields.error()) return *fields.error();
  return out;
}

}  // namespace millrace::server
