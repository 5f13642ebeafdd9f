#include "server/validate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/json_writer.h"
#include "server/unsupported.h"
#include "server/validate_messages.h"

namespace millrace::server {
namespace {

using Problem = std::optional<ApiError>;

std::string Number(double value) {
  std::string text;
  AppendJsonDouble(value, text);
  return text;
}

ApiError OutOfRange(std::string_view param, const std::string& value, const std::string& range) {
  ApiError error = InvalidField(
      param, "'" + std::string(param) + "' must be " + range + ", but is " + value + ".");
  error.metadata.emplace_back("value", value);
  return error;
}

// The comparison is written so that NaN fails it.
Problem CheckReal(std::string_view param, const std::optional<double>& value, double low,
                  double high) {
  if (!value || (*value >= low && *value <= high)) return std::nullopt;
  return OutOfRange(param, Number(*value), "between " + Number(low) + " and " + Number(high));
}

Problem CheckInt(std::string_view param, const std::optional<int64_t>& value, int64_t low,
                 int64_t high) {
  if (!value || (*value >= low && *value <= high)) return std::nullopt;
  return OutOfRange(param, std::to_string(*value),
                    "between " + std::to_string(low) + " and " + std::to_string(high));
}

Problem CheckCount(std::string_view param, size_t count, size_t limit) {
  if (count <= limit) return std::nullopt;
  return OutOfRange(param, std::to_string(count) + " items",
                    "at most " + std::to_string(limit) + " items");
}

Problem CheckTokenIds(std::string_view param, const std::vector<int64_t>& ids, int32_t vocab_size) {
  for (const int64_t id : ids) {
    if (id < 0 || id >= vocab_size) {
      return OutOfRange(param, std::to_string(id),
                        "token ids between 0 and " + std::to_string(vocab_size - 1));
    }
  }
  return std::nullopt;
}

Problem CheckLogitBias(const ModelCard& card, const Limits& limits, const SamplingFields& fields) {
  if (Problem p = CheckCount("logit_bias", fields.logit_bias.size(), limits.logit_bias_max)) {
    return p;
  }
  std::vector<int64_t> ids;
  for (const auto& [id, bias] : fields.logit_bias) {
    if (Problem p = CheckReal("logit_bias", bias, -100, 100)) return p;
    ids.push_back(id);
  }
  if (Problem p = CheckTokenIds("logit_bias", ids, card.vocab_size)) return p;
  std::sort(ids.begin(), ids.end());
  if (std::adjacent_find(ids.begin(), ids.end()) != ids.end()) {
    return InvalidField("logit_bias", "'logit_bias' names a token twice.");
  }
  return std::nullopt;
}

// What the request leaves out is the model's.
void FillIn(const SamplingDefaults& defaults, SamplingFields& fields) {
  fields.temperature = fields.temperature.value_or(defaults.temperature);
  fields.top_p = fields.top_p.value_or(defaults.top_p);
  fields.min_p = fields.min_p.value_or(defaults.min_p);
  fields.top_k = fields.top_k.value_or(defaults.top_k);
  fields.repetition_penalty = fields.repetition_penalty.value_or(defaults.repetition_penalty);
}

Problem CheckStop(const ModelCard& card, const Limits& limits, const GenerationRequest& request) {
  const StopFields& fields = request.stop;
  // OpenAI's API says 4.
  const size_t strings_max =
      request.origin.door == DoorKind::kHttp ? size_t{4} : limits.stop_strings_max;
  if (Problem p =
          CheckCount("stop", fields.strings.size(), std::min(strings_max, limits.stop_strings_max)))
    return p;
  for (const std::string& text : fields.strings) {
    if (text.empty()) return InvalidField("stop", "A stop string must not be empty.");
    if (text.size() > limits.stop_string_bytes_max) {
      return OutOfRange(
          "stop", std::to_string(text.size()) + " bytes",
          "strings of at most " + std::to_string(limits.stop_string_bytes_max) + " bytes");
    }
  }
  if (Problem p =
          CheckCount("stop_token_ids", fields.token_ids.size(), limits.stop_token_ids_max)) {
    return p;
  }
  return CheckTokenIds("stop_token_ids", fields.token_ids, card.vocab_size);
}

Problem CheckLengths(const ModelCard& card, const GenerationRequest& request) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  if (Problem p = CheckInt("max_tokens", request.stop.max_tokens, 0, kMax)) return p;
  if (Problem p = CheckInt("min_tokens", request.stop.min_tokens, 0, kMax)) return p;
  const int64_t min_tokens = request.stop.min_tokens.value_or(0);
  if (min_tokens > request.stop.max_tokens.value_or(card.max_model_len)) {
    return InvalidField("min_tokens",
                        "'min_tokens' must not be greater than the most that can be "
                        "generated.");
  }
  if (request.stop.max_tokens == 0 && !request.output.echo && !request.output.prompt_logprobs) {
    return InvalidField("max_tokens",
                        "'max_tokens' must be at least 1 (0 only with 'echo' or "
                        "'prompt_logprobs').");
  }
  const std::optional<int64_t>& truncate = request.prompt.truncate_prompt_tokens;
  if (truncate == 0) {
    return InvalidField("truncate_prompt_tokens",
                        "'truncate_prompt_tokens' must be -1 or at "
                        "least 1.");
  }
  return CheckInt("truncate_prompt_tokens", truncate, -1, card.max_model_len);
}

Problem CheckOutput(const Limits& limits, const GenerationRequest& request) {
  const bool chat = request.kind == RequestKind::kChat;
  const OutputFields& fields = request.output;
  if (Problem p =
          CheckInt(chat ? "top_logprobs" : "logprobs", fields.logprobs, 0, limits.logprobs_max)) {
    return p;
  }
  if (Problem p =
          CheckInt("prompt_logprobs", fields.prompt_logprobs, 0, limits.prompt_logprobs_max)) {
    return p;
  }
  if (chat && fields.echo) return UnsupportedError("echo", "chat answers do not echo");
  return std::nullopt;
}

Problem CheckChoices(const Limits& limits, GenerationRequest& request) {
  if (Problem p = CheckInt("n", request.n, 1, limits.choices_max)) return p;
  request.n = request.n.value_or(1);
  if (request.best_of && *request.best_of != *request.n) {
    if (*request.best_of < *request.n) {
      return InvalidField("best_of", "'best_of' must not be less than 'n'.");
    }
    return UnsupportedError("best_of", "only best_of equal to n is implemented");
  }
  if (request.priority.value_or(0) != 0) {
    return InvalidField("priority", "'priority' must be 0: priority scheduling is off.");
  }
  const auto prompts = static_cast<int64_t>(request.prompt.prompts.size());
  if (prompts * *request.n > limits.choices_max) {
    return OutOfRange("n", std::to_string(prompts * *request.n) + " (prompts times n)",
                      "at most " + std::to_string(limits.choices_max));
  }
  return std::nullopt;
}

Problem CheckPrompts(const ModelCard& card, const Limits& limits, const PromptFields& fields) {
  const auto count = static_cast<int64_t>(fields.prompts.size());
  if (Problem p = CheckInt("prompt", count, 1, limits.prompts_max)) {
    p->message = "'prompt' must hold 1 to " + std::to_string(limits.prompts_max) + " prompts.";
    return p;
  }
  for (const PromptInput& prompt : fields.prompts) {
    if (prompt.is_tokens ? prompt.tokens.empty() : prompt.text.empty()) {
      return InvalidField("prompt", "A prompt must not be empty.");
    }
    if (Problem p = CheckTokenIds("prompt", prompt.tokens, card.vocab_size)) return p;
  }
  return std::nullopt;
}

Problem CheckSalt(const Limits& limits, const std::string& salt) {
  using namespace std::string_view_literals;
  if (salt.size() > limits.cache_salt_max || salt.find_first_of("@/\\\0"sv) != std::string::npos) {
    return InvalidField("cache_salt", "'cache_salt' must be 1 to " +
                                          std::to_string(limits.cache_salt_max) +
                                          " characters without @, /, \\ or NUL.");
  }
  return std::nullopt;
}

}  // namespace

Problem ValidateModel(const ModelCard& card, const std::optional<std::string>& model,
                      bool required) {
  if (!model && !required) return std::nullopt;
  if (!model) return InvalidField("model", "'model' is required.");
  if (*model == card.name) return std::nullopt;
  ApiError error;
  error.kind = ErrorKind::kModelNotFound;
  error.param = "model";
  // The name came from the client: said in the metadata only when it is short and plain.
  error.message = "The model does not exist. This node serves '" + card.name + "'.";
  error.metadata.emplace_back("served", card.name);
  return error;
}

Problem ValidateRanges(const SamplingFields& fields) {
  if (Problem p = CheckReal("temperature", fields.temperature, 0, 2)) return p;
  if (Problem p = CheckReal("top_p", fields.top_p, 0, 1)) return p;
  if (Problem p = CheckReal("min_p", fields.min_p, 0, 1)) return p;
  // Zero would divide; the smallest value is where floats still hold the quotient.
  if (Problem p = CheckReal("repetition_penalty", fields.repetition_penalty, 1e-4, 2)) return p;
  if (Problem p = CheckReal("presence_penalty", fields.presence_penalty, -2, 2)) return p;
  if (Problem p = CheckReal("frequency_penalty", fields.frequency_penalty, -2, 2)) return p;
  return CheckInt("top_k", fields.top_k, -1, std::numeric_limits<int32_t>::max());
}

Problem Validate(const ModelCard& card, const Limits& limits, GenerationRequest& request) {
  if (Problem p = ValidateModel(card, request.model, true)) return p;
  if (request.kind == RequestKind::kChat) {
    if (!card.has_chat_template) {
      return InvalidField("messages", "This model has no chat template: use completions.");
    }
    if (Problem p = ValidateMessages(limits, request.prompt)) return p;
  } else if (Problem p = CheckPrompts(card, limits, request.prompt)) {
    return p;
  }
  if (Problem p = CheckChoices(limits, request)) return p;
  FillIn(card.sampling, request.sampling);
  if (Problem p = ValidateRanges(request.sampling)) return p;
  if (Problem p = CheckLogitBias(card, limits, request.sampling)) return p;
  if (Problem p = CheckStop(card, limits, request)) return p;
  if (Problem p = CheckLengths(card, request)) return p;
  if (Problem p = CheckOutput(limits, request)) return p;
  std::string& side = request.prompt.truncation_side;
  if (side.empty()) side = "left";
  if (side != "left" && side != "right") {
    return InvalidField("truncation_side", "'truncation_side' must be 'left' or 'right'.");
  }
  return CheckSalt(limits, request.prompt.cache_salt);
}

SamplingParams ToSamplingParams(const GenerationRequest& request, uint64_t drawn_seed) {
  const SamplingFields& fields = request.sampling;
  SamplingParams params;
  params.temperature = static_cast<float>(*fields.temperature);
  params.top_k = static_cast<int32_t>(std::max<int64_t>(0, *fields.top_k));
  // 0 means the most likely token only; the sampler wants it above 0.
  params.top_p = std::max(1e-6f, static_cast<float>(*fields.top_p));
  params.min_p = static_cast<float>(*fields.min_p);
  params.repetition_penalty = static_cast<float>(*fields.repetition_penalty);
  params.presence_penalty = static_cast<float>(fields.presence_penalty.value_or(0));
  params.frequency_penalty = static_cast<float>(fields.frequency_penalty.value_or(0));
  params.seed = fields.seed ? static_cast<uint64_t>(*fields.seed) : drawn_seed;
  params.logprobs = static_cast<int32_t>(request.output.logprobs.value_or(-1));
  for (const auto& [id, bias] : fields.logit_bias) {
    params.logit_bias.emplace_back(static_cast<TokenId>(id), static_cast<float>(bias));
  }
  return params;
}

StopParams ToStopParams(const GenerationRequest& request) {
  StopParams params;
  params.max_tokens = static_cast<int32_t>(request.stop.max_tokens.value_or(0));
  params.min_tokens = static_cast<int32_t>(request.stop.min_tokens.value_or(0));
  params.ignore_eos = request.stop.ignore_eos;
  for (const int64_t id : request.stop.token_ids) {
    params.stop_token_ids.push_back(static_cast<TokenId>(id));
  }
  return params;
}

}  // namespace millrace::server
