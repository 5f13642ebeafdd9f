#include "server/testing.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace millrace::server::testing {
namespace {

constexpr std::string_view kChatMl =
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
constexpr auto kPatience = std::chrono::seconds(20);

}  // namespace

TinyTokenizer::TinyTokenizer() {
  for (int byte = 0; byte < 256; ++byte) tokens_.emplace_back(1, static_cast<char>(byte));
  for (const char* word : {" world", "Hello", " the", "A", " B", " C"}) tokens_.emplace_back(word);
  tokens_.emplace_back("<|im_start|>");
  tokens_.emplace_back("<|im_end|>");
}

std::vector<TokenId> TinyTokenizer::Encode(std::string_view text,
                                           const text::EncodeOptions& options) const {
  std::vector<TokenId> ids;
  for (size_t at = 0; at < text.size();) {
    const bool plain =
        std::any_of(options.plain_ranges.begin(), options.plain_ranges.end(),
                    [&](const text::TextRange& r) { return r.begin <= at && at < r.end; });
    const TokenId last = options.parse_special && !plain ? vocab_size() : start();
    TokenId best = static_cast<unsigned char>(text[at]);
    for (TokenId id = 256; id < last; ++id) {
      const std::string& token = tokens_[static_cast<size_t>(id)];
      const size_t size = tokens_[static_cast<size_t>(best)].size();
      if (text.substr(at, token.size()) == token && token.size() >= size) best = id;
    }
    ids.push_back(best);
    at += tokens_[static_cast<size_t>(best)].size();
  }
  return ids;
}

std::string_view TinyTokenizer::TokenBytes(TokenId id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return tokens_[static_cast<size_t>(id)];
}

TokenId TinyTokenizer::FindToken(std::string_view text) const {
  for (TokenId id = 0; id < vocab_size(); ++id) {
    if (tokens_[static_cast<size_t>(id)] == text) return id;
  }
  return -1;
}

absl::Status ScriptedEngine::Submit(Request request, TokenSink* sink) {
  std::lock_guard lock(mutex_);
  if (!refuse_.ok()) return refuse_;
  submitted_.push_back(request);
  const RequestId id = request.id;
  Live& live = live_[id];
  live.choices.resize(static_cast<size_t>(request.n));
  live.times.arrival = request.arrival;
  live.request = std::move(request);
  live.sink = sink;
  return absl::OkStatus();
}

void ScriptedEngine::Cancel(RequestId request, FinishReason reason) {
  std::lock_guard lock(mutex_);
  const auto it = live_.find(request);
  if (it != live_.end() && it->second.ending == FinishReason::kNone) it->second.ending = reason;
}

void ScriptedEngine::Finish(RequestId request, int32_t choice, FinishReason, int32_t) {
  std::lock_guard lock(mutex_);
  const auto it = live_.find(request);
  if (it == live_.end()) return;
  Choice& ended = it->second.choices[static_cast<size_t>(choice)];
  if (ended.done) return;
  // The real engine tells of it with the next step; here the next Step does.
  ended.tokens = -1;
}

void ScriptedEngine::Resume(RequestId request) {
  std::lock_guard lock(mutex_);
  const auto it = live_.find(request);
  if (it != live_.end()) it->second.paused = false;
}

EngineStats ScriptedEngine::Stats() const {
  std::lock_guard lock(mutex_);
  EngineStats stats = stats_;
  stats.blocks_total = 100;
  stats.blocks_free = 100 - static_cast<int32_t>(live_.size());
  stats.blocks_active = static_cast<int32_t>(live_.size());
  stats.kv_usage = stats.blocks_active / 100.0;
  for (const auto& [id, live] : live_) {
    (live.admitted ? stats.sequences_running : stats.sequences_waiting) += live.request.n;
    stats.sequences_paused += live.paused ? live.request.n : 0;
  }
  return stats;
}

TokenEvent ScriptedEngine::MakeEvent(Live& live, int32_t choice) {
  TokenEvent event;
  event.request = live.request.id;
  event.choice = choice;
  event.prompt_tokens = static_cast<int32_t>(live.request.prompt.size());
  if (choice == 0 && !live.admitted && live.request.prompt_logprobs >= 0) {
    for (size_t i = 1; i < live.request.prompt.size(); ++i) {
      TokenLogprobs scores;
      scores.logprob = -1.5f;
      scores.rank = 1;
      if (live.request.prompt_logprobs > 0) scores.top = {{live.request.prompt[i], -1.5f}};
      event.prompt_logprobs.push_back(scores);
    }
  }
  if (live.times.first_token == 0) live.times.first_token = now_;
  live.times.last_token = now_;
  event.times = live.times;
  return event;
}

bool ScriptedEngine::StepOne(Live& live) {
  if (live.times.first_scheduled == 0) live.times.first_scheduled = now_;
  const StopParams& stop = live.request.stop;
  int32_t left = static_cast<int32_t>(
      std::count_if(live.choices.begin(), live.choices.end(), [](auto& c) { return !c.done; }));
  for (int32_t c = 0; c < live.request.n; ++c) {
    Choice& choice = live.choices[static_cast<size_t>(c)];
    if (choice.done) continue;
    TokenEvent event = MakeEvent(live, c);
    if (choice.tokens < 0) {
      event.finish = FinishReason::kStop;
    } else if (live.ending != FinishReason::kNone) {
      event.finish = live.ending;
      event.completion_tokens = choice.tokens;
    } else if (stop.max_tokens == 0) {
      event.finish = FinishReason::kLength;
    } else {
      const TokenId token = script_(live.request, c, choice.tokens++);
      const bool ends = (!stop.ignore_eos && token == 263) ||
                        std::find(stop.stop_token_ids.begin(), stop.stop_token_ids.end(), token) !=
                            stop.stop_token_ids.end();
      if (ends) {
        event.finish = FinishReason::kStop;
        event.stop_token = token;
      } else {
        event.tokens.push_back(token);
        if (live.request.sampling.logprobs >= 0) {
          TokenLogprobs scores;
          scores.logprob = -0.2f;
          scores.rank = 1;
          if (live.request.sampling.logprobs > 0) scores.top = {{token, -0.2f}};
          event.logprobs.push_back(scores);
        }
        if (choice.tokens == stop.max_tokens) event.finish = FinishReason::kLength;
      }
      event.completion_tokens = choice.tokens;
    }
    choice.done = event.finish != FinishReason::kNone;
    if (choice.done && --left == 0) event.request_done = true;
    if (live.sink->Push(std::move(event)) == SinkState::kFull) {
      live.paused = true;
      ++stats_.pauses;
    }
  }
  live.admitted = true;
  return left == 0;
}

void ScriptedEngine::Step() {
  std::lock_guard lock(mutex_);
  now_ = clock_.Now();
  ++stats_.steps;
  stats_.last_step_end = now_;
  for (auto it = live_.begin(); it != live_.end();) {
    const bool frozen = it->second.paused && it->second.ending == FinishReason::kNone;
    it = !frozen && StepOne(it->second) ? live_.erase(it) : std::next(it);
  }
}

void ScriptedEngine::RunAll(int most) {
  for (int i = 0; i < most && live() > 0; ++i) Step();
}

void ScriptedEngine::EndAll(FinishReason reason) {
  std::lock_guard lock(mutex_);
  for (auto& [id, live] : live_) live.ending = reason;
}

void ScriptedEngine::Refuse(absl::Status status) {
  std::lock_guard lock(mutex_);
  refuse_ = std::move(status);
}

void ScriptedEngine::set_healthy(bool healthy) {
  std::lock_guard lock(mutex_);
  stats_.healthy = healthy;
}

std::vector<Request> ScriptedEngine::submitted() const {
  std::lock_guard lock(mutex_);
  return submitted_;
}

int ScriptedEngine::live() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(live_.size());
}

int64_t ScriptedEngine::pauses() const {
  std::lock_guard lock(mutex_);
  return stats_.pauses;
}

void RecordingSink::OnAccepted(const Accepted& value) {
  std::lock_guard lock(mutex);
  CHECK(!accepted && !done && !error);
  accepted = value;
  changed.notify_all();
}

SinkState RecordingSink::OnDeltas(std::vector<OutputDelta>&& values) {
  std::lock_guard lock(mutex);
  CHECK(accepted && !done && !error && !values.empty());
  for (OutputDelta& delta : values) deltas.push_back(std::move(delta));
  changed.notify_all();
  return full ? SinkState::kFull : SinkState::kReady;
}

void RecordingSink::OnDone(const Usage& total) {
  std::lock_guard lock(mutex);
  CHECK(accepted && !done && !error);
  done = total;
  changed.notify_all();
}

void RecordingSink::OnError(const ApiError& value) {
  std::lock_guard lock(mutex);
  CHECK(!done && !error);
  error = value;
  changed.notify_all();
}

bool RecordingSink::WaitForEnd() {
  std::unique_lock lock(mutex);
  return changed.wait_for(lock, kPatience, [&] { return done || error; });
}

bool RecordingSink::WaitForDeltas(size_t count) {
  std::unique_lock lock(mutex);
  return changed.wait_for(lock, kPatience, [&] { return deltas.size() >= count; });
}

std::string RecordingSink::Text(int32_t index) const {
  std::lock_guard lock(mutex);
  std::string text;
  for (const OutputDelta& delta : deltas) {
    if (delta.index == index) text += delta.text;
  }
  return text;
}

void RecordingSink::set_full(bool value) {
  std::lock_guard lock(mutex);
  full = value;
}

void QuietLogs() {
  LogOptions quiet;
  quiet.level = LogLevel::kError;
  static const bool once = (InitLogging(quiet), true);
  (void)once;
}

ServedModel Bench::MakeModel(const TinyTokenizer& tokenizer, const text::ChatTemplate* chat) {
  ServedModel model;
  model.card.name = "m";
  model.card.root = "/models/m.gguf";
  model.card.architecture = "llama";
  model.card.format = "GGUF Q4_1";
  model.card.created = 1767225600;
  model.card.vocab_size = tokenizer.vocab_size();
  model.card.context_length = model.card.max_model_len = 4096;
  model.card.end_tokens = {tokenizer.end()};
  model.card.has_chat_template = chat != nullptr;
  model.tokenizer = &tokenizer;
  model.chat_template = chat;
  return model;
}

Bench::Bench(ScriptedEngine::Script script, FrontendOptions options,
             const SamplingDefaults& defaults)
    : engine(std::move(script)), health(engine, clock) {
  QuietLogs();
  absl::StatusOr<text::ChatTemplate> parsed = text::ChatTemplate::Parse(kChatMl);
  CHECK(parsed.ok());
  chat = std::make_unique<text::ChatTemplate>(*std::move(parsed));
  FrontendDeps deps;
  deps.engine = &engine;
  deps.clock = &clock;
  deps.metrics = &metrics;
  deps.health = &health;
  ServedModel model = MakeModel(tokenizer, chat.get());
  model.card.sampling = defaults;
  frontend = std::make_unique<Frontend>(std::move(model), options, deps);
  engine.Step();
  health.SetServing();
}

Bench::~Bench() {
  // The front end waits for its requests, and those for the engine's steps.
  std::atomic<bool> gone = false;
  std::thread stepping([&] {
    while (!gone) engine.Step();
  });
  frontend.reset();
  gone = true;
  stepping.join();
}

GenerationRequest Bench::Completion(std::string prompt, int64_t max_tokens) const {
  GenerationRequest request;
  request.model = "m";
  request.kind = RequestKind::kCompletion;
  PromptInput input;
  input.text = std::move(prompt);
  request.prompt.prompts.push_back(std::move(input));
  request.stop.max_tokens = max_tokens;
  request.origin.request_id = "test";
  request.origin.route = "/v1/completions";
  return request;
}

std::shared_ptr<Generation> Bench::Start(GenerationRequest request) {
  const size_t before = engine.submitted().size();
  auto generation = frontend->Start(std::move(request), sink);
  // Until the prepare thread is through.
  std::unique_lock lock(sink->mutex);
  while (!sink->accepted && !sink->error) {
    CHECK(sink->changed.wait_for(lock, kPatience, [&] { return sink->accepted || sink->error; }));
  }
  CHECK(sink->error || engine.submitted().size() > before);
  return generation;
}

ScriptedEngine::Script Says(std::string text) {
  return [text = std::move(text)](const Request&, int32_t, int32_t index) -> TokenId {
    const auto at = static_cast<size_t>(index);
    return at < text.size() ? static_cast<unsigned char>(text[at]) : 263;
  };
}

}  // namespace millrace::server::testing
