// Requests come and go: everything but planning and applying a step.

#include "scheduler/scheduler.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "scheduler/state.h"

namespace millrace::scheduler {
namespace {

void AppendSized(std::string_view part, std::string& out) {
  const auto size = static_cast<uint64_t>(part.size());
  out.append(reinterpret_cast<const char*>(&size), sizeof(size));
  out.append(part);
}

// Lengths before parts: no two (model, tenant, salt) give the same key.
std::string NamespaceKey(const SchedulerConfig& config, const Request& request) {
  std::string key;
  AppendSized(config.model_identity, key);
  const uint32_t tenant = request.tenant.value();
  key.append(reinterpret_cast<const char*>(&tenant), sizeof(tenant));
  AppendSized(request.cache_salt, key);
  return key;
}

std::vector<TokenId> StopTokens(const SchedulerConfig& config, const StopParams& stop) {
  std::vector<TokenId> stops = stop.stop_token_ids;
  if (!stop.ignore_eos) {
    stops.insert(stops.end(), config.end_tokens.begin(), config.end_tokens.end());
  }
  std::sort(stops.begin(), stops.end());
  stops.erase(std::unique(stops.begin(), stops.end()), stops.end());
  return stops;
}

}  // namespace

Scheduler::State::State(const SchedulerConfig& config)
    : config_(config),
      kv_(PoolGroups(config)),
      device_groups_(KvGroupsOf(config).size()),
      windows_(std::any_of(kv_.begin(), kv_.end(), [](const KvGroup& g) { return g.window > 0; })),
      pool_(PoolOf(config)),
      wanted_(kv_.size()),
      missing_(kv_.size()) {
  CHECK(config.block_tokens > 0 && config.slots > 0);
  CHECK(config.speculation.guesses_max >= 0 && config.speculation.guesses_max <= kGuessesMax);
  CHECK(config.tokens_per_step > 0 && config.prefill_chunk_max > 0 && config.max_in_flight > 0);
  CHECK(config.mixed_prefill_tokens > 0);
  for (int32_t slot = 0; slot < config.slots; ++slot) {
    slots_free_.insert(static_cast<uint32_t>(slot));
  }
}

AddResult Scheduler::State::Add(const Request& request, MonoNanos now) {
  const auto prompt_tokens = static_cast<int32_t>(request.prompt.size());
  CHECK(prompt_tokens > 0 && request.n > 0);
  CHECK(!by_request_.contains(request.id));
  if (config_.refuse_never_fit && !FitsAlone(config_, prompt_tokens)) return AddResult::kNeverFits;
  const uint64_t ticket = next_ticket_++;
  auto owned = std::make_unique<Group>();
  Group& group = *owned;
  group.request = request;
  group.stops = StopTokens(config_, request.stop);
  if (config_.prefix_cache) group.space = pool_.OpenNamespace(NamespaceKey(config_, request));
  group.live = group.never_admitted = request.n;
  for (int32_t choice = 0; choice < request.n; ++choice) {
    auto sequence = std::make_unique<Sequence>();
    sequence->group = &group;
    sequence->request = request.id;
    const size_t stops = std::min(group.stops.size(), sequence->stops.size());
    std::copy_n(group.stops.begin(), stops, sequence->stops.begin());
    sequence->more_stops = group.stops.size() > stops;
    sequence->id = SequenceId(next_sequence_++);
    sequence->ticket = {request.tenant, request.priority, ticket, choice};
    for (size_t g = 0; g < kv_.size(); ++g) sequence->tables.emplace_back(Id(g));
    sequence->tokens = request.prompt;
    sequence->known = sequence->prompt_tokens = prompt_tokens;
    sequence->last_token = request.prompt.back();
    sequence->samples = request.stop.max_tokens > 0;
    sequence->rows_end = RowsEnd(prompt_tokens, request.stop.max_tokens, config_.max_model_len);
    sequence->wants_scores = choice == 0 && request.prompt_logprobs >= 0;
    sequence->times.arrival = request.arrival != 0 ? request.arrival : now;
    waiting_.emplace(sequence->ticket, sequence.get());
    group.choices.push_back(std::move(sequence));
  }
  if (request.deadline != kNever) deadlines_.emplace(request.deadline, ticket);
  by_request_.emplace(request.id, &group);
  groups_.emplace(ticket, std::move(owned));
  ++stats_.requests_accepted;
  choices_accepted_ += request.n;
  return AddResult::kAccepted;
}

void Scheduler::State::Cancel(RequestId request, FinishReason reason, MonoNanos) {
  const auto found = by_request_.find(request);
  if (found != by_request_.end()) EndGroup(*found->second, reason);
}

void Scheduler::State::Finish(RequestId request, int32_t choice, FinishReason reason,
                              int32_t completion_tokens, MonoNanos) {
  const auto found = by_request_.find(request);
  if (found == by_request_.end()) return;
  Group& group = *found->second;
  if (choice < 0 || choice >= group.request.n) return;
  Sequence& sequence = *group.choices[static_cast<size_t>(choice)];
  if (sequence.phase == Phase::kEnded) return;
  End end;
  end.reason = reason;
  end.completion_tokens = std::clamp(completion_tokens, 0, sequence.outputs());
  EndSequence(sequence, end, MakeEvent(sequence));
}

void Scheduler::State::Pause(RequestId request, bool paused) {
  const auto found = by_request_.find(request);
  if (found == by_request_.end() || found->second->paused == paused) return;
  Group& group = *found->second;
  group.paused = paused;
  for (const auto& sequence : group.choices) sequence->paused = paused;
  stats_.pauses += paused;
  paused_groups_ += paused ? 1 : -1;
}

void Scheduler::State::FillEvent(const Sequence& sequence, TokenEvent& event) {
  event.request = sequence.request;
  event.choice = sequence.ticket.choice;
  event.prompt_tokens = sequence.prompt_tokens;
  event.cached_tokens = sequence.cached_tokens;
  event.completion_tokens = sequence.outputs() + sequence.stop_counted;
  event.preemptions = sequence.preemptions;
  event.times = sequence.times;
}

TokenEvent Scheduler::State::MakeEvent(const Sequence& sequence) {
  TokenEvent event;
  FillEvent(sequence, event);
  return event;
}

// After this call the sequence takes part in no plan and its rows in flight are dropped.
void Scheduler::State::EndSequence(Sequence& sequence, const End& end, TokenEvent&& event) {
  Group& group = *sequence.group;
  CHECK(sequence.phase != Phase::kEnded);
  if (sequence.phase == Phase::kRunning) {
    LeaveDevice(sequence);
    if (sequence.last_step > applied_) retiring_sequences_.push_back(sequence.last_step);
  } else {
    waiting_.erase(sequence.ticket);
  }
  sequence.phase = Phase::kEnded;
  if (!sequence.admitted_once) --group.never_admitted;
  if (group.anchored && group.never_admitted == 0) DropAnchor(group);
  --group.live;
  ++stats_.finished[static_cast<size_t>(end.reason)];
  event.finish = end.reason;
  event.stop_token = end.stop_token;
  event.error = end.error;
  if (end.completion_tokens >= 0) event.completion_tokens = end.completion_tokens;
  event.request_done = group.live == 0;
  events_.push_back(std::move(event));
  if (group.live == 0) CloseGroup(group);
}

void Scheduler::State::EndGroup(Group& group, FinishReason reason) {
  End end;
  end.reason = reason;
  for (const auto& sequence : group.choices) {
    if (sequence->phase != Phase::kEnded) EndSequence(*sequence, end, MakeEvent(*sequence));
  }
}

// Blocks, slot and place among the running go; a row in flight will be dropped by its epoch.
void Scheduler::State::LeaveDevice(Sequence& sequence) {
  for (paged_kv::BlockTable& table : sequence.tables) pool_.Release(table, sequence.last_step);
  sequence.table_end = 0;
  sequence.reserved = false;
  removes_.push_back(sequence.slot);
  slots_free_.insert(sequence.slot.value());
  ++sequence.epoch;
  sequence.samples_in_flight = 0;
  sequence.guesses_in_flight = 0;
  running_stale_ = true;
  if (sequence.leads) SetLeader(*sequence.group, nullptr);
}

void Scheduler::State::SetLeader(Group& group, Sequence* leader) {
  if (group.leader != nullptr) group.leader->leads = false;
  group.leader = leader;
  if (leader != nullptr) leader->leads = true;
}

void Scheduler::State::DropAnchor(Group& group) {
  for (size_t g = 0; g < kv_.size(); ++g) {
    pool_.Unpin(group.anchor[g], group.anchor_step, Id(g));
  }
  group.anchor.clear();
  group.anchored = false;
  anchored_.erase(group.choices[0]->ticket.ticket);
}

// The group's memory stays until nothing can point to it: rows in flight and `running_` may still.
void Scheduler::State::CloseGroup(Group& group) {
  const uint64_t ticket = group.choices[0]->ticket.ticket;
  if (group.anchored) DropAnchor(group);
  if (config_.prefix_cache) pool_.CloseNamespace(group.space);
  if (group.request.deadline != kNever) deadlines_.erase({group.request.deadline, ticket});
  if (group.paused) --paused_groups_;
  by_request_.erase(group.request.id);
  StepId last_step;
  for (const auto& sequence : group.choices) last_step = std::max(last_step, sequence->last_step);
  const auto place = groups_.find(ticket);
  retiring_.emplace_back(last_step, std::move(place->second));
  groups_.erase(place);
}

void Scheduler::State::SetTableEnd(Sequence& sequence) const {
  int32_t blocks = INT32_MAX / config_.block_tokens;
  for (const paged_kv::BlockTable& table : sequence.tables) blocks = std::min(blocks, table.size());
  sequence.table_end = blocks * config_.block_tokens;
}

void Scheduler::State::CompactRunning() {
  if (!running_stale_) return;
  std::erase_if(running_, [](const Sequence* s) { return s->phase != Phase::kRunning; });
  running_stale_ = false;
}

void Scheduler::State::TakeEventsInto(std::vector<TokenEvent>& events) {
  events.clear();
  events.swap(events_);
}

bool Scheduler::State::HasWork() const {
  return !groups_.empty() || !in_flight_.empty() || !removes_.empty();
}

MonoNanos Scheduler::State::NextDeadline() const {
  return deadlines_.empty() ? kNever : deadlines_.begin()->first;
}

Scheduler::Scheduler(const SchedulerConfig& config) : state_(std::make_unique<State>(config)) {}
Scheduler::~Scheduler() = default;

AddResult Scheduler::Add(const Request& request, MonoNanos now) {
  return state_->Add(request, now);
}
void Scheduler::Cancel(RequestId request, FinishReason reason, MonoNanos now) {
  state_->Cancel(request, reason, now);
}
void Scheduler::Finish(RequestId request, int32_t choice, FinishReason reason,
                       int32_t completion_tokens, MonoNanos now) {
  state_->Finish(request, choice, reason, completion_tokens, now);
}
void Scheduler::Pause(RequestId request) {
  state_->Pause(request, true);
}
void Scheduler::Resume(RequestId request) {
  state_->Pause(request, false);
}
void Scheduler::UpdateTenants(std::vector<TenantPolicy> tenants) {
  state_->UpdateTenants(std::move(tenants));
}
StepPlan Scheduler::Plan(MonoNanos now) {
  StepPlan plan;
  state_->Plan(now, plan);
  return plan;
}
void Scheduler::PlanInto(MonoNanos now, StepPlan& plan) {
  state_->Plan(now, plan);
}
void Scheduler::Apply(const StepResult& result, MonoNanos now) {
  state_->Apply(result, now);
}
std::vector<TokenEvent> Scheduler::TakeEvents() {
  std::vector<TokenEvent> events;
  state_->TakeEventsInto(events);
  return events;
}
void Scheduler::TakeEventsInto(std::vector<TokenEvent>& events) {
  state_->TakeEventsInto(events);
}
bool Scheduler::HasWork() const {
  return state_->HasWork();
}
MonoNanos Scheduler::NextDeadline() const {
  return state_->NextDeadline();
}
EngineStats Scheduler::Stats() const {
  return state_->Stats();
}
std::string Scheduler::CheckInvariants() const {
  return state_->CheckInvariants();
}
uint64_t Scheduler::Fingerprint() const {
  return state_->Fingerprint();
}

}  // namespace millrace::scheduler
