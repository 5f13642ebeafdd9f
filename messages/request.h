#pragma once
// What a client asked, validated, bounded and tokenized: the only form in which work reaches the
// engine thread. Everything here was checked by server/validate; the scheduler DCHECKs it.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"

namespace millrace {

struct SamplingParams {
  float temperature = 1.0f;         // [0, 2]; below 1e-5 means greedy
  int32_t top_k = 0;                // 0: off
  float top_p = 1.0f;               // (0, 1]
  float min_p = 0.0f;               // [0, 1]
  float repetition_penalty = 1.0f;  // (0, 2]: multiplicative, over prompt and output
  float presence_penalty = 0.0f;    // [-2, 2]: over output
  float frequency_penalty = 0.0f;   // [-2, 2]: over output
  uint64_t seed = 0;                // always set; drawn by the server when the client gave none
  int32_t logprobs = -1;  // -1: none; k >= 0: the token's own and the k most likely, <= 20
  std::vector<std::pair<TokenId, float>> logit_bias;  // ids distinct, in the vocabulary

  bool greedy() const { return temperature < 1e-5f; }
  bool penalized() const {
    return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f;
  }
  friend bool operator==(const SamplingParams&, const SamplingParams&) = default;
};

struct StopParams {
  int32_t max_tokens = 0;  // 0 only when prompt_logprobs is asked for: nothing is generated
  int32_t min_tokens = 0;  // end tokens and stop_token_ids cannot be sampled before
  bool ignore_eos = false;
  std::vector<TokenId> stop_token_ids;
  friend bool operator==(const StopParams&, const StopParams&) = default;
};

struct Request {
  RequestId id;
  TenantId tenant;
  int32_t priority = 0;  // a seam: lower is earlier; only 0 until the tenants issue
  std::vector<TokenId>
      prompt;  // 1 .. max_model_len - 1 tokens (max_model_len when max_tokens is 0)
  SamplingParams sampling;
  StopParams stop;
  int32_t n = 1;  // choices, 1 .. 128
  // -1: none; k >= 0: score every prompt token after the first, with the k most likely beside it.
  int32_t prompt_logprobs = -1;
  MonoNanos arrival = 0;
  MonoNanos deadline = kNever;
  // Mixed into the root of the prefix hash chain. Empty by default; the tenant is always mixed in.
  std::string cache_salt;
};

}  // namespace millrace
