#include "server/proto_convert.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "google/protobuf/unknown_field_set.h"
#include "server/unsupported.h"

namespace millrace::server {
namespace {

using Problem = std::optional<ApiError>;

// The double with the same shortest text: 2.1f becomes 2.1, as if it had come in JSON, so that both
// doors see the same number and say the same about it.
double FromFloat(float value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  double result = 0;
  std::from_chars(text, end, result);
  return result;
}

Problem Refuse(std::string_view name, const Json& value) {
  const UnsupportedParameter* row = FindUnsupported(name);
  if (row != nullptr && row->harmless != nullptr && row->harmless(value)) return std::nullopt;
  return UnsupportedError(name);
}

// A list whose only point is whether it is empty.
Json ListOf(int count) {
  return Json(JsonArray(count > 0 ? 1 : 0));
}

template <typename Request>
Problem RefuseCommon(const Request& proto) {
  const v1::SamplingOptions& sampling = proto.sampling();
  if (proto.has_structured_outputs()) {
    const bool empty = proto.structured_outputs().kind_case() == v1::StructuredOutput::KIND_NOT_SET;
    if (Problem p = Refuse("structured_outputs",
                           empty ? Json(JsonObject{}) : Json(JsonObject{{"kind", Json(true)}}))) {
      return p;
    }
  }
  if (sampling.allowed_token_ids_size() > 0) return UnsupportedError("allowed_token_ids");
  if (Problem p = Refuse("bad_words", ListOf(sampling.bad_words_size()))) return p;
  if (proto.response().logprob_token_ids_size() > 0) return UnsupportedError("logprob_token_ids");
  if (Problem p = Refuse("use_beam_search", Json(sampling.use_beam_search()))) return p;
  const std::pair<std::string_view, std::optional<double>> numbers[] = {
      {"length_penalty", sampling.has_length_penalty()
                             ? std::optional(FromFloat(sampling.length_penalty()))
                             : std::nullopt},
      {"typical_p",
       sampling.has_typical_p() ? std::optional(FromFloat(sampling.typical_p())) : std::nullopt},
      {"xtc_probability", sampling.has_xtc_probability()
                              ? std::optional(FromFloat(sampling.xtc_probability()))
                              : std::nullopt},
      {"dry_multiplier", sampling.has_dry_multiplier()
                             ? std::optional(FromFloat(sampling.dry_multiplier()))
                             : std::nullopt},
      {"mirostat",
       sampling.has_mirostat() ? std::optional<double>(sampling.mirostat()) : std::nullopt},
  };
  for (const auto& number : numbers) {
    if (!number.second) continue;
    // NaN and infinity are no JSON numbers; no row takes them as harmless.
    const bool finite = *number.second - *number.second == 0;
    if (Problem p = Refuse(number.first, finite ? Json(*number.second) : Json(true))) return p;
  }
  if (proto.stopping().has_thinking_token_budget()) {
    return UnsupportedError("thinking_token_budget");
  }
  return Refuse("lora", Json(proto.lora()));
}

void FillSampling(const v1::SamplingOptions& proto, GenerationRequest& request) {
  SamplingFields& fields = request.sampling;
  if (proto.has_temperature()) fields.temperature = FromFloat(proto.temperature());
  if (proto.has_top_p()) fields.top_p = FromFloat(proto.top_p());
  if (proto.has_min_p()) fields.min_p = FromFloat(proto.min_p());
  if (proto.has_top_k()) fields.top_k = proto.top_k();
  if (proto.has_presence_penalty()) fields.presence_penalty = FromFloat(proto.presence_penalty());
  if (proto.has_frequency_penalty()) {
    fields.frequency_penalty = FromFloat(proto.frequency_penalty());
  }
  if (proto.has_repetition_penalty()) {
    fields.repetition_penalty = FromFloat(proto.repetition_penalty());
  }
  if (proto.has_seed()) fields.seed = proto.seed();
  for (const auto& entry : proto.logit_bias()) {
    fields.logit_bias.emplace_back(int64_t{entry.first}, FromFloat(entry.second));
  }
  // A protobuf map has no order; errors name the first bad entry, and shall do so every time.
  std::sort(fields.logit_bias.begin(), fields.logit_bias.end());
  if (proto.has_n()) request.n = proto.n();
  if (proto.has_best_of()) request.best_of = proto.best_of();
}

void FillStop(const v1::StopOptions& proto, StopFields& fields) {
  if (proto.has_max_tokens()) fields.max_tokens = proto.max_tokens();
  if (proto.has_min_tokens()) fields.min_tokens = proto.min_tokens();
  fields.strings.assign(proto.stop_strings().begin(), proto.stop_strings().end());
  fields.token_ids.assign(proto.stop_token_ids().begin(), proto.stop_token_ids().end());
  fields.include_stop_in_output = proto.include_stop_string();
  fields.ignore_eos = proto.ignore_eos();
}

void FillOutput(const v1::ResponseOptions& proto, OutputFields& fields) {
  if (proto.has_logprobs()) fields.logprobs = proto.logprobs();
  if (proto.has_prompt_logprobs()) fields.prompt_logprobs = proto.prompt_logprobs();
  fields.return_token_ids = proto.token_ids();
  fields.echo = proto.echo();
  if (proto.has_skip_special_tokens()) fields.skip_special_tokens = proto.skip_special_tokens();
}

template <typename Request>
void FillCommon(const Request& proto, GenerationRequest& request) {
  request.unknown_fields = CountUnknownFields(proto);
  if (!proto.model().empty()) request.model = proto.model();
  request.origin.door = DoorKind::kGrpc;
  FillSampling(proto.sampling(), request);
  FillStop(proto.stopping(), request.stop);
  FillOutput(proto.response(), request.output);
  if (proto.scheduling().has_priority()) request.priority = proto.scheduling().priority();
  request.prompt.cache_salt = proto.scheduling().cache_salt();
  if (!proto.has_truncation()) return;
  request.prompt.truncate_prompt_tokens = proto.truncation().max_prompt_tokens();
  switch (proto.truncation().side()) {
    case v1::TRUNCATION_SIDE_UNSPECIFIED:
      break;
    case v1::TRUNCATION_SIDE_LEFT:
      request.prompt.truncation_side = "left";
      break;
    case v1::TRUNCATION_SIDE_RIGHT:
      request.prompt.truncation_side = "right";
      break;
    default:
      request.prompt.truncation_side = "?";  // Validate refuses it by name
  }
}

// "" for the unspecified role: then the message has none, which Validate refuses.
std::string_view RoleName(v1::ChatRole role) {
  switch (role) {
    case v1::CHAT_ROLE_UNSPECIFIED:
      return "";
    case v1::CHAT_ROLE_SYSTEM:
      return "system";
    case v1::CHAT_ROLE_DEVELOPER:
      return "developer";
    case v1::CHAT_ROLE_USER:
      return "user";
    case v1::CHAT_ROLE_ASSISTANT:
      return "assistant";
    case v1::CHAT_ROLE_TOOL:
      return "tool";
    default:
      return "?";
  }
}

Json PartToJson(const v1::ContentPart& part) {
  switch (part.kind_case()) {
    case v1::ContentPart::kText:
      return Json(JsonObject{{"type", Json("text")}, {"text", Json(part.text())}});
    case v1::ContentPart::kImageUrl:
      return Json(JsonObject{{"type", Json("image_url")}});
    case v1::ContentPart::kInputAudio:
      return Json(JsonObject{{"type", Json("input_audio")}});
    case v1::ContentPart::kFile:
      return Json(JsonObject{{"type", Json("file")}});
    case v1::ContentPart::KIND_NOT_SET:
      break;
  }
  return Json(JsonObject{});
}

// The form that the HTTP door reads from a body: Validate judges one form only.
Json MessageToJson(const v1::ChatMessage& message) {
  JsonObject object;
  const std::string_view role = RoleName(message.role());
  if (!role.empty()) object.emplace_back("role", Json(role));
  if (message.content_case() == v1::ChatMessage::kText) {
    object.emplace_back("content", Json(message.text()));
  } else if (message.content_case() == v1::ChatMessage::kParts) {
    JsonArray parts;
    for (const v1::ContentPart& part : message.parts().parts()) parts.push_back(PartToJson(part));
    object.emplace_back("content", Json(std::move(parts)));
  }
  if (!message.name().empty()) object.emplace_back("name", Json(message.name()));
  if (!message.reasoning().empty()) object.emplace_back("reasoning", Json(message.reasoning()));
  if (message.tool_calls_size() > 0) {
    object.emplace_back("tool_calls", ListOf(message.tool_calls_size()));
  }
  return Json(std::move(object));
}

// How messages become a prompt; for Chat and Tokenize.
template <typename Messages>
Problem FillChat(const Messages& messages, const v1::TemplateOptions& options, const Limits& limits,
                 PromptFields& fields) {
  JsonArray array;
  // One more than allowed is enough for Validate to refuse.
  const size_t kept = std::min(static_cast<size_t>(messages.size()), limits.messages_max + 1);
  for (size_t i = 0; i < kept; ++i) array.push_back(MessageToJson(messages[static_cast<int>(i)]));
  fields.messages = Json(std::move(array));
  if (options.has_add_generation_prompt()) {
    fields.add_generation_prompt = options.add_generation_prompt();
  }
  fields.continue_final_message = options.continue_final_message();
  if (!options.chat_template().empty()) return UnsupportedError("chat_template");
  if (options.chat_template_kwargs_json().empty()) return std::nullopt;
  JsonLimits json_limits;
  json_limits.bytes_max = 4 * limits.template_kwargs_bytes_max;
  json_limits.depth_max = 2;
  absl::StatusOr<Json> kwargs = Json::Parse(options.chat_template_kwargs_json(), json_limits);
  if (!kwargs.ok()) {
    return InvalidField(
        "chat_template_kwargs",
        "'chat_template_kwargs' is not valid JSON: " +
            std::string(kwargs.status().message().data(), kwargs.status().message().size()) + ".");
  }
  fields.chat_template_kwargs = *std::move(kwargs);
  return std::nullopt;
}

Problem RefuseTools(const v1::ChatRequest& proto) {
  if (Problem p = Refuse("tools", ListOf(proto.tools_size()))) return p;
  if (Problem p = Refuse("documents", ListOf(proto.documents_size()))) return p;
  switch (proto.tool_choice()) {
    case v1::TOOL_CHOICE_UNSPECIFIED:
      return std::nullopt;
    case v1::TOOL_CHOICE_NONE:
      return Refuse("tool_choice", Json("none"));
    case v1::TOOL_CHOICE_AUTO:
      return Refuse("tool_choice", Json("auto"));
    case v1::TOOL_CHOICE_REQUIRED:
      return Refuse("tool_choice", Json("required"));
    default:
      return InvalidField("tool_choice", "'tool_choice' has a value that is not known.");
  }
}

v1::SamplingDefaults ToProto(const SamplingDefaults& defaults) {
  v1::SamplingDefaults proto;
  proto.set_temperature(static_cast<float>(defaults.temperature));
  proto.set_top_p(static_cast<float>(defaults.top_p));
  proto.set_top_k(static_cast<int32_t>(defaults.top_k));
  proto.set_min_p(static_cast<float>(defaults.min_p));
  proto.set_repetition_penalty(static_cast<float>(defaults.repetition_penalty));
  if (defaults.chat_max_tokens > 0) {
    proto.set_chat_max_tokens(static_cast<int32_t>(defaults.chat_max_tokens));
  }
  proto.set_from_model(defaults.from_model);
  return proto;
}

}  // namespace

std::variant<GenerationRequest, ApiError> FromProto(const v1::GenerateRequest& proto,
                                                    const Limits& /*limits*/) {
  if (Problem p = RefuseCommon(proto)) return std::move(*p);
  if (Problem p = Refuse("suffix", Json(proto.suffix()))) return std::move(*p);
  GenerationRequest request;
  request.kind = RequestKind::kCompletion;
  FillCommon(proto, request);
  PromptInput prompt;
  switch (proto.prompt_case()) {
    case v1::GenerateRequest::kText:
      prompt.text = proto.text();
      break;
    case v1::GenerateRequest::kTokenIds:
      prompt.is_tokens = true;
      prompt.tokens.assign(proto.token_ids().ids().begin(), proto.token_ids().ids().end());
      break;
    case v1::GenerateRequest::PROMPT_NOT_SET:
      return InvalidField("prompt", "'prompt' is required.");
  }
  request.prompt.prompts.push_back(std::move(prompt));
  if (proto.has_add_special_tokens()) {
    request.prompt.add_special_tokens = proto.add_special_tokens();
  }
  return request;
}

std::variant<GenerationRequest, ApiError> FromProto(const v1::ChatRequest& proto,
                                                    const Limits& limits) {
  if (Problem p = RefuseCommon(proto)) return std::move(*p);
  if (Problem p = RefuseTools(proto)) return std::move(*p);
  GenerationRequest request;
  request.kind = RequestKind::kChat;
  FillCommon(proto, request);
  if (Problem p = FillChat(proto.messages(), proto.template_options(), limits, request.prompt)) {
    return std::move(*p);
  }
  return request;
}

std::variant<TokenizeInput, ApiError> FromProto(const v1::TokenizeRequest& proto,
                                                const Limits& limits) {
  TokenizeInput input;
  if (!proto.model().empty()) input.model = proto.model();
  if (proto.has_add_special_tokens()) input.prompt.add_special_tokens = proto.add_special_tokens();
  switch (proto.input_case()) {
    case v1::TokenizeRequest::kText:
      input.text = proto.text();
      return input;
    case v1::TokenizeRequest::kChat:
      input.is_chat = true;
      if (Problem p = FillChat(proto.chat().messages(), proto.chat().template_options(), limits,
                               input.prompt)) {
        return std::move(*p);
      }
      return input;
    case v1::TokenizeRequest::INPUT_NOT_SET:
      break;
  }
  return InvalidField("prompt", "'prompt' or 'messages' is required.");
}

v1::Model ToProto(const ModelCard& card) {
  v1::Model model;
  model.set_name(card.name);
  model.set_architecture(card.architecture);
  model.set_format(card.format);
  model.mutable_load_time()->set_seconds(card.created);
  model.set_vocab_size(card.vocab_size);
  model.set_context_length(card.context_length);
  model.set_max_model_len(card.max_model_len);
  for (const TokenId id : card.end_tokens) model.add_end_token_ids(static_cast<uint32_t>(id));
  model.set_has_chat_template(card.has_chat_template);
  model.set_fingerprint(card.fingerprint);
  *model.mutable_sampling_defaults() = ToProto(card.sampling);
  return model;
}

int32_t CountUnknownFields(const google::protobuf::Message& message) {
  return message.GetReflection()->GetUnknownFields(message).field_count();
}

}  // namespace millrace::server
