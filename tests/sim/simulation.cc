#include "tests/sim/simulation.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/engine_loop.h"
#include "engine/step_check.h"
#include "tests/sim/client.h"
#include "tests/support/fake_executor.h"

namespace millrace::sim {
namespace {

constexpr size_t kViolationsKept = 20;
// Turns in which a choice that ended may still hold blocks: one for each overlapped step (L5).
constexpr int kRetiringTurns = 2;

testing::FakeExecutorOptions DeviceOf(const World& world, FakeClock& clock) {
  testing::FakeExecutorOptions options;
  for (const scheduler::KvGroupConfig& group : world.groups) {
    options.kv_groups.push_back({world.block_tokens, group.blocks, group.window});
  }
  options.slots = world.slots;
  options.tokens_per_step = world.tokens_per_step;
  options.vocab_size = world.vocab_size;
  options.max_in_flight = world.depth + 1;
  options.clock = &clock;
  options.fail_at_step = StepId(world.device_fails_at);
  options.fail_in_submit = world.fails_in_submit;
  // Seeds are unique in a world: a plan tells by them whose rows it has.
  std::map<uint64_t, uint64_t> domains;
  for (const ClientScript& client : world.clients) {
    const Request& request = client.request;
    options.scripts[request.sampling.seed] = client.script;
    domains[request.sampling.seed] =
        request.tenant.value() * 2 + (request.cache_salt.empty() ? 0 : 1) + 1;
  }
  options.domain = [domains](const SlotInstall& install) {
    const auto found = domains.find(install.sampling.seed);
    return found == domains.end() ? 0 : found->second;
  };
  return options;
}

// What the model will say, spoilt now and then: a function of the question and the seed.
std::function<void(const scheduler::GuessQuery&, std::vector<TokenId>&)> GuesserOf(
    const World& world) {
  // By id: tokens of the prompt, and the answers by choice.
  std::map<uint64_t, std::pair<size_t, std::vector<std::vector<TokenId>>>> answers;
  const testing::ModelSpec spec{world.vocab_size, world.max_model_len, {2}};
  for (const ClientScript& client : world.clients) {
    auto& mine = answers[client.request.id.value()];
    mine.first = client.request.prompt.size();
    for (int32_t choice = 0; choice < client.request.n; ++choice) {
      mine.second.push_back(
          testing::ExpectedChoice(client.request, choice, spec, client.script).tokens);
    }
  }
  return [answers, vocab = world.vocab_size, right = world.guesses_right, seed = world.seed](
             const scheduler::GuessQuery& query, std::vector<TokenId>& guesses) {
    const uint64_t id = query.request.value();
    const auto found = answers.find(id);
    if (found == answers.end()) return;  // the warm-up
    const std::vector<TokenId>& answer = found->second.second[static_cast<size_t>(query.choice)];
    size_t at = query.tokens.size() - found->second.first;
    uint64_t dice = testing::MixHash(seed + id, query.tokens.size());
    const auto count = std::min<uint64_t>(dice % 8, static_cast<uint64_t>(query.most));
    for (uint64_t i = 0; i < count; ++i, ++at) {
      dice = testing::MixHash(dice, 3);
      const bool true_one = at < answer.size() && static_cast<int32_t>(dice % 100) < right;
      guesses.push_back(true_one ? answer[at]
                                 : static_cast<TokenId>(dice % static_cast<uint64_t>(vocab)));
    }
  };
}

engine::EngineOptions EngineOf(const World& world) {
  engine::EngineOptions options;
  scheduler::SchedulerConfig& config = options.scheduler;
  config.block_tokens = world.block_tokens;
  config.kv_groups = world.groups;
  config.slots = world.slots;
  config.tokens_per_step = world.tokens_per_step;
  config.prefill_chunk_max = world.prefill_chunk_max;
  config.mixed_prefill_tokens = world.mixed_prefill_tokens;
  config.max_model_len = world.max_model_len;
  config.prefix_cache = world.prefix_cache;
  config.end_tokens = {2};
  config.model_identity = "sim";
  config.speculation.guesses_max = world.guesses_max;
  if (world.guesses_max > 0) config.speculation.guess = GuesserOf(world);
  options.requests_max = world.requests_max;
  options.pause_max = world.pause_max;
  return options;
}

class Simulation final : public engine::StepObserver {
 public:
  Simulation(const World& world, const RunOptions& options)
      : world_(world), options_(options), device_(DeviceOf(world, clock_)) {
    for (const ClientScript& script : world.clients) {
      clients_.push_back(std::make_unique<Client>(
          world, script, clock_, [this](const std::string& what) { Violate(what); }));
      by_seed_[script.request.sampling.seed] = clients_.back().get();
      clients_.back()->ended_now = &ended_now_;
      clients_.back()->device = &device_;
    }
    engine::EngineOptions engine_options = EngineOf(world);
    engine_options.observer = this;
    engine_options.on_fatal = [this](const absl::Status&) { ++fatal_; };
    loop_ = std::make_unique<engine::EngineLoop>(engine_options, device_, clock_);
  }

  Outcome Run();
  void OnStep(const StepPlan& plan, const StepResult& result, MonoNanos now) override;

 private:
  void Violate(const std::string& what);
  Client& ClientOf(uint64_t seed) { return *by_seed_.at(seed); }
  void Act();
  void ActOne(Client& client);
  void SubmitOne(Client& client);
  void CheckTurn(bool progress);
  void CheckEnd();
  void CheckOrder(uint64_t seed);
  bool AllDone() const;
  bool AdvanceClock();
  int64_t TurnsMax() const;
  void Print(const StepPlan& plan) const;

  const World& world_;
  const RunOptions options_;
  FakeClock clock_;
  testing::FakeExecutor device_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::map<uint64_t, Client*> by_seed_;
  std::unique_ptr<engine::EngineLoop> loop_;
  Outcome outcome_;
  std::map<uint64_t, std::pair<uint64_t, int32_t>> sequences_;  // id -> seed, choice
  int64_t ended_now_ = 0;
  std::vector<int64_t> ended_;  // choices ended, by turn
  int64_t accepted_ = 0;
  int64_t choices_accepted_ = 0;
  int fatal_ = 0;
  bool draining_ = false;
};

void Simulation::Violate(const std::string& what) {
  if (outcome_.violations.size() >= kViolationsKept) return;
  outcome_.violations.push_back(
      absl::StrCat("turn ", outcome_.turns, " at ", clock_.Now() / kNanosPerMicro, " us: ", what));
  if (options_.verbose) std::fprintf(stderr, "VIOLATION %s\n", outcome_.violations.back().c_str());
}

Outcome Simulation::Run() {
  const absl::Status warm = loop_->WarmUp();
  if (!warm.ok()) {
    Violate(absl::StrCat("warm-up: ", std::string(warm.message())));
    return outcome_;
  }
  const int64_t turns_max = TurnsMax();
  while (outcome_.violations.empty()) {
    Act();
    ended_now_ = 0;
    const bool progress = loop_->Step();
    ended_.push_back(ended_now_);
    ++outcome_.turns;
    CheckTurn(progress);
    if (AllDone() && !progress) break;
    if (outcome_.turns > turns_max) Violate("the work does not end (L1)");
    if (!progress && !AdvanceClock()) break;
  }
  if (outcome_.violations.empty()) CheckEnd();
  outcome_.blocks_let_go = device_.blocks_let_go();
  outcome_.guesses_right = device_.guesses_right();
  outcome_.stats = loop_->Stats();
  return outcome_;
}

// Every token computed once in each of a few attempts, one a turn, and the turns without rows.
int64_t Simulation::TurnsMax() const {
  int64_t turns = 1000;
  for (const ClientScript& client : world_.clients) {
    const auto prompt = static_cast<int64_t>(client.request.prompt.size());
    turns += 6 * client.request.n * (prompt + client.request.stop.max_tokens + 4);
  }
  return turns;
}

void Simulation::Act() {
  if (!draining_ && world_.drain_at <= clock_.Now()) {
    draining_ = true;
    loop_->inbox().admission().Close("draining");
    loop_->inbox().Post(engine::DrainLetter{world_.drain_deadline});
    for (const auto& client : clients_) client->draining = true;
  }
  for (const auto& client : clients_) ActOne(*client);
}

void Simulation::ActOne(Client& client) {
  const ClientScript& script = client.script();
  const MonoNanos now = clock_.Now();
  const RequestId id = script.request.id;
  if (!client.submitted && script.arrives <= now) SubmitOne(client);
  if (!client.accepted) return;
  if (!client.cancel_sent && script.cancels <= now) {
    client.cancel_sent = true;  // after its end too: it must be harmless
    loop_->inbox().Post(engine::CancelLetter{id, FinishReason::kCancelled});
    loop_->inbox().Post(engine::CancelLetter{id, FinishReason::kCancelled});
  }
  if (!client.stop_sent && script.stop_choice >= 0 &&
      client.tokens(script.stop_choice) >= static_cast<size_t>(script.stop_after)) {
    client.stop_sent = true;
    loop_->inbox().Post(
        engine::FinishLetter{id, script.stop_choice, FinishReason::kStop, script.stop_after});
  }
  if (client.read_due && client.next_read <= now) {
    client.Read();
    loop_->inbox().Post(engine::ResumeLetter{id});
  }
}

void Simulation::SubmitOne(Client& client) {
  client.submitted = true;
  int32_t live = 0;
  for (const auto& other : clients_) live += other->live() ? 1 : 0;
  const absl::Status status = loop_->inbox().Submit({client.script().request, &client});
  client.accepted = status.ok();
  const bool healthy = loop_->Stats().healthy;
  const bool should = !draining_ && healthy && live < world_.requests_max;
  if (status.ok() != should) {
    Violate(absl::StrCat("admission said ", std::string(status.message()), " with ", live,
                         " requests"));
  }
  if (!status.ok()) return;
  ++accepted_;
  choices_accepted_ += client.script().request.n;
}

bool Simulation::AllDone() const {
  return loop_->Idle() && std::all_of(clients_.begin(), clients_.end(), [](const auto& client) {
           return client->submitted && (!client->accepted || client->done());
         });
}

// To the next thing that can happen. False when nothing can.
bool Simulation::AdvanceClock() {
  MonoNanos next = loop_->NextWake();
  if (next <= clock_.Now()) Violate("the loop would spin");
  if (!draining_) next = std::min(next, world_.drain_at);
  for (const auto& client : clients_) {
    const ClientScript& script = client->script();
    if (!client->submitted) next = std::min(next, script.arrives);
    if (client->accepted && !client->cancel_sent) next = std::min(next, script.cancels);
    if (client->live()) next = std::min(next, client->next_read);
  }
  if (next == kNever) {
    Violate("nothing will ever happen again (L1)");
    return false;
  }
  clock_.Advance(std::max<MonoNanos>(next - clock_.Now(), 0));
  return true;
}

void Simulation::OnStep(const StepPlan& plan, const StepResult& result, MonoNanos) {
  std::string bytes;
  Serialize(plan, bytes);
  Serialize(result, bytes);
  for (const char c : bytes) {
    outcome_.plans_hash = (outcome_.plans_hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  }
  if (options_.verbose) Print(plan);
  for (const SlotInstall& install : plan.installs) {
    const uint64_t seed = install.sampling.seed;
    if (seed == 0) continue;  // the warm-up
    sequences_[install.sequence.value()] = {seed, install.choice};
    if (!ClientOf(seed).installed()) CheckOrder(seed);
    ClientOf(seed).NoteInstalled();
  }
  for (const PlanRow& row : plan.rows) {
    const auto found = sequences_.find(row.sequence.value());
    if (found == sequences_.end()) continue;
    const Client& client = ClientOf(found->second.first);
    const int32_t choice = found->second.second;
    if (client.ended(choice) && plan.step > client.ended_at(choice)) {
      Violate(absl::StrCat("step ", plan.step.value(), " has a row of ended request ",
                           found->second.first, " (S9)"));
    }
  }
}

// First come, first served: all accepted before `seed` have run or ended (L4). Seeds are in the
// order of arrival.
void Simulation::CheckOrder(uint64_t seed) {
  for (const auto& client : clients_) {
    const uint64_t other = client->script().request.sampling.seed;
    if (other < seed && client->live() && !client->installed()) {
      Violate(absl::StrCat("request ", seed, " overtook ", other, " (L4)"));
    }
  }
}

void Simulation::CheckTurn(bool progress) {
  const EngineStats stats = loop_->Stats();
  if (!engine::BlocksAreConserved(stats)) Violate("blocks are not conserved (S1)");
  const std::string broken = loop_->scheduler().CheckInvariants();
  if (!broken.empty()) Violate(broken);
  for (const std::string& what : device_.violations()) Violate(what);
  if (!stats.healthy && world_.device_fails_at == 0) Violate("unhealthy without a device error");
  int64_t may_retire = 0;
  const size_t turns = ended_.size();
  for (size_t i = 0; i < static_cast<size_t>(kRetiringTurns) && i < turns; ++i) {
    may_retire += ended_[turns - 1 - i];
  }
  if (stats.sequences_retiring > may_retire) {
    Violate(absl::StrCat(stats.sequences_retiring, " sequences retire too long (L5)"));
  }
  if (progress) return;
  if (stats.blocks_pending != 0 || stats.sequences_retiring != 0) {
    Violate("blocks are still fenced when nothing is in flight (L5)");
  }
  for (const auto& client : clients_) {
    if (client->live() && !client->read_due) {
      Violate(absl::StrCat("nothing was planned, but request ", client->script().request.id.value(),
                           " could advance (L2)"));
    }
  }
}

void Simulation::CheckEnd() {
  const EngineStats stats = loop_->Stats();
  if (stats.blocks_free + stats.blocks_cached != stats.blocks_total) {
    Violate("blocks did not come back (S1, S2)");
  }
  if (stats.sequences_running + stats.sequences_waiting + stats.sequences_paused != 0) {
    Violate("sequences are left");
  }
  int64_t finished = 0;
  for (const int64_t count : stats.finished) finished += count;
  int64_t refused = 0;  // accepted, but refused before the scheduler took them
  for (const auto& client : clients_) {
    if (client->accepted && client->refused()) refused += client->script().request.n;
  }
  if (finished + refused != choices_accepted_) Violate("choices are not conserved (S10)");
  if (loop_->inbox().admission().requests() != 0) Violate("admission is not conserved (S10)");
  if (stats.healthy && device_.installed() != 0) Violate("slots are left on the device");
  if (fatal_ != (stats.healthy ? 0 : 1)) Violate("on_fatal was not called once");
}

void Simulation::Print(const StepPlan& plan) const {
  const EngineStats stats = loop_->Stats();
  std::fprintf(stderr, "step %llu at %lld us: free %d cached %d pending %d |",
               static_cast<unsigned long long>(plan.step.value()),
               static_cast<long long>(clock_.Now() / kNanosPerMicro), stats.blocks_free,
               stats.blocks_cached, stats.blocks_pending);
  for (const SlotId slot : plan.removes) std::fprintf(stderr, " -slot%u", slot.value());
  for (const SlotInstall& install : plan.installs) {
    std::fprintf(stderr, " +slot%u=r%llu.%d", install.slot.value(),
                 static_cast<unsigned long long>(install.sampling.seed), install.choice);
  }
  for (const BlockCopy& copy : plan.copies) {
    std::fprintf(stderr, " copy %u>%u", copy.source.value(), copy.target.value());
  }
  for (const PlanRow& row : plan.rows) {
    std::fprintf(stderr, " s%llu[%d+%u]%s", static_cast<unsigned long long>(row.sequence.value()),
                 row.position, row.tokens.count,
                 row.kind == RowKind::kDraft        ? "?"
                 : row.output == RowOutput::kSample ? "*"
                                                    : "");
  }
  std::fprintf(stderr, "\n");
}

}  // namespace

Outcome RunWorld(const World& world, const RunOptions& options) {
  return Simulation(world, options).Run();
}

}  // namespace millrace::sim
