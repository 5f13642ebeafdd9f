#pragma once
// The engine as the server sees it. One implementation forwards to engine::Engine; tests script
// one.

#include "engine/engine.h"

namespace millrace::server {

// Thread: any.
class EnginePort {
 public:
  virtual ~EnginePort() = default;
  // See engine::Engine for each.
  virtual absl::Status Submit(Request request, TokenSink* sink) = 0;
  virtual void Cancel(RequestId request, FinishReason reason) = 0;
  virtual void Finish(RequestId request, int32_t choice, FinishReason reason,
                      int32_t completion_tokens) = 0;
  virtual void Resume(RequestId request) = 0;
  virtual EngineStats Stats() const = 0;
};

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
