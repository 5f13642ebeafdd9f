#pragma once
// OpenAI's JSON bodies to typed requests. Types are judged here, ranges in Validate: an error names
// the field. An explicit null is an absent field; an unknown field is ignored and counted; a known
// field that would change the answer and is not implemented is refused (server/unsupported.h).

#include <string_view>
#include <variant>

#include "base/json.h"
#include "server/api_error.h"
#include "server/frontend.h"
#include "server/generation.h"

namespace millrace::server {

std::variant<GenerationRequest, ApiError> ParseChat(std::string_view body);
std::variant<GenerationRequest, ApiError> ParseCompletion(std::string_view body);

// Bodies of /tokenize: `prompt`, or `messages`; and llama.cpp's `content`.
struct TokenizeBody {
  TokenizeInput input;
  bool return_pieces = false;
};
std::variant<TokenizeBody, ApiError> ParseTokenize(std::string_view body);

// Bodies of /detokenize.
struct DetokenizeBody {
  std::optional<std::string> model;
  std::vector<int64_t> tokens;
};
std::variant<DetokenizeBody, ApiError> ParseDetokenize(std::string_view body);

}  // namespace millrace::server
