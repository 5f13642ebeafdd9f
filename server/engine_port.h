#pragma once
// The engine as the server sees it. RealEngine (server/real_engine.h) forwards to engine::Engine;
// tests script one.

#include "absl/status/status.h"
#include "messages/engine_stats.h"
#include "messages/request.h"
#include "messages/token_event.h"

namespace millrace::server {

// Thread: any. See engine::Engine for each call.
class EnginePort {
 public:
  virtual ~EnginePort() = default;
  virtual absl::Status Submit(Request request, TokenSink* sink) = 0;
  virtual void Cancel(RequestId request, FinishReason reason) = 0;
  virtual void Finish(RequestId request, int32_t choice, FinishReason reason,
                      int32_t completion_tokens) = 0;
  virtual void Resume(RequestId request) = 0;
  virtual EngineStats Stats() const = 0;
};

}  // namespace millrace::server
