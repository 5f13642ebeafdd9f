#pragma once
// The one request type behind both doors: what a client asked, typed but not yet judged. A door
// fills it from its wire form; `Validate` (server/validate.h) judges it against the limits and the
// model; `Frontend::Start` runs it. An absent field is an empty optional (JSON null is absent too).

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/json.h"
#include "base/trace.h"

namespace millrace::server {

enum class RequestKind : uint8_t { kChat, kCompletion };
enum class DoorKind : uint8_t { kHttp, kGrpc };

// One prompt of a completion: text, or token ids as they are.
struct PromptInput {
  std::string text;
  std::vector<int64_t> tokens;  // not yet checked against the vocabulary
  bool is_tokens = false;
};

// Validate fills in what the model has defaults for.
struct SamplingFields {
  std::optional<double> temperature, top_p, min_p;
  std::optional<double> repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int64_t> top_k;  // 0 and -1: off
  std::optional<int64_t> seed;   // any int64; the same bits for both doors
  std::vector<std::pair<int64_t, double>> logit_bias;
};

struct StopFields {
  std::optional<int64_t> max_tokens;
  std::optional<int64_t> min_tokens;
  std::vector<std::string> strings;
  std::vector<int64_t> token_ids;
  bool include_stop_in_output = false;
  bool ignore_eos = false;
};

struct OutputFields {
  bool stream = false;
  bool include_usage = false;           // one more chunk, at the end
  bool continuous_usage_stats = false;  // usage so far on every chunk
  bool echo = false;                    // the prompt's text comes first (completions)
  std::optional<int64_t> logprobs;      // k: the token's own and the k most likely
  std::optional<int64_t> prompt_logprobs;
  bool return_token_ids = false;
  bool return_tokens_as_token_ids = false;  // HTTP: "token_id:N" instead of text in logprobs
  bool skip_special_tokens = true;
};

struct PromptFields {
  std::vector<PromptInput> prompts;  // completions: 1 .. Limits::prompts_max
  Json messages;                     // chat: array of objects; contents are strings after Validate
  std::optional<bool> add_special_tokens;  // default: false for chat, true for completions
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  Json chat_template_kwargs;                      // object or null
  std::optional<int64_t> truncate_prompt_tokens;  // -1: to what the model can take
  std::string truncation_side;                    // "" (left), "left", "right"
  std::string cache_salt;                         // "" or 1..128 characters without @ / \ NUL
};

// How the request came in; for ids, logs and traces.
struct RequestOrigin {
  DoorKind door = DoorKind::kHttp;
  std::string request_id;  // x-request-id: the client's when sane, else made by the door
  std::string route;       // "/v1/chat/completions" or "/millrace.v1.Inference/ChatStream"
  std::string key_name;    // of the API key; "" without keys
  std::optional<TraceContext> trace;  // the caller's
  MonoNanos arrival = 0;              // 0: now
};

struct GenerationRequest {
  RequestKind kind = RequestKind::kCompletion;
  std::optional<std::string> model;  // required; the served name
  PromptFields prompt;
  SamplingFields sampling;
  StopFields stop;
  OutputFields output;
  std::optional<int64_t> n;
  std::optional<int64_t> best_of;   // only equal to n
  std::optional<int64_t> priority;  // only 0
  MonoNanos deadline = kNever;      // monotonic; cut to the server's own limit
  RequestOrigin origin;
  int32_t unknown_fields = 0;  // ignored, and counted
};

}  // namespace millrace::server
