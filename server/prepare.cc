#include "server/prepare.h"

#include <algorithm>
#include <utility>

#include "server/validate.h"

namespace millrace::server {
namespace {

using Tokens = std::vector<TokenId>;

// OpenAI's default for completions. A chat gets the model's, or what the context leaves.
constexpr int64_t kCompletionTokensDefault = 16;

std::string TokenText(const text::Tokenizer& tokenizer, TokenId id) {
  return id < 0 ? std::string() : std::string(tokenizer.TokenBytes(id));
}

ApiError TooLong(const ServedModel& model, const GenerationRequest& request, int64_t prompt_tokens,
                 bool at_least) {
  const int64_t limit = model.card.max_model_len;
  const int64_t wanted = request.stop.max_tokens.value_or(1);
  ApiError error;
  error.kind = ErrorKind::kContextLength;
  error.param = request.kind == RequestKind::kChat ? "messages" : "prompt";
  error.message = "The prompt has " + std::string(at_least ? "at least " : "") +
                  std::to_string(prompt_tokens) + " tokens and " + std::to_string(wanted) +
                  " are to be generated, " + std::to_string(prompt_tokens + wanted) +
                  " in all; this model takes at most " + std::to_string(limit) + ".";
  error.metadata = {{"limit", std::to_string(limit)},
                    {"requested", std::to_string(prompt_tokens + wanted)},
                    {"prompt_tokens", std::to_string(prompt_tokens)},
                    {"max_tokens", std::to_string(wanted)}};
  return error;
}

// `continue_final_message`: the text ends with the last message's content, whatever the template
// put after it.
void CutAfterFinalContent(const Json& messages, text::RenderedChat& chat) {
  std::string_view content = messages.array().back().Find("content")->string_value();
  const size_t last = content.find_last_not_of(" \t\r\n");
  content = content.substr(0, last == std::string_view::npos ? 0 : last + 1);
  const size_t at = content.empty() ? std::string::npos : chat.text.rfind(content);
  if (at == std::string::npos) return;
  chat.text.resize(at + content.size());
  while (!chat.plain_ranges.empty() && chat.plain_ranges.back().begin >= chat.text.size()) {
    chat.plain_ranges.pop_back();
  }
  if (!chat.plain_ranges.empty()) {
    chat.plain_ranges.back().end = std::min(chat.plain_ranges.back().end, chat.text.size());
  }
}

// How many prompt tokens may stay, when truncation was asked for.
int64_t TruncationTarget(const ServedModel& model, const GenerationRequest& request) {
  const int64_t asked = *request.prompt.truncate_prompt_tokens;
  if (asked > 0) return asked;
  const int64_t spare = request.kind == RequestKind::kChat ? 1 : kCompletionTokensDefault;
  return std::max<int64_t>(1, model.card.max_model_len - request.stop.max_tokens.value_or(spare));
}

int64_t Truncate(const ServedModel& model, const GenerationRequest& request, Tokens& tokens) {
  if (!request.prompt.truncate_prompt_tokens) return 0;
  const int64_t target = TruncationTarget(model, request);
  const auto excess = static_cast<int64_t>(tokens.size()) - target;
  if (excess <= 0) return 0;
  if (request.prompt.truncation_side == "right") {
    tokens.resize(static_cast<size_t>(target));
  } else {
    tokens.erase(tokens.begin(), tokens.begin() + excess);
  }
  return excess;
}

// The number of tokens to generate, or an error when the prompt leaves no room.
std::variant<int32_t, ApiError> TokensToGenerate(const ServedModel& model,
                                                 const GenerationRequest& request,
                                                 int64_t prompt_tokens) {
  const int64_t room = model.card.max_model_len - prompt_tokens;
  const int64_t wanted = request.stop.max_tokens.value_or(1);
  if (wanted > room) return TooLong(model, request, prompt_tokens, false);
  if (request.stop.max_tokens) return static_cast<int32_t>(wanted);
  const int64_t of_chat = model.card.sampling.chat_max_tokens;
  const int64_t usual = request.kind == RequestKind::kCompletion ? kCompletionTokensDefault
                        : of_chat > 0                            ? of_chat
                                                                 : room;
  const int64_t most = std::min(room, std::max(usual, request.stop.min_tokens.value_or(0)));
  if (request.stop.min_tokens.value_or(0) > most) {
    return InvalidField("min_tokens", "'min_tokens' is more than the " + std::to_string(room) +
                                          " tokens that the prompt leaves.");
  }
  return static_cast<int32_t>(most);
}

std::variant<PreparedPrompt, ApiError> Finish(const PrepareContext& context,
                                              const GenerationRequest& request, Tokens tokens) {
  PreparedPrompt prepared;
  prepared.tokens_removed = Truncate(*context.model, request, tokens);
  if (tokens.empty()) {
    return InvalidField(request.kind == RequestKind::kChat ? "messages" : "prompt",
                        "The prompt has no tokens.");
  }
  std::variant<int32_t, ApiError> most =
      TokensToGenerate(*context.model, request, static_cast<int64_t>(tokens.size()));
  if (auto* error = std::get_if<ApiError>(&most)) return std::move(*error);
  Request& out = prepared.request;
  out.prompt = std::move(tokens);
  out.sampling = ToSamplingParams(request, context.drawn_seed);
  out.sampling.top_k = std::min(out.sampling.top_k, context.model->card.vocab_size);
  out.stop = ToStopParams(request);
  out.stop.max_tokens = std::get<int32_t>(most);
  out.n = static_cast<int32_t>(*request.n);
  out.prompt_logprobs = static_cast<int32_t>(request.output.prompt_logprobs.value_or(-1));
  if (request.output.echo && request.output.logprobs) {
    out.prompt_logprobs =
        std::max(out.prompt_logprobs, static_cast<int32_t>(*request.output.logprobs));
  }
  // The engine generates nothing only for a request that scores its prompt.
  if (out.stop.max_tokens == 0) out.prompt_logprobs = std::max(out.prompt_logprobs, 0);
  out.cache_salt = request.prompt.cache_salt;
  return prepared;
}

Tokens EncodeText(const ServedModel& model, const GenerationRequest& request,
                  const std::string& text) {
  text::EncodeOptions options;
  // A completion's prompt is the client's own, whole: it may spell special tokens.
  options.parse_special = true;
  options.add_special = request.prompt.add_special_tokens.value_or(true);
  return model.tokenizer->Encode(text, options);
}

}  // namespace

size_t LongestToken(const text::Tokenizer& tokenizer) {
  size_t longest = 1;
  for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
    longest = std::max(longest, tokenizer.TokenBytes(id).size());
  }
  return longest;
}

std::variant<Tokens, ApiError> EncodeChat(const PrepareContext& context,
                                          const PromptFields& fields) {
  const ServedModel& model = *context.model;
  text::TemplateInput input;
  input.messages = fields.messages;
  input.add_generation_prompt = fields.add_generation_prompt;
  input.bos_token = TokenText(*model.tokenizer, model.tokenizer->bos());
  input.eos_token = TokenText(*model.tokenizer, model.tokenizer->eos());
  if (fields.chat_template_kwargs.is_object()) input.extra = fields.chat_template_kwargs;
  input.unix_seconds = context.unix_seconds;
  absl::StatusOr<text::RenderedChat> chat = model.chat_template->Render(input);
  if (!chat.ok()) {
    // The template's own message may be built from the client's text: the status never echoes it.
    return InvalidField("messages", "The chat template refused the messages: " +
                                        std::string(chat.status().message()));
  }
  if (fields.continue_final_message) CutAfterFinalContent(fields.messages, *chat);
  text::EncodeOptions options;
  options.parse_special = true;
  options.plain_ranges = chat->plain_ranges;
  options.add_special = fields.add_special_tokens.value_or(false);
  return model.tokenizer->Encode(chat->text, options);
}

std::variant<std::vector<PreparedPrompt>, ApiError> PreparePrompts(
    const PrepareContext& context, const GenerationRequest& request) {
  const ServedModel& model = *context.model;
  std::vector<PreparedPrompt> all;
  const auto add = [&](Tokens tokens, const std::string& text) -> std::optional<ApiError> {
    std::variant<PreparedPrompt, ApiError> one = Finish(context, request, std::move(tokens));
    if (auto* error = std::get_if<ApiError>(&one)) return std::move(*error);
    all.push_back(std::get<PreparedPrompt>(std::move(one)));
    if (all.back().tokens_removed == 0) all.back().text = text;
    return std::nullopt;
  };
  // A text of more bytes than the longest prompt could have is refused before the work.
  const size_t bytes_max = context.token_bytes_max * static_cast<size_t>(model.card.max_model_len);
  const bool bounded = !request.prompt.truncate_prompt_tokens;
  const auto too_long = [&](size_t bytes) {
    const size_t least = bytes / context.token_bytes_max;
    return TooLong(model, request, static_cast<int64_t>(least), true);
  };
  if (request.kind == RequestKind::kChat) {
    size_t bytes = 0;
    for (const Json& message : request.prompt.messages.array()) {
      bytes += message.Find("content")->string_value().size();
    }
    if (bounded && bytes > bytes_max) return too_long(bytes);
    std::variant<Tokens, ApiError> tokens = EncodeChat(context, request.prompt);
    if (auto* error = std::get_if<ApiError>(&tokens)) return std::move(*error);
    if (auto error = add(std::get<Tokens>(std::move(tokens)), "")) return std::move(*error);
    return all;
  }
  for (const PromptInput& prompt : request.prompt.prompts) {
    Tokens tokens(prompt.tokens.begin(), prompt.tokens.end());
    if (!prompt.is_tokens) {
      if (bounded && prompt.text.size() > bytes_max) return too_long(prompt.text.size());
      tokens = EncodeText(model, request, prompt.text);
    }
    if (auto error = add(std::move(tokens), prompt.text)) return std::move(*error);
  }
  return all;
}

}  // namespace millrace::server
