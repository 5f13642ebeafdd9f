#include "server/generation_run.h"

#include <algorithm>
#include <utility>

#include "base/utf8.h"
#include "server/validate.h"

namespace millrace::server {
namespace {

bool EndsWell(FinishReason reason) {
  return reason == FinishReason::kStop || reason == FinishReason::kLength;
}

// What an event costs while it waits, roughly.
size_t BytesOf(const TokenEvent& event) {
  size_t bytes = 96 + event.tokens.size() * 16;
  for (const TokenLogprobs& scores : event.logprobs) bytes += 32 + scores.top.size() * 8;
  return bytes;
}

ApiError EndError(FinishReason reason) {
  ApiError error;
  switch (reason) {
    case FinishReason::kDeadline:
      error.kind = ErrorKind::kDeadline;
      error.message = "The request's deadline has passed";
      break;
    case FinishReason::kSlowConsumer:
      error.kind = ErrorKind::kSlowConsumer;
      error.message = "The client did not read its stream for too long";
      break;
    case FinishReason::kNeverFits:
      error.kind = ErrorKind::kNeverFits;
      error.message = "The request needs more KV memory than this node has";
      break;
    case FinishReason::kError:
      error.kind = ErrorKind::kEngineFault;
      error.message = "engine fault";
      break;
    default:
      error.kind = ErrorKind::kShutdown;
      error.message = "The node is shutting down";
  }
  return error;
}

}  // namespace

GenerationRun::GenerationRun(FrontendCore& core, GenerationRequest request,
                             std::shared_ptr<DeltaSink> sink)
    : core_(core), request_(std::move(request)), sink_(std::move(sink)) {
  record_.kind = request_.kind;
  record_.origin = request_.origin;
  record_.sampling = request_.sampling;
  record_.output = request_.output;
  record_.model = core_.model.card.name;
  record_.stop_strings = request_.stop.strings.size();
  record_.arrival =
      request_.origin.arrival != 0 ? request_.origin.arrival : core_.deps.clock->Now();
  record_.response_id =
      (request_.kind == RequestKind::kChat ? "chatcmpl-" : "cmpl-") + core_.ids.Hex32();
  const auto fill = [&](auto& bytes) {
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(core_.ids.Next() >> 32);
  };
  if (core_.deps.spans == nullptr) return;
  if (request_.origin.trace) {
    record_.context = *request_.origin.trace;
    record_.parent_span_id = record_.context.span_id;
  } else {
    fill(record_.context.trace_id);
    const double draw = static_cast<double>(core_.ids.Next() >> 11) * 0x1p-53;
    record_.context.flags = draw < core_.options.trace_ratio ? 1 : 0;
  }
  fill(record_.context.span_id);
}

void GenerationRun::Refuse(ApiError error) {
  failure_ = std::move(error);
  core_.streams.Post(shared_from_this());
}

void GenerationRun::Prepare() {
  if (core_.deps.health != nullptr && core_.deps.health->draining()) {
    ApiError error;
    error.kind = ErrorKind::kDraining;
    error.message = "The node is draining";
    return Refuse(std::move(error));
  }
  if (auto error = Validate(core_.model.card, core_.options.limits, request_)) {
    return Refuse(std::move(*error));
  }
  // Over before it began (0 ms, or too long in the queue): not one step for nobody.
  if (request_.deadline - core_.deps.clock->Now() <= core_.options.limits.deadline_min) {
    return Refuse(EndError(FinishReason::kDeadline));
  }
  PrepareContext context;
  context.model = &core_.model;
  context.token_bytes_max = core_.token_bytes_max;
  context.drawn_seed = core_.ids.Next();
  context.unix_seconds = core_.deps.clock->UnixNow() / kNanosPerSecond;
  std::variant<std::vector<PreparedPrompt>, ApiError> prepared = PreparePrompts(context, request_);
  if (auto* error = std::get_if<ApiError>(&prepared)) return Refuse(std::move(*error));
  if (request_.unknown_fields > 0) core_.metrics.OnIgnoredFields(request_.unknown_fields);
  auto& prompts = std::get<std::vector<PreparedPrompt>>(prepared);
  SetUp(prompts);
  Submit(std::move(prompts));
  core_.streams.Post(shared_from_this());
}

void GenerationRun::SetUp(std::vector<PreparedPrompt>& prompts) {
  n_ = static_cast<int32_t>(*request_.n);
  record_.n = n_;
  stops_ = std::make_unique<text::StopStrings>(std::move(request_.stop.strings));
  stop_token_ids_ = prompts[0].request.stop.stop_token_ids;
  const OutputFields& output = request_.output;
  for (size_t p = 0; p < prompts.size(); ++p) {
    PreparedPrompt& prepared = prompts[p];
    Request& request = prepared.request;
    request.id = RequestId(core_.next_request.fetch_add(1));
    request.arrival = record_.arrival;
    request.deadline =
        std::min(request_.deadline, record_.arrival + core_.options.limits.deadline_max);
    record_.max_tokens = std::max<int64_t>(record_.max_tokens, request.stop.max_tokens);
    PromptState state;
    state.report = std::make_shared<PromptReport>();
    state.report->tokens_removed = prepared.tokens_removed;
    if (request.prompt_logprobs >= 0 || output.return_token_ids) state.tokens = request.prompt;
    if (output.echo) {
      state.report->text = prepared.text.empty()
                               ? text::Decode(*core_.model.tokenizer, request.prompt, false)
                               : prepared.text;
    }
    ChoiceOptions options;
    options.tokenizer = core_.model.tokenizer;
    options.stops = stops_.get();
    options.stop_token_ids = &stop_token_ids_;
    options.include_stop = request_.stop.include_stop_in_output;
    options.skip_special = output.skip_special_tokens;
    options.min_tokens = request.stop.min_tokens;
    options.offset = static_cast<int64_t>(CountCodePoints(state.report->text));
    for (int32_t choice = 0; choice < n_; ++choice) {
      choices_.emplace_back(options, static_cast<int32_t>(p) * n_ + choice);
    }
    prompts_.push_back(std::move(state));
    sinks_.push_back(std::make_unique<PromptSink>(*this, static_cast<int32_t>(p)));
    ids_.push_back(request.id);
  }
  record_.choices.resize(choices_.size());
  std::lock_guard lock(mutex_);
  paused_.resize(prompts.size());
}

void GenerationRun::Submit(std::vector<PreparedPrompt> prompts) {
  for (size_t p = 0; p < prompts.size(); ++p) {
    {
      std::lock_guard lock(mutex_);
      if (cancelled_) return;
      ++submitted_;
    }
    const absl::Status status =
        core_.deps.engine->Submit(std::move(prompts[p].request), sinks_[p].get());
    bool cancelled = false;
    {
      std::lock_guard lock(mutex_);
      cancelled = cancelled_;
      if (!status.ok()) {
        --submitted_;
        failure_ = FromEngineStatus(status);
        return;
      }
    }
    // Cancel() may have come before the engine knew the id. Never under the lock: the engine's
    // thread may hold its own while it waits for ours in Push.
    if (cancelled) core_.deps.engine->Cancel(ids_[p], FinishReason::kCancelled);
  }
}

SinkState GenerationRun::Push(int32_t prompt, TokenEvent&& event) {
  std::lock_guard lock(mutex_);
  const bool must_hear = event.finish != FinishReason::kNone && !EndsWell(event.finish);
  urgent_ = urgent_ || must_hear;
  inbox_bytes_ += BytesOf(event);
  inbox_.push_back({prompt, std::move(event)});
  if (!scheduled_ && (!door_full_ || urgent_ || cancelled_)) {
    scheduled_ = true;
    core_.streams.Post(shared_from_this());
  }
  if (cancelled_ || inbox_bytes_ <= core_.options.stream_bytes_max) return SinkState::kReady;
  paused_[static_cast<size_t>(prompt)] = true;
  return SinkState::kFull;
}

void GenerationRun::Cancel() {
  std::shared_ptr<DeltaSink> dropped;  // destroyed after the lock is gone
  std::vector<RequestId> ids;
  EnginePort* engine = nullptr;
  {
    std::lock_guard lock(mutex_);
    if (cancelled_ || closed_) return;
    cancelled_ = true;
    dropped = std::move(sink_);
    sink_.reset();
    // Until the first is submitted, ids_ belongs to the prepare thread.
    if (submitted_ > 0) ids.assign(ids_.begin(), ids_.begin() + submitted_);
    // The engine outlives the front end; this run, once unlocked, may close and the core go.
    engine = core_.deps.engine;
    if (!scheduled_) {
      scheduled_ = true;
      core_.streams.Post(shared_from_this());
    }
  }
  for (const RequestId id : ids) engine->Cancel(id, FinishReason::kCancelled);
}

void GenerationRun::Drained() {
  std::lock_guard lock(mutex_);
  ++drains_;
  if (!door_full_ || closed_) return;
  door_full_ = false;
  if (scheduled_) return;
  scheduled_ = true;
  core_.streams.Post(shared_from_this());
}

void GenerationRun::Run() {
  std::vector<Inbound> events;
  std::shared_ptr<DeltaSink> sink;
  uint64_t drains = 0;
  int32_t submitted = 0;
  {
    std::lock_guard lock(mutex_);
    if (door_full_ && !urgent_ && !cancelled_) {
      scheduled_ = false;
      return;
    }
    events.swap(inbox_);
    inbox_bytes_ = 0;
    urgent_ = false;
    sink = sink_;
    drains = drains_;
    submitted = submitted_;
  }
  for (Inbound& inbound : events) Process(inbound);
  SinkState state = SinkState::kReady;
  if (sink != nullptr && !ended_) state = Deliver(*sink);
  const bool all_done = streams_done_ == submitted;
  if (sink == nullptr && !ended_ && all_done) End(std::nullopt, true);
  sink.reset();

  std::vector<RequestId> resume;
  std::shared_ptr<DeltaSink> dropped;
  bool closed = false;
  {
    std::lock_guard lock(mutex_);
    door_full_ = state == SinkState::kFull && drains == drains_ && !cancelled_;
    for (size_t p = 0; !door_full_ && p < paused_.size(); ++p) {
      if (paused_[p]) resume.push_back(ids_[p]);
      paused_[p] = false;
    }
    if (ended_ && all_done) {
      closed = closed_ = true;
      dropped = std::move(sink_);
    } else if ((!inbox_.empty() && !door_full_) || urgent_ || (cancelled_ && !ended_ && all_done)) {
      core_.streams.Post(shared_from_this());
    } else {
      scheduled_ = false;
    }
  }
  for (const RequestId id : resume) core_.deps.engine->Resume(id);
  if (closed) core_.Leave(this);
}

void GenerationRun::Process(Inbound& inbound) {
  TokenEvent& event = inbound.event;
  if (event.request_done) ++streams_done_;
  const auto prompt_index = static_cast<size_t>(inbound.prompt);
  const auto index = prompt_index * static_cast<size_t>(n_) + static_cast<size_t>(event.choice);
  PromptState& prompt = prompts_[prompt_index];
  ChoiceStream& choice = choices_[index];
  ChoiceRecord& record = record_.choices[index];
  if (ended_ || choice.finish() != FinishReason::kNone) return;

  if (event.choice == 0 && !prompt.scored) CompleteReport(prompt, event);
  const bool first = choice.usage().completion_tokens == 0;
  const MonoNanos last = record.times.last_token;
  const ChoiceStream::Effect effect = choice.Apply(event);
  record.times = std::move(event.times);
  record.preemptions = event.preemptions;
  record.usage = choice.usage();
  record.finish = choice.finish();
  // A request that generates nothing (max_tokens 0) still has computed its prompt.
  const bool with_prompt =
      event.choice == 0 && first && (effect.counted > 0 || EndsWell(choice.finish()));
  if (effect.counted > 0 || with_prompt) {
    RequestMetrics::Tokens tokens;
    tokens.prompt = with_prompt ? event.prompt_tokens : 0;
    tokens.cached = with_prompt ? event.cached_tokens : 0;
    tokens.generated = effect.counted;
    tokens.first_of_choice = first;
    tokens.step_time = record.times.last_token;
    tokens.gap = first ? 0 : record.times.last_token - last;
    core_.metrics.OnTokens(tokens);
  }
  if (effect.stop_found) {
    core_.deps.engine->Finish(ids_[prompt_index], event.choice, FinishReason::kStop,
                              static_cast<int32_t>(choice.usage().completion_tokens));
  }
  const FinishReason reason = choice.finish();
  if (reason != FinishReason::kNone && !EndsWell(reason) && !failure_) failure_ = EndError(reason);
}

// With the first event of choice 0: the prompt's scores are there.
void GenerationRun::CompleteReport(PromptState& prompt, TokenEvent& event) {
  prompt.scored = true;
  PromptReport& report = *prompt.report;
  if (!event.prompt_logprobs.empty() || prompt.tokens.size() == 1) {
    text::Detokenizer detokenizer(*core_.model.tokenizer, false);
    int64_t offset = 0;
    const bool wanted =
        request_.output.prompt_logprobs || (request_.output.echo && request_.output.logprobs);
    for (size_t i = 0; wanted && i < prompt.tokens.size(); ++i) {
      // [i] scores prompt token i + 1.
      const TokenLogprobs* scores =
          i > 0 && i <= event.prompt_logprobs.size() ? &event.prompt_logprobs[i - 1] : nullptr;
      report.logprobs.push_back(ToText(*core_.model.tokenizer, prompt.tokens[i], scores));
      report.logprobs.back().text_offset = offset;
      offset += static_cast<int64_t>(CountCodePoints(detokenizer.Append(prompt.tokens[i])));
    }
  }
  if (request_.output.return_token_ids) report.tokens = std::move(prompt.tokens);
}

// Deltas in order. The first deltas of a prompt's choices go out by index: clients index their list
// of choices by arrival.
std::vector<OutputDelta> GenerationRun::TakeDeltas() {
  std::vector<OutputDelta> deltas;
  for (size_t i = 0; i < choices_.size(); ++i) {
    PromptState& prompt = prompts_[i / static_cast<size_t>(n_)];
    const auto choice = static_cast<int32_t>(i % static_cast<size_t>(n_));
    if (choice > prompt.started || !choices_[i].HasOutput()) continue;
    deltas.push_back(choices_[i].Take());
    if (choice < prompt.started) continue;
    ++prompt.started;
    deltas.back().prompt = prompt.report;
  }
  return deltas;
}

SinkState GenerationRun::Deliver(DeltaSink& sink) {
  SinkState state = SinkState::kReady;
  if (!accepted_ && !failure_) {
    accepted_ = true;
    sink.OnAccepted(MakeAccepted());
  }
  const bool done = !failure_ && std::all_of(choices_.begin(), choices_.end(), [](const auto& c) {
    return c.finish() != FinishReason::kNone;
  });
  if (accepted_) {
    std::vector<OutputDelta> deltas = TakeDeltas();
    // A bad end is told by OnError; text that came with it is still the client's.
    for (OutputDelta& delta : deltas) {
      if (!EndsWell(delta.finish)) delta.finish = FinishReason::kNone;
    }
    std::erase_if(deltas, [](const OutputDelta& delta) {
      return delta.finish == FinishReason::kNone && delta.text.empty();
    });
    if (!deltas.empty()) state = sink.OnDeltas(std::move(deltas));
  }
  if (failure_) {
    CancelInEngine(FinishReason::kCancelled);
    End(failure_, false);
    sink.OnError(*record_.error);
  } else if (done) {
    // Before the client hears of the end: a scrape right after it must count this request.
    End(std::nullopt, false);
    sink.OnDone(record_.Total());
  }
  return state;
}

void GenerationRun::End(std::optional<ApiError> error, bool cancelled) {
  ended_ = true;
  record_.end = core_.deps.clock->Now();
  record_.error = std::move(error);
  record_.cancelled = cancelled;
  for (ChoiceRecord& choice : record_.choices) {
    if (choice.finish == FinishReason::kNone) choice.finish = FinishReason::kCancelled;
  }
  core_.metrics.OnEnd(record_);
  LogRequest(record_);
  if (core_.deps.spans != nullptr) ExportSpans(record_, *core_.deps.clock, *core_.deps.spans);
}

void GenerationRun::CancelInEngine(FinishReason reason) {
  for (const RequestId id : ids_) core_.deps.engine->Cancel(id, reason);
}

Accepted GenerationRun::MakeAccepted() const {
  Accepted accepted;
  accepted.response_id = record_.response_id;
  accepted.created = core_.deps.clock->UnixNow() / kNanosPerSecond;
  accepted.model = core_.model.card.name;
  accepted.fingerprint = core_.model.card.fingerprint;
  accepted.choices = static_cast<int32_t>(choices_.size());
  for (const PromptState& prompt : prompts_) {
    accepted.prompt_tokens_removed += prompt.report->tokens_removed;
  }
  if (core_.deps.spans != nullptr) accepted.traceparent = record_.context.ToTraceparent();
  return accepted;
}

}  // namespace millrace::server
