#pragma once
// For tests of this folder: a tokenizer of bytes and a few words, an engine that steps when told
// and says what its script says, and a sink that keeps what it hears.

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "server/engine_port.h"
#include "server/frontend.h"

namespace millrace::server::testing {

// Ids 0..255 are bytes; then the words, longest match first; then <|im_start|> and <|im_end|>,
// which are special. Thread: immutable.
class TinyTokenizer final : public text::Tokenizer {
 public:
  TinyTokenizer();
  std::vector<TokenId> Encode(std::string_view text,
                              const text::EncodeOptions& options) const override;
  std::string_view TokenBytes(TokenId id) const override;
  bool IsSpecial(TokenId id) const override { return id >= start(); }
  int32_t vocab_size() const override { return static_cast<int32_t>(tokens_.size()); }
  TokenId bos() const override { return -1; }
  TokenId eos() const override { return end(); }
  TokenId FindToken(std::string_view text) const override;
  TokenId start() const { return vocab_size() - 2; }
  TokenId end() const { return vocab_size() - 1; }

 private:
  std::vector<std::string> tokens_;
};

// Thread: any.
class ScriptedEngine final : public EnginePort {
 public:
  // The token of a choice at an index of its output.
  using Script = std::function<TokenId(const Request& request, int32_t choice, int32_t index)>;
  explicit ScriptedEngine(Script script) : script_(std::move(script)) {}

  absl::Status Submit(Request request, TokenSink* sink) override;
  void Cancel(RequestId request, FinishReason reason) override;
  void Finish(RequestId request, int32_t choice, FinishReason reason,
              int32_t completion_tokens) override;
  void Resume(RequestId request) override;
  EngineStats Stats() const override;

  // One token for every choice that may have one; ends what is to end.
  void Step();
  // Steps until nothing is live, or `most` steps.
  void RunAll(int most = 10'000);
  void EndAll(FinishReason reason);
  // What Submit answers from now on.
  void Refuse(absl::Status status);
  void set_healthy(bool healthy);
  std::vector<Request> submitted() const;
  int live() const;
  int64_t pauses() const;

 private:
  struct Choice {
    int32_t tokens = 0;
    bool done = false;
  };
  struct Live {
    Request request;
    TokenSink* sink = nullptr;
    std::vector<Choice> choices;
    bool paused = false;
    bool admitted = false;
    FinishReason ending = FinishReason::kNone;
    SequenceTimes times;
  };
  TokenEvent MakeEvent(Live& live, int32_t choice);
  bool StepOne(Live& live);  // true when the request has ended

  const Script script_;
  mutable std::mutex mutex_;
  std::map<RequestId, Live> live_;
  std::vector<Request> submitted_;
  absl::Status refuse_;
  EngineStats stats_;
  RealClock clock_;
  MonoNanos now_ = 0;
};

// Keeps what it hears. Thread: any.
class RecordingSink final : public DeltaSink {
 public:
  void OnAccepted(const Accepted& accepted) override;
  SinkState OnDeltas(std::vector<OutputDelta>&& deltas) override;
  void OnDone(const Usage& total) override;
  void OnError(const ApiError& error) override;

  // Waits for the end; false after ten seconds.
  bool WaitForEnd();
  // Waits until `count` deltas came.
  bool WaitForDeltas(size_t count);
  std::string Text(int32_t index) const;
  void set_full(bool full);

  mutable std::mutex mutex;
  std::condition_variable changed;
  std::optional<Accepted> accepted;
  std::vector<OutputDelta> deltas;
  std::optional<Usage> done;
  std::optional<ApiError> error;
  bool full = false;
};

// Errors only, for the whole process.
void QuietLogs();

// A front end over a scripted engine. The chat template is ChatML.
struct Bench {
  explicit Bench(ScriptedEngine::Script script, FrontendOptions options = {},
                 const SamplingDefaults& defaults = {});
  ~Bench();
  static ServedModel MakeModel(const TinyTokenizer& tokenizer, const text::ChatTemplate* chat);
  GenerationRequest Completion(std::string prompt, int64_t max_tokens) const;
  std::shared_ptr<Generation> Start(GenerationRequest request);

  TinyTokenizer tokenizer;
  std::unique_ptr<text::ChatTemplate> chat;
  RealClock clock;
  MetricsRegistry metrics;
  ScriptedEngine engine;
  Health health;
  std::shared_ptr<RecordingSink> sink = std::make_shared<RecordingSink>();
  std::unique_ptr<Frontend> frontend;
};

// A script that says `text` as bytes and then the end token, whatever was asked.
ScriptedEngine::Script Says(std::string text);

}  // namespace millrace::server::testing
