#pragma once
// One request from Start to its end: the engine's sinks on one side, the door's sink on the other.
//
//   scheduled_   queued or running on a worker (or still with the prepare thread): at most one Run
//                at a time, and none is lost, because whoever adds work posts when it is false
//   door_full_   the door said kFull: events stay in inbox_ until Drained(), then the engine is
//                paused when they grow past the limit

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "server/choice_stream.h"
#include "server/frontend_core.h"
#include "server/prepare.h"
#include "server/request_record.h"

namespace millrace::server {

// Thread: any for Cancel and Drained; engine for the streams' Push; prepare and stream workers.
class GenerationRun final : public Generation,
                            public Task,
                            public std::enable_shared_from_this<GenerationRun> {
 public:
  GenerationRun(FrontendCore& core, GenerationRequest request, std::shared_ptr<DeltaSink> sink);

  void Cancel() override;
  void Drained() override;

  // On the prepare thread, once.
  void Prepare();
  // Instead of Prepare: the request is refused.
  void Refuse(ApiError error);
  // On a stream worker.
  void Run() override;

 private:
  // The engine's end of one prompt.
  class PromptSink final : public TokenSink {
   public:
    PromptSink(GenerationRun& run, int32_t prompt) : run_(run), prompt_(prompt) {}
    SinkState Push(TokenEvent&& event) override { return run_.Push(prompt_, std::move(event)); }

   private:
    GenerationRun& run_;
    const int32_t prompt_;
  };
  struct Inbound {
    int32_t prompt = 0;
    TokenEvent event;
  };
  struct PromptState {
    std::vector<TokenId> tokens;  // kept when the answer needs them
    std::shared_ptr<PromptReport> report;
    bool scored = false;  // the report is whole
    int32_t started = 0;  // choices whose first delta has been sent
  };

  SinkState Push(int32_t prompt, TokenEvent&& event);
  void SetUp(std::vector<PreparedPrompt>& prompts);
  void Submit(std::vector<PreparedPrompt> prompts);
  void Process(Inbound& inbound);
  void CompleteReport(PromptState& prompt, TokenEvent& event);
  std::vector<OutputDelta> TakeDeltas();
  // Returns what the door answered.
  SinkState Deliver(DeltaSink& sink);
  void End(std::optional<ApiError> error, bool cancelled);
  void CancelInEngine(FinishReason reason);
  Accepted MakeAccepted() const;

  FrontendCore& core_;
  // Written by Prepare, then read by workers.
  GenerationRequest request_;
  int32_t n_ = 1;
  std::unique_ptr<text::StopStrings> stops_;
  std::vector<TokenId> stop_token_ids_;
  std::vector<std::unique_ptr<PromptSink>> sinks_;
  std::vector<RequestId> ids_;

  // Of the worker that runs.
  std::vector<PromptState> prompts_;
  std::vector<ChoiceStream> choices_;
  RequestRecord record_;
  std::optional<ApiError> failure_;
  bool accepted_ = false;
  bool ended_ = false;
  int32_t streams_done_ = 0;

  std::mutex mutex_;  // guards what follows
  std::shared_ptr<DeltaSink> sink_;
  std::vector<Inbound> inbox_;
  size_t inbox_bytes_ = 0;
  std::vector<bool> paused_;  // by prompt: the engine was told kFull
  int32_t submitted_ = 0;     // ids_[0, submitted_) were given to the engine
  uint64_t drains_ = 0;
  bool scheduled_ = true;
  bool door_full_ = false;
  bool urgent_ = false;  // an event that the door must hear even when it is full
  bool cancelled_ = false;
  bool closed_ = false;
};

}  // namespace millrace::server
