#pragma once
// What is known of one request when it has ended, and what is made of it: one log line and one span
// tree. The same for both doors. Never a prompt, an answer or a key.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/trace.h"
#include "messages/token_event.h"
#include "server/api_error.h"
#include "server/generation.h"
#include "server/output_delta.h"

namespace millrace::server {

struct ChoiceRecord {
  SequenceTimes times;
  Usage usage;
  FinishReason finish = FinishReason::kNone;
  int32_t preemptions = 0;
};

struct RequestRecord {
  RequestKind kind = RequestKind::kChat;
  RequestOrigin origin;
  std::string model;
  std::string response_id;
  SamplingFields sampling;
  OutputFields output;
  int64_t n = 1;
  int64_t max_tokens = 0;  // the largest over the prompts, as given to the engine
  size_t stop_strings = 0;
  MonoNanos arrival = 0;
  MonoNanos end = 0;
  std::vector<ChoiceRecord> choices;
  std::optional<ApiError> error;
  bool cancelled = false;  // the client went away
  TraceContext context;    // of this request's span
  std::array<uint8_t, 8> parent_span_id{};

  Usage Total() const;  // prompt tokens counted once per prompt
  // Of the earliest choice: queue ends, first token. 0: has not happened.
  MonoNanos FirstScheduled() const;
  MonoNanos FirstToken() const;
  const char* FinishName() const;  // the first choice's, or what ended the request
};

void LogRequest(const RequestRecord& record);
// A SERVER span with children queue, prefill and decode, as far as the request came. Does nothing
// for a context that is not sampled.
void ExportSpans(const RequestRecord& record, const Clock& clock, SpanSink& sink);

}  // namespace millrace::server
