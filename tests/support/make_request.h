#pragma once
// Short ways to write requests in tests.

#include <cstdint>
#include <vector>

#include "messages/request.h"

namespace millrace::testing {

// `count` tokens counted up from `first`, inside a vocabulary of 90.
inline std::vector<TokenId> Prompt(int32_t count, int32_t first = 1) {
  std::vector<TokenId> prompt;
  for (int32_t i = 0; i < count; ++i) prompt.push_back((first + i) % 90);
  return prompt;
}

// Greedy, and never ended by chance.
inline Request MakeRequest(uint64_t id, std::vector<TokenId> prompt, int32_t max_tokens) {
  Request request;
  request.id = RequestId(id);
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0;
  request.sampling.seed = id;
  request.stop.max_tokens = max_tokens;
  request.stop.ignore_eos = true;
  return request;
}

}  // namespace millrace::testing
