#pragma once
// What the core hands to a door, and how. Text is whole UTF-8; the texts of one choice join to its
// answer; every generated token that counts in the usage is in exactly one delta.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/ids.h"
#include "messages/token_event.h"
#include "server/api_error.h"

namespace millrace::server {

// One candidate token with its log-probability.
struct TokenScore {
  TokenId id = 0;
  float logprob = 0;  // natural; raw distribution; clamped to >= -9999
  int32_t rank = 0;   // 1: most likely; 0: not known (entries of `top`: their place)
  std::string text;   // valid UTF-8: invalid bytes replaced
  std::string bytes;  // exactly what the token stands for; "" for special tokens that are hidden
};

// One generated (or prompt) token in text form.
struct TokenLogprobText {
  TokenScore token;
  std::vector<TokenScore> top;  // most likely first
  bool scored = true;           // false: the first prompt token, which has no score
  int64_t text_offset = 0;      // code points of the choice's text (echo included) before the token
};

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;
};

// Facts about one prompt, shared by its choices.
struct PromptReport {
  std::vector<TokenId> tokens;  // after truncation
  std::string text;             // with echo only
  std::vector<TokenLogprobText>
      logprobs;                // as many as tokens, when prompt_logprobs or echo+logprobs
  int64_t tokens_removed = 0;  // by truncate_prompt_tokens
};

struct OutputDelta {
  int32_t index = 0;  // prompt * n + choice
  std::string text;
  std::vector<TokenId> tokens;
  std::vector<TokenLogprobText> logprobs;     // as many as tokens when asked for
  FinishReason finish = FinishReason::kNone;  // kStop or kLength, in the choice's last delta
  std::string stop_string;                    // with kStop: the stop string that matched, or ""
  TokenId stop_token = -1;  // with kStop: a stop_token_ids match; -1: end token or stop string
  Usage usage;              // of this choice, so far
  // In the first delta of each choice.
  std::shared_ptr<const PromptReport> prompt;
};

// The request was taken: nothing was written to the client before this.
struct Accepted {
  std::string response_id;  // "chatcmpl-…" or "cmpl-…"
  int64_t created = 0;      // Unix seconds
  std::string model;
  std::string fingerprint;
  int32_t choices = 1;                // prompts * n
  int64_t prompt_tokens_removed = 0;  // over all prompts, by truncate_prompt_tokens
  std::string traceparent;            // of this request's span; "" when tracing is off
};

// How a door takes output. The order is OnAccepted, OnDeltas*, then OnDone or OnError; or OnError
// alone. After Generation::Cancel nothing is called any more (a call in progress may finish).
// Thread: one call at a time, on a worker of the front end; must not block.
class DeltaSink {
 public:
  virtual ~DeltaSink() = default;
  virtual void OnAccepted(const Accepted& accepted) = 0;
  // kFull: taken, but send no more until Generation::Drained().
  virtual SinkState OnDeltas(std::vector<OutputDelta>&& deltas) = 0;
  virtual void OnDone(const Usage& total) = 0;
  virtual void OnError(const ApiError& error) = 0;
};

}  // namespace millrace::server
