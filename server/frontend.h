#pragma once
// The front end: what both doors share. It turns a GenerationRequest into engine requests and token
// events into text.
//
//   door ─ Start ─► prepare thread: validate, template, tokenize, lengths ─► Engine::Submit
//   engine thread ─ Push ─► RequestStream (bounded) ─► stream worker: text, stops, scores ─►
//   DeltaSink
//
// It owns the streams, the two kinds of worker threads, metrics and spans of requests. It knows
// neither HTTP nor gRPC. Every started generation ends in exactly one log line, one span tree and
// one set of metric observations.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/trace.h"
#include "messages/model_card.h"
#include "server/api_error.h"
#include "server/engine_port.h"
#include "server/generation.h"
#include "server/health.h"
#include "server/limits.h"
#include "server/output_delta.h"
#include "server/worker_pool.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace millrace::server {

// The model as the front end needs it. The pointees outlive the front end.
struct ServedModel {
  ModelCard card;
  const text::Tokenizer* tokenizer = nullptr;
  const text::ChatTemplate* chat_template = nullptr;  // nullptr: no chat
  int32_t block_tokens = 32;                          // of the KV pool, for vllm:cache_config_info
};

struct FrontendOptions {
  Limits limits;
  int stream_workers = 1;
  // Requests that wait for the prepare thread; more are refused as overloaded.
  size_t prepare_queue_max = 1024;
  // Events of one stream waiting for its worker or its door, in bytes; then the engine pauses it.
  size_t stream_bytes_max = 256 << 10;
  uint64_t id_seed = 0;  // 0: from the system's randomness. Tests fix it.
  // Share of requests without a caller's trace context that are traced.
  double trace_ratio = 1.0;
};

// What the front end is wired to; all outlive it.
struct FrontendDeps {
  EnginePort* engine = nullptr;
  const Clock* clock = nullptr;
  MetricsRegistry* metrics = nullptr;
  SpanSink* spans = nullptr;  // nullptr: no tracing
  Health* health = nullptr;
};

// One started request, for its door. Thread: any.
class Generation {
 public:
  virtual ~Generation() = default;
  // The client went away. Idempotent. The sink gets no further call.
  virtual void Cancel() = 0;
  // The door that answered kFull takes deltas again.
  virtual void Drained() = 0;
};

struct TokenizeInput {
  std::optional<std::string> model;
  bool is_chat = false;
  std::string text;
  PromptFields prompt;  // chat: messages and template fields; both: add_special_tokens
};
struct TokenizeOutput {
  std::vector<TokenId> tokens;
  std::vector<std::string> pieces;  // text of each, invalid UTF-8 replaced
};

// Thread: any. The destructor cancels what runs and waits for its end, so the engine must still
// run.
class Frontend {
 public:
  Frontend(ServedModel model, FrontendOptions options, FrontendDeps deps);
  ~Frontend();
  Frontend(const Frontend&) = delete;
  Frontend& operator=(const Frontend&) = delete;

  // Returns at once; everything else, refusals included, comes through `sink`.
  std::shared_ptr<Generation> Start(GenerationRequest request, std::shared_ptr<DeltaSink> sink);

  // Runs `work` on the prepare thread (parsing a large body, Tokenize). False: the queue is full.
  bool Prepare(std::function<void()> work);

  // Bounded by Limits::tokenize_bytes_max; long ones belong on the prepare thread.
  std::variant<TokenizeOutput, ApiError> Tokenize(TokenizeInput input) const;
  std::variant<std::string, ApiError> Detokenize(const std::optional<std::string>& model,
                                                 const std::vector<int64_t>& tokens,
                                                 bool skip_special_tokens) const;

  // Where the first stream worker waits: see WorkerPool::SetWait.
  void SetStreamWait(IdleWait* wait);

  const ServedModel& model() const;
  const Limits& limits() const;
  // Prometheus text of everything, gauges taken from the engine now.
  std::string MetricsText() const;

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace millrace::server
