#include "engine/engine_loop.h"

#include <algorithm>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/step_check.h"

namespace millrace::engine {
namespace {

constexpr MonoNanos kAuditPeriod = kNanosPerSecond;
// Park never waits longer: a bound for arithmetic, not for progress.
constexpr MonoNanos kParkMax = 3600 * kNanosPerSecond;
// The warm-up's request; the server counts up from 1.
constexpr RequestId kWarmUpRequest{UINT64_MAX};

scheduler::SchedulerConfig ConfigFor(const EngineOptions& options, int max_in_flight) {
  scheduler::SchedulerConfig config = options.scheduler;
  config.max_in_flight = max_in_flight;
  return config;
}

}  // namespace

EngineLoop::EngineLoop(const EngineOptions& options, executor::Executor& executor,
                       const Clock& clock)
    : options_(options),
      executor_(executor),
      clock_(clock),
      overlap_(static_cast<size_t>(executor.max_in_flight() - 1)),
      inbox_(options.inbox_capacity, {options.requests_max, options.queued_tokens_max}),
      scheduler_(ConfigFor(options, executor.max_in_flight())) {
  PublishStats();
}

absl::Status EngineLoop::WarmUp() {
  fatal_reported_ = true;  // the caller gets the error as a value
  failure_ = CheckCapacity(options_.scheduler, executor_.Capacity());
  if (failure_.ok()) {
    // Not through the inbox: it has no sink, and its events are dropped. The salt keeps it out of
    // everyone's prefix cache.
    Request request;
    request.id = kWarmUpRequest;
    request.prompt = {0};
    request.sampling.temperature = 0;
    request.stop.max_tokens = 1;
    request.stop.ignore_eos = true;
    request.cache_salt = "millrace warm-up";
    request.arrival = clock_.Now();
    if (scheduler_.Add(request, clock_.Now()) != scheduler::AddResult::kAccepted) {
      failure_ = absl::InvalidArgumentError("the KV pool cannot hold one token");
    }
    while (failure_.ok() && Step()) {
    }
  }
  baseline_ = scheduler_.Stats();
  if (failure_.ok() && baseline_.generation_tokens != 1) {
    failure_ = absl::InternalError("the warm-up step yielded no token");
  }
  PublishStats();
  RETURN_IF_ERROR(failure_);
  fatal_reported_ = false;
  inbox_.admission().Open();
  return absl::OkStatus();
}

bool EngineLoop::Step() {
  bool progress = ReadInbox();
  progress |= ExpireTimers();
  const bool submitted = SubmitNext();
  progress |= Deliver();  // what needs no device: cancels, deadlines, refusals
  if (in_flight_.size() > overlap_ || (!submitted && !in_flight_.empty())) {
    ApplyOldest();
    Deliver();
    progress = true;
  }
  progress |= submitted;
  if (!progress) Audit();
  PublishStats();
  if (!failure_.ok() && live_.empty()) ReportFatal();
  return progress;
}

void EngineLoop::Park() {
  const MonoNanos timeout = NextWake() - clock_.Now();
  if (timeout > 0) inbox_.WaitFor(std::min(timeout, kParkMax));
}

MonoNanos EngineLoop::NextWake() const {
  MonoNanos wake = scheduler_.NextDeadline();
  if (!paused_.empty()) wake = std::min(wake, paused_.begin()->first + options_.pause_max);
  if (!live_.empty()) wake = std::min(wake, drain_deadline_);
  if (audit_due_ && Idle()) wake = std::min(wake, last_audit_ + kAuditPeriod);
  return wake;
}

bool EngineLoop::ReadInbox() {
  letters_.clear();
  inbox_.DrainInto(letters_);
  for (Letter& letter : letters_) {
    std::visit([this](auto& l) { Handle(std::move(l)); }, letter);
  }
  return !letters_.empty();
}

void EngineLoop::Handle(SubmitLetter letter) {
  const RequestId id = letter.request.id;
  const MonoNanos now = clock_.Now();
  const Live live{letter.sink, static_cast<int64_t>(letter.request.prompt.size()), kNever};
  // Accepted before the door was closed, read after: it still gets its one last event.
  if (!failure_.ok()) return Refuse(live, id, FinishReason::kError);
  if (now >= drain_deadline_) return Refuse(live, id, FinishReason::kShutdown);
  CHECK(live_.emplace(id, live).second);
  // kNeverFits here is rare (Submit asks first), and the scheduler has made no event for it.
  if (scheduler_.Add(letter.request, now) == scheduler::AddResult::kNeverFits) {
    live_.erase(id);
    Refuse(live, id, FinishReason::kNeverFits);
  }
}

void EngineLoop::Handle(const CancelLetter& letter) {
  scheduler_.Cancel(letter.request, letter.reason, clock_.Now());
}

void EngineLoop::Handle(const FinishLetter& letter) {
  scheduler_.Finish(letter.request, letter.choice, letter.reason, letter.completion_tokens,
                    clock_.Now());
}

void EngineLoop::Handle(const ResumeLetter& letter) {
  const auto it = live_.find(letter.request);
  if (it == live_.end() || !ForgetPause(letter.request, it->second)) return;
  scheduler_.Resume(letter.request);
}

void EngineLoop::Handle(TenantsLetter letter) {
  scheduler_.UpdateTenants(std::move(letter.tenants));
}

void EngineLoop::Handle(const DrainLetter& letter) {
  drain_deadline_ = std::min(drain_deadline_, letter.deadline);
}

bool EngineLoop::ExpireTimers() {
  const MonoNanos now = clock_.Now();
  bool expired = false;
  while (!paused_.empty() && paused_.begin()->first + options_.pause_max <= now) {
    const RequestId id = paused_.begin()->second;
    ForgetPause(id, live_.at(id));
    scheduler_.Cancel(id, FinishReason::kSlowConsumer, now);
    expired = true;
  }
  if (now >= drain_deadline_ && !live_.empty()) {
    EndAll(FinishReason::kShutdown);
    expired = true;
  }
  return expired;
}

bool EngineLoop::SubmitNext() {
  if (device_lost_) return false;
  StepPlan plan = scheduler_.Plan(clock_.Now());
  if (plan.empty()) return false;
  InFlight& step = in_flight_.emplace_back();
  step.expected = Expect(plan);
  step.tokens = static_cast<int32_t>(plan.tokens.size());
  step.submitted = clock_.Now();
  if (options_.observer != nullptr) step.plan = plan;
  const absl::Status status = executor_.Submit(std::move(plan));
  if (!status.ok()) FailDevice(status);
  return true;
}

void EngineLoop::ApplyOldest() {
  InFlight& step = in_flight_.front();
  absl::StatusOr<StepResult> result = executor_.Wait(step.expected.if_lost.step);
  absl::Status status = result.status();
  if (status.ok()) status = CheckResult(step.expected, executor_.Capacity().vocab_size, *result);
  if (!status.ok()) return FailDevice(status);
  const MonoNanos now = clock_.Now();
  last_step_.last_step_end = now;
  // With overlap a step waits behind the one before: its own time begins when that one ended.
  last_step_.last_step_nanos = now - std::max(step.submitted, device_free_);
  last_step_.last_step_tokens = step.tokens;
  device_free_ = now;
  audit_due_ = true;
  scheduler_.Apply(*result, now);
  if (options_.observer != nullptr) options_.observer->OnStep(step.plan, *result, now);
  in_flight_.pop_front();
  PublishStats();
}

bool EngineLoop::Deliver() {
  scheduler_.TakeEventsInto(events_);
  for (TokenEvent& event : events_) DeliverOne(std::move(event));
  return !events_.empty();
}

void EngineLoop::DeliverOne(TokenEvent&& event) {
  const RequestId id = event.request;
  const auto it = live_.find(id);
  if (it == live_.end()) return;  // the warm-up
  Live& live = it->second;
  if (event.finish == FinishReason::kError && event.error.empty()) {
    event.error = std::string(failure_.message());
  }
  if (event.request_done) {
    ForgetPause(id, live);
    const Live ended = live;
    live_.erase(it);
    return PushLast(ended, std::move(event));
  }
  LeaveQueue(live);
  if (live.sink->Push(std::move(event)) == SinkState::kFull && live.paused_since == kNever) {
    live.paused_since = clock_.Now();
    paused_.emplace(live.paused_since, id);
    scheduler_.Pause(id);
  }
}

void EngineLoop::PushLast(Live live, TokenEvent&& event) {
  LeaveQueue(live);
  live.sink->Push(std::move(event));
  // After the delivery, so that a drain that sees no request left has seen all events out.
  inbox_.admission().Leave();
}

void EngineLoop::LeaveQueue(Live& live) {
  if (live.queued_tokens == 0) return;
  inbox_.admission().LeaveQueue(live.queued_tokens);
  live.queued_tokens = 0;
}

void EngineLoop::Refuse(const Live& live, RequestId request, FinishReason reason) {
  TokenEvent event;
  event.request = request;
  event.finish = reason;
  event.request_done = true;
  if (reason == FinishReason::kError) event.error = std::string(failure_.message());
  PushLast(live, std::move(event));
}

bool EngineLoop::ForgetPause(RequestId request, Live& live) {
  if (live.paused_since == kNever) return false;
  paused_.erase({live.paused_since, request});
  live.paused_since = kNever;
  return true;
}

void EngineLoop::EndAll(FinishReason reason) {
  std::vector<RequestId> ids;  // in order, or two runs of one seed would differ
  for (const auto& [id, live] : live_) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  for (const RequestId id : ids) scheduler_.Cancel(id, reason, clock_.Now());
}

void EngineLoop::FailDevice(absl::Status status) {
  device_lost_ = true;
  if (failure_.ok()) failure_ = status;
  inbox_.admission().Close(absl::StrCat("the device failed: ", status.message()));
  EndAll(FinishReason::kError);
  // The steps that will never end are applied as failed, so that the accounting stays whole.
  for (const InFlight& step : in_flight_) scheduler_.Apply(step.expected.if_lost, clock_.Now());
  in_flight_.clear();
  PublishStats();
}

void EngineLoop::Audit() {
  const MonoNanos now = clock_.Now();
  if (!audit_due_ || !Idle() || now - last_audit_ < kAuditPeriod) return;
  audit_due_ = false;
  last_audit_ = now;
  const std::string broken =
      options_.audit ? options_.audit(scheduler_) : scheduler_.CheckInvariants();
  if (!broken.empty()) Quarantine(broken);
}

void EngineLoop::Quarantine(const std::string& broken) {
  if (!failure_.ok()) return;
  failure_ = absl::InternalError(absl::StrCat("conservation audit: ", broken));
  inbox_.admission().Close("the engine failed an audit of its accounting");
}

void EngineLoop::ReportFatal() {
  if (fatal_reported_) return;
  fatal_reported_ = true;
  PublishStats();
  if (options_.on_fatal) options_.on_fatal(failure_);
}

void EngineLoop::PublishStats() {
  EngineStats stats = scheduler_.Stats();
  // The cheap half of the audit runs after every step: what runs may finish, nothing new comes in.
  if (!BlocksAreConserved(stats)) Quarantine("blocks are missing or counted twice");
  SubtractCounters(baseline_, stats);
  stats.last_step_end = last_step_.last_step_end;
  stats.last_step_nanos = last_step_.last_step_nanos;
  stats.last_step_tokens = last_step_.last_step_tokens;
  stats.healthy = failure_.ok();
  board_.Publish(stats);
}

}  // namespace millrace::engine
