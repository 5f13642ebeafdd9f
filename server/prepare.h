#pragma once
// From a validated GenerationRequest to what the engine takes: the template is rendered, the text
// tokenized, lengths are checked. Slow (milliseconds for long prompts): runs on the prepare thread.

#include <cstdint>
#include <variant>
#include <vector>

#include "messages/request.h"
#include "server/api_error.h"
#include "server/frontend.h"
#include "server/generation.h"

namespace millrace::server {

// One prompt, ready. `request` has everything but its id.
struct PreparedPrompt {
  Request request;
  std::string text;            // as the client sent it, for echo; "" for token ids
  int64_t tokens_removed = 0;  // by truncate_prompt_tokens
};

struct PrepareContext {
  const ServedModel* model = nullptr;
  size_t token_bytes_max = 1;  // the longest token: bounds a prompt's tokens before tokenizing
  uint64_t drawn_seed = 0;
  int64_t unix_seconds = 0;  // for templates that print the date
};

// The longest token of a vocabulary, in bytes; at least 1.
size_t LongestToken(const text::Tokenizer& tokenizer);

// REQUIRES: Validate accepted `request`.
std::variant<std::vector<PreparedPrompt>, ApiError> PreparePrompts(
    const PrepareContext& context, const GenerationRequest& request);

// The tokens of a chat, by the model's template. REQUIRES: ValidateMessages accepted the fields.
std::variant<std::vector<TokenId>, ApiError> EncodeChat(const PrepareContext& context,
                                                        const PromptFields& fields);

}  // namespace millrace::server
