#pragma once
// The arithmetic that stands for a model in tests: the next token is a hash of everything before
// it, so that one wrong, missing or foreign token of history changes all that follow. Pure
// functions; what a request must yield, alone and undisturbed, can be computed without an engine.

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "messages/request.h"
#include "messages/token_event.h"

namespace millrace::testing {

// The hash of a sequence's tokens so far; kEmptyContext before the first.
using ContextHash = uint64_t;
inline constexpr ContextHash kEmptyContext = 0x6d696c6c72616365;

uint64_t MixHash(uint64_t a, uint64_t b);
inline ContextHash Extend(ContextHash context, TokenId token) {
  return MixHash(context, static_cast<uint64_t>(token) + 1);
}

// What a sample depends on beside the context.
struct SampleArgs {
  const SamplingParams* sampling = nullptr;
  int32_t choice = 0;
  int32_t sample_index = 0;
  int32_t min_tokens = 0;
  std::span<const TokenId> banned_until_min;
  int32_t vocab_size = 0;
  // Hash of the token history that penalties count over; 0 when not penalized.
  uint64_t history = 0;
};
TokenId SampleToken(ContextHash context, const SampleArgs& args);

// Order-independent, as penalties are.
uint64_t HistoryHash(std::span<const TokenId> history);

// The log-probability of `token` after `context`, with `top` ranked tokens.
TokenLogprobs ScoreToken(ContextHash context, TokenId token, int32_t top, int32_t vocab_size);

// Scripted mishaps of one sequence, by the seed of its request.
struct SequenceScript {
  int32_t end_at = -1;  // the sample of this index is `end_token`; -1: chance decides
  TokenId end_token = 0;
  int32_t nan_at = -1;  // the row that should yield this sample fails
};

struct ModelSpec {
  int32_t vocab_size = 0;
  int32_t max_model_len = 0;
  std::vector<TokenId> end_tokens;
};

// What one choice must yield when nothing disturbs it.
struct Expected {
  std::vector<TokenId> tokens;
  FinishReason finish = FinishReason::kNone;
  TokenId stop_token = -1;
};
Expected ExpectedChoice(const Request& request, int32_t choice, const ModelSpec& spec,
                        const SequenceScript& script);
std::vector<TokenLogprobs> ExpectedPromptLogprobs(const Request& request, int32_t vocab_size);

}  // namespace millrace::testing
