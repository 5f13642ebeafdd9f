#include "scheduler/storm.h"

#include <algorithm>
#include <utility>

#include "messages/step_plan.h"
#include "scheduler/policy.h"

namespace millrace::scheduler {
namespace {

constexpr TokenId kEndToken = 1;

std::string At(const std::string& what, const std::string& broken) {
  return broken.empty() ? "" : what + ": " + broken;
}

}  // namespace

Storm::Storm(Choose choose) : choose_(std::move(choose)) {
  Configure();
  // Few tokens, so that answers end early and prompts share prefixes.
  sample_ = HashSampler(9);
  scheduler_ = std::make_unique<Scheduler>(config_);
  device_ = std::make_unique<TestDevice>(config_, sample_);
}

void Storm::Configure() {
  config_.block_tokens = 1 + static_cast<int32_t>(choose_(4));
  config_.blocks = 3 + static_cast<int32_t>(choose_(14));
  if (choose_(2) == 0) DrawGroups();
  config_.slots = 1 + static_cast<int32_t>(choose_(6));
  config_.tokens_per_step = 1 + static_cast<int32_t>(choose_(16));
  config_.prefill_chunk_max = 1 + static_cast<int32_t>(choose_(8));
  config_.mixed_prefill_tokens = 1 + static_cast<int32_t>(choose_(12));
  config_.max_model_len = 8 + static_cast<int32_t>(choose_(40));
  config_.max_in_flight = 1 + static_cast<int32_t>(choose_(3));
  config_.prefix_cache = choose_(4) != 0;
  config_.end_tokens = {kEndToken};
  if (choose_(3) == 0) return;
  config_.speculation.guesses_max = 1 + static_cast<int32_t>(choose_(6));
  if (choose_(4) == 0) return;  // the real look-up: of nine tokens many pairs come again
  config_.speculation.guess = [this](const GuessQuery& query, std::vector<TokenId>& guesses) {
    Guess(query, guesses);
  };
}

// The truth, with an error here and there: what it is depends on nothing but the question.
void Storm::Guess(const GuessQuery& query, std::vector<TokenId>& guesses) const {
  const Client& client = clients_.at(query.request.value());
  const std::vector<TokenId>& answer =
      client.streams.at(static_cast<size_t>(query.choice)).answer.tokens;
  uint64_t dice = Chain(query.request.value(), static_cast<TokenId>(query.tokens.size()));
  size_t at = query.tokens.size() - client.request.prompt.size();
  for (int32_t i = 0; i < query.most && dice % 5 != 0; ++i, ++at) {
    const bool known = at < answer.size() && dice % 7 != 1;
    guesses.push_back(known ? answer[at] : static_cast<TokenId>(dice % 9));
    dice = Chain(dice, 1);
  }
}

// One to three, of which any may be local: windows from one block to more than any sequence has.
void Storm::DrawGroups() {
  const uint32_t count = 1 + choose_(3);
  for (uint32_t g = 0; g < count; ++g) {
    KvGroupConfig group;
    group.blocks = 3 + static_cast<int32_t>(choose_(14));
    if (choose_(3) != 0)
      group.window = 1 + static_cast<int32_t>(choose_(choose_(4) == 0 ? 60 : 10));
    config_.kv_groups.push_back(group);
  }
  // The device reads the past in what some group sees.
  const bool blind = std::all_of(config_.kv_groups.begin(), config_.kv_groups.end(),
                                 [](const KvGroupConfig& group) { return group.window == 1; });
  if (blind) config_.kv_groups.back().window = 2;
}

Request Storm::DrawRequest() {
  Request request;
  request.id = RequestId(next_id_++);
  const auto most = std::min<uint32_t>(12, static_cast<uint32_t>(config_.max_model_len) - 1);
  const uint32_t length = 1 + choose_(most);
  // All start alike and differ somewhere: hits of every length.
  for (uint32_t i = 0; i < length; ++i) request.prompt.push_back(2);
  if (choose_(2) == 0) request.prompt[choose_(length)] = 3;
  request.stop.max_tokens = 1 + static_cast<int32_t>(choose_(10));
  request.stop.ignore_eos = choose_(3) == 0;
  if (choose_(4) == 0) request.stop.min_tokens = static_cast<int32_t>(choose_(4));
  if (choose_(4) == 0) request.stop.stop_token_ids = {static_cast<TokenId>(choose_(9))};
  // A ban of every token would leave the device none to sample.
  if (choose_(3) == 0) request.n = 2 + static_cast<int32_t>(choose_(3));
  if (choose_(6) == 0) {
    request.prompt_logprobs = 1;
    if (choose_(2) == 0) request.stop.max_tokens = 0;
  }
  request.sampling.seed = choose_(2);
  if (choose_(5) == 0) request.sampling.presence_penalty = 1.0f;
  request.tenant = TenantId(choose_(8) == 0 ? 1 : 0);
  if (choose_(8) == 0) request.cache_salt = "s";
  if (choose_(8) == 0) request.deadline = now_ + 1 + choose_(60);
  return request;
}

std::string Storm::Add() {
  if (live_.size() >= 8) return "";
  Client client;
  client.request = DrawRequest();
  const auto prompt = static_cast<int32_t>(client.request.prompt.size());
  const bool fits = FitsAlone(config_, prompt);
  const AddResult result = scheduler_->Add(client.request, now_);
  if (fits != (result == AddResult::kAccepted)) return "never-fit at the door";
  if (!fits) return "";
  for (int32_t choice = 0; choice < client.request.n; ++choice) {
    Stream& stream = client.streams.emplace_back();
    stream.answer = Reference(client.request, choice, config_, sample_);
  }
  const uint64_t id = client.request.id.value();
  live_.push_back(id);
  clients_.emplace(id, std::move(client));
  return "";
}

bool Storm::SomeoneCouldRun() const {
  return std::any_of(live_.begin(), live_.end(),
                     [this](uint64_t id) { return !clients_.at(id).paused; });
}

bool Storm::SomeoneForks() const {
  return std::any_of(live_.begin(), live_.end(),
                     [this](uint64_t id) { return clients_.at(id).request.n > 1; });
}

bool Storm::AllLocal() const {
  const std::vector<KvGroupConfig> groups = KvGroupsOf(config_);
  return std::all_of(groups.begin(), groups.end(),
                     [](const KvGroupConfig& group) { return group.window > 0; });
}

std::string Storm::PlanStep() {
  if (device_->in_flight() >= static_cast<size_t>(config_.max_in_flight)) return "";
  const uint64_t before = scheduler_->Fingerprint();
  const bool alone = device_->in_flight() == 0;
  const int64_t ends_before = ends_;
  const int32_t active_before = scheduler_->Stats().blocks_active;
  StepPlan plan = scheduler_->Plan(now_);
  std::string bytes;
  Serialize(plan, bytes);
  for (const char c : bytes) digest_ = Chain(digest_, static_cast<uint8_t>(c));
  std::string broken = AfterCall();
  if (!broken.empty()) return broken;
  // Work conservation (L2): with nothing in flight there is nothing to wait for.
  const bool rested = alone && plan.rows.empty() && SomeoneCouldRun();
  idle_plans_ = rested ? idle_plans_ + 1 : 0;
  if (idle_plans_ > 1) return "two plans in a row without rows, though someone could run (L2)";
  if (plan.empty()) {
    // Transactional (S11): what could not be planned has left no trace, unless blocks that a group
    // only kept for its later choices were given up.
    const bool gave = scheduler_->Stats().blocks_active < active_before;
    const bool same = scheduler_->Fingerprint() == before;
    // Where all groups are local these may be ids alone, which no statistic counts.
    const bool unseen = SomeoneForks() && config_.prefix_cache && AllLocal();
    if (same || gave || unseen || ends_ != ends_before) return "";
    return "an empty plan changed the state (S11)";
  }
  if (!plan.installs.empty() && !quiet_ && choose_(24) == 0) {
    device_->Poison(plan.installs[0].sequence);
    poisoned_ = true;
  }
  return At("device", device_->Submit(plan));
}

std::string Storm::ApplyStep() {
  if (device_->in_flight() == 0) return "";
  scheduler_->Apply(device_->Take(), now_);
  std::string broken = AfterCall();
  if (broken.empty() && device_->in_flight() == 0 && scheduler_->Stats().blocks_pending != 0) {
    broken = "blocks wait for a step that has come back (L5)";
  }
  return broken;
}

Storm::Client* Storm::Pick() {
  if (live_.empty()) return nullptr;
  return &clients_.at(live_[choose_(static_cast<uint32_t>(live_.size()))]);
}

std::string Storm::EndSomething() {
  Client* client = Pick();
  if (client == nullptr) return "";
  if (choose_(2) == 0) {
    client->forced = choose_(2) == 0 ? FinishReason::kCancelled : FinishReason::kSlowConsumer;
    scheduler_->Cancel(client->request.id, client->forced, now_);
    return AfterCall();
  }
  const uint32_t choice = choose_(static_cast<uint32_t>(client->streams.size()));
  Stream& stream = client->streams[choice];
  const auto tokens = static_cast<uint32_t>(stream.tokens.size());
  if (!stream.ended) {
    stream.told = static_cast<int32_t>(choose_(tokens + 1));
    stream.told_reason = FinishReason::kStop;
  }
  scheduler_->Finish(client->request.id, static_cast<int32_t>(choice), FinishReason::kStop,
                     stream.told, now_);
  return AfterCall();
}

std::string Storm::PauseSomething() {
  Client* client = Pick();
  if (client == nullptr) return "";
  client->paused = !client->paused;
  client->was_paused = true;
  if (client->paused) {
    scheduler_->Pause(client->request.id);
  } else {
    scheduler_->Resume(client->request.id);
  }
  return AfterCall();
}

std::string Storm::Act() {
  const uint32_t what = choose_(32);
  if (what < 6) return At("add", Add());
  if (what < 17) return At("plan", PlanStep());
  if (what < 27) return At("apply", ApplyStep());
  if (what < 28) return At("end", EndSomething());
  if (what < 30) return At("pause", PauseSomething());
  now_ += choose_(8);
  return "";
}

std::string Storm::Quiet() {
  quiet_ = true;
  for (auto& [id, client] : clients_) {
    if (client.paused) scheduler_->Resume(client.request.id);
    client.paused = false;
  }
  // Every token of every choice once, and again after each of at most three preemptions, one token
  // a step; then the deferred releases.
  size_t bound = 20;
  for (const uint64_t id : live_) {
    const Request& request = clients_.at(id).request;
    bound += 4 * static_cast<size_t>(request.n) *
             (request.prompt.size() + static_cast<size_t>(request.stop.max_tokens) + 2);
  }
  for (size_t step = 0; scheduler_->HasWork(); ++step) {
    if (step > bound) return "stuck: a quiet run does not end (L1)";
    std::string broken = At("quiet plan", PlanStep());
    if (broken.empty()) broken = At("quiet apply", ApplyStep());
    if (!broken.empty()) return broken;
  }
  const EngineStats stats = scheduler_->Stats();
  if (stats.blocks_free + stats.blocks_cached != stats.blocks_total) return "blocks leak";
  if (!live_.empty()) return "a request never ended";
  return device_->slots_in_use() == 0 ? "" : "slots leak";
}

std::string Storm::AfterCall() {
  std::string broken = TakeEvents();
  if (!broken.empty()) return broken;
  const uint64_t print = scheduler_->Fingerprint();
  broken = scheduler_->CheckInvariants();
  if (!broken.empty()) return broken;
  return scheduler_->Fingerprint() == print ? "" : "checking changes the state";
}

std::string Storm::TakeEvents() {
  for (const TokenEvent& event : scheduler_->TakeEvents()) {
    const auto found = clients_.find(event.request.value());
    if (found == clients_.end()) return "an event of an unknown request";
    std::string broken = CheckEvent(found->second, event);
    if (!broken.empty()) {
      return "request " + std::to_string(event.request.value()) + " choice " +
             std::to_string(event.choice) + ": " + broken;
    }
  }
  return "";
}

std::string Storm::CheckEvent(Client& client, const TokenEvent& event) {
  if (client.done) return "an event after the last";
  Stream& stream = client.streams.at(static_cast<size_t>(event.choice));
  if (stream.ended) return "an event after the end of its choice (S10)";
  for (const TokenId token : event.tokens) {
    const size_t at = stream.tokens.size();
    if (at >= stream.answer.tokens.size()) return "more tokens than the answer has (S16)";
    if (stream.answer.tokens[at] != token) return "another token than alone (S16)";
    stream.tokens.push_back(token);
  }
  if (!event.prompt_logprobs.empty()) {
    if (event.choice != 0) return "prompt scores of another choice than 0";
    if (event.prompt_logprobs.size() + 1 != client.request.prompt.size()) return "score count";
    uint64_t chain = 0;
    for (size_t i = 0; i < event.prompt_logprobs.size(); ++i) {
      chain = Chain(chain, client.request.prompt[i]);
      if (event.prompt_logprobs[i].logprob !=
          ScoreOf(chain, client.request.prompt[i + 1]).logprob) {
        return "a prompt score differs";
      }
    }
  }
  const bool cap_held = event.preemptions <= config_.preemptions_before_reserve + 1;
  if (!client.was_paused && !cap_held) return "preempted too often (L3)";
  if (event.finish == FinishReason::kNone) {
    return event.request_done ? "done without an end" : "";
  }
  ++ends_;
  stream.ended = true;
  std::string broken = CheckEnd(client, stream, event);
  if (!broken.empty()) return broken;
  const auto& streams = client.streams;
  const bool all =
      std::all_of(streams.begin(), streams.end(), [](const Stream& s) { return s.ended; });
  if (all != event.request_done) return "request_done is not with the last end (S10)";
  if (all) {
    client.done = true;
    live_.erase(std::find(live_.begin(), live_.end(), event.request.value()));
  }
  return "";
}

std::string Storm::CheckEnd(const Client& client, const Stream& stream,
                            const TokenEvent& event) const {
  const auto tokens = static_cast<int32_t>(stream.tokens.size());
  const auto prompt = static_cast<int32_t>(client.request.prompt.size());
  if (stream.told_reason != FinishReason::kNone) {
    const bool right = event.finish == stream.told_reason && event.completion_tokens == stream.told;
    return right ? "" : "does not end as it was told";
  }
  if (event.completion_tokens != tokens + (event.stop_token >= 0)) return "usage is wrong";
  switch (event.finish) {
    case FinishReason::kStop:
    case FinishReason::kLength:
      if (event.finish != stream.answer.finish) return "another reason than alone";
      if (event.stop_token != stream.answer.stop_token) return "another stop token than alone";
      return stream.tokens == stream.answer.tokens ? "" : "ended too early";
    case FinishReason::kNeverFits:
      return FitsAlone(config_, prompt + tokens) ? "it does fit" : "";
    case FinishReason::kDeadline:
      return client.request.deadline <= now_ ? "" : "a deadline that has not passed";
    case FinishReason::kError:
      return poisoned_ ? "" : "an error of nobody";
    default:
      return event.finish == client.forced ? "" : "nobody asked for this end";
  }
}

}  // namespace millrace::scheduler
