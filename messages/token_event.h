#pragma once
// What comes up from the engine for one choice of one request, and where it goes.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "base/clock.h"
#include "base/ids.h"

namespace millrace {

// Exactly one per choice.
enum class FinishReason : uint8_t {
  kNone = 0,      // not finished
  kStop,          // end token, stop token id, or a stop string
  kLength,        // max_tokens or the context length
  kCancelled,     // the client went away or asked
  kDeadline,      // the request's deadline passed
  kSlowConsumer,  // the client did not read for too long
  kNeverFits,     // needs more KV blocks than the pool has, found while growing
  kShutdown,      // cut at --shutdown-timeout
  kError,         // this sequence failed (a row of NaNs), or the device did
};
inline constexpr int kFinishReasonCount = 9;
const char* FinishReasonName(FinishReason reason);

struct RankedToken {
  TokenId token = 0;
  float logprob = 0;
};

// Natural logarithms of the raw distribution: before temperature, penalties, bias and filters.
struct TokenLogprobs {
  float logprob = 0;             // of the token itself
  int32_t rank = 0;              // 1: the most likely
  std::vector<RankedToken> top;  // most likely first; ties by lower id
};

// Times of one choice, for metrics and spans. 0: has not happened.
struct SequenceTimes {
  MonoNanos arrival = 0;
  MonoNanos first_scheduled = 0;  // queue time ends
  MonoNanos first_token = 0;      // prefill ends
  MonoNanos last_token = 0;
  std::vector<MonoNanos> preempted;  // when, oldest first
};

struct TokenEvent {
  RequestId request;
  int32_t choice = 0;  // 0 .. n-1
  // New ones, in order; none in an event that only finishes. A step gives each sequence one or a
  // few: no allocation.
  absl::InlinedVector<TokenId, 4> tokens;
  std::vector<TokenLogprobs> logprobs;  // as many as tokens, or none
  // Choice 0 only, with its first event: [i] scores prompt token i+1.
  std::vector<TokenLogprobs> prompt_logprobs;

  FinishReason finish = FinishReason::kNone;
  TokenId stop_token = -1;    // the end token or stop token id that matched; it is not in `tokens`
  bool request_done = false;  // this is the last event of the request: the sink may go
  std::string error;          // with kError: what failed, for the log and the client

  // Running totals of this choice, right in every event.
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;  // prompt tokens that came from the prefix cache at first admission
  int32_t completion_tokens = 0;  // a matched end token counts; tokens past a stop string do not
  int32_t preemptions = 0;
  SequenceTimes times;
};

enum class SinkState : uint8_t {
  kReady,  // send more
  kFull,   // pause this request until Engine::Resume
};

// Where the events of one request go. Made by the server; must outlive its last event (the one with
// `request_done`), and each accepted request gets exactly one of those.
// Thread: Push is called by the engine thread only, and must neither block nor call the engine.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual SinkState Push(TokenEvent&& event) = 0;
};

}  // namespace millrace
