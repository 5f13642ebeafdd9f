#pragma once
// Log-probabilities in OpenAI's two shapes.

#include <string>
#include <vector>

#include "server/generation.h"
#include "server/output_delta.h"

namespace millrace::server {

// {"content":[{"token","logprob","bytes","top_logprobs":[…]}],"refusal":null}
void AppendChatLogprobs(const std::vector<TokenLogprobText>& tokens, bool as_ids, std::string& out);

// {"tokens","token_logprobs","top_logprobs","text_offset"}; `prompt` (echo) comes first.
void AppendCompletionLogprobs(const std::vector<TokenLogprobText>* prompt,
                              const std::vector<TokenLogprobText>& tokens, bool as_ids,
                              std::string& out);

// vLLM's list: null for the first token, then {"id":{"logprob","rank","decoded_token"}}.
void AppendPromptLogprobs(const std::vector<TokenLogprobText>& tokens, std::string& out);

void AppendTokenIds(const std::vector<TokenId>& ids, std::string& out);

}  // namespace millrace::server
