#pragma once
// The engine port of a running node.

#include <utility>

#include "engine/engine.h"
#include "server/engine_port.h"

namespace millrace::server {

// Thread: any.
class RealEngine final : public EnginePort {
 public:
  explicit RealEngine(engine::Engine& engine) : engine_(engine) {}
  absl::Status Submit(Request request, TokenSink* sink) override {
    return engine_.Submit(std::move(request), sink);
  }
  void Cancel(RequestId request, FinishReason reason) override { engine_.Cancel(request, reason); }
  void Finish(RequestId request, int32_t choice, FinishReason reason,
              int32_t completion_tokens) override {
    engine_.Finish(request, choice, reason, completion_tokens);
  }
  void Resume(RequestId request) override { engine_.Resume(request); }
  EngineStats Stats() const override { return engine_.Stats(); }

 private:
  engine::Engine& engine_;
};

}  // namespace millrace::server
