#include "tests/checker/checker.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <unordered_map>
#include <utility>

#include "messages/step_plan.h"

namespace millrace::checker {
namespace {

using scheduler::AddResult;
using scheduler::Scheduler;

constexpr TokenId kEnd = 1;
constexpr TokenId kWord = 2;

// One call of the environment.
struct Op {
  enum Kind : uint8_t { kPlan, kApply, kAdd, kCancel, kPause, kResume };
  Kind kind = kPlan;
  uint8_t request = 0;
  uint8_t actual = 0;  // kAdd: the answer ends with its actual-th token
};

std::string Name(const Op& op) {
  static constexpr const char* kNames[] = {"plan", "apply", "add", "cancel", "pause", "resume"};
  std::string name = kNames[op.kind];
  if (op.kind >= Op::kAdd) name += " " + std::to_string(op.request);
  if (op.kind == Op::kAdd) name += "(" + std::to_string(op.actual) + ")";
  return name;
}

// A scheduler and what surrounds it: the device's results are a function of the plan.
class World {
 public:
  explicit World(const Case& c) : case_(c), scheduler_(c.config) {}

  void Do(const Op& op);
  std::vector<Op> Possible() const;
  // The one call that the quiet system makes here. REQUIRES: not at its end.
  Op Quiet() const;
  bool AtEnd() const { return !scheduler_.HasWork(); }
  bool MayPlan() const {
    return in_flight_.size() < static_cast<size_t>(case_.config.max_in_flight);
  }
  uint64_t Fingerprint() const;
  std::string CheckInvariants() const;
  int64_t wrong_ends() const { return wrong_ends_; }
  int32_t most_preemptions() const { return most_preemptions_; }

 private:
  enum class Life : uint8_t { kAbsent, kLive, kEnded };

  void Add(const Op& op);
  void Plan();
  void TakeEvents();

  const Case& case_;
  Scheduler scheduler_;
  std::deque<StepResult> in_flight_;
  std::array<Life, kRequests> life_{};
  std::array<uint8_t, kRequests> actual_{};
  std::array<bool, kRequests> paused_{};
  std::vector<uint8_t> owner_;  // of each sequence, by id - 1
  int64_t wrong_ends_ = 0;
  int32_t most_preemptions_ = 0;
  int32_t ends_too_many_ = 0;
};

void World::Add(const Op& op) {
  const size_t i = op.request;
  Request request;
  request.id = RequestId(i + 1);
  request.prompt.assign(static_cast<size_t>(case_.prompts[i]), kWord);
  request.stop.max_tokens = case_.outputs[i];
  request.n = case_.choices[i];
  actual_[i] = op.actual;
  if (scheduler_.Add(request, 0) == AddResult::kNeverFits) {
    life_[i] = Life::kEnded;
    return;
  }
  life_[i] = Life::kLive;
  for (int32_t choice = 0; choice < request.n; ++choice) owner_.push_back(op.request);
}

void World::Plan() {
  const StepPlan plan = scheduler_.Plan(0);
  if (plan.empty()) return;
  StepResult result;
  result.step = plan.step;
  for (const PlanRow& row : plan.rows) {
    RowResult& out = result.rows.emplace_back();
    out.sequence = row.sequence;
    out.slot = row.slot;
    if (row.output != RowOutput::kSample) continue;
    const uint8_t actual = actual_[owner_[row.sequence.value() - 1]];
    out.tokens.begin = static_cast<uint32_t>(result.tokens.size());
    const uint32_t most = row.kind == RowKind::kDraft ? row.tokens.count : 1;
    while (out.tokens.count < most) {
      const auto index = row.sample_index + static_cast<int32_t>(out.tokens.count);
      const TokenId token = index + 1 == actual ? kEnd : kWord;
      result.tokens.push_back(token);
      ++out.tokens.count;
      if (out.tokens.count == most) break;
      if (plan.tokens[row.tokens.begin + out.tokens.count] != token) break;  // a wrong guess
    }
  }
  in_flight_.push_back(std::move(result));
}

void World::TakeEvents() {
  for (const TokenEvent& event : scheduler_.TakeEvents()) {
    const size_t i = event.request.value() - 1;
    most_preemptions_ = std::max(most_preemptions_, event.preemptions);
    if (event.finish == FinishReason::kNeverFits) {
      // The last token needs no KV. An end token sampled at `actual` is the last.
      const int32_t most = std::min<int32_t>(actual_[i], case_.outputs[i]);
      wrong_ends_ += scheduler::FitsAlone(case_.config, case_.prompts[i] + most - 1);
    }
    if (!event.request_done) continue;
    ends_too_many_ += life_[i] != Life::kLive;
    life_[i] = Life::kEnded;
    paused_[i] = false;
  }
}

void World::Do(const Op& op) {
  const RequestId id(static_cast<uint64_t>(op.request) + 1);
  switch (op.kind) {
    case Op::kPlan:
      Plan();
      break;
    case Op::kApply:
      scheduler_.Apply(in_flight_.front(), 0);
      in_flight_.pop_front();
      break;
    case Op::kAdd:
      Add(op);
      break;
    case Op::kCancel:
      scheduler_.Cancel(id, FinishReason::kCancelled, 0);
      break;
    case Op::kPause:
    case Op::kResume:
      paused_[op.request] = op.kind == Op::kPause;
      op.kind == Op::kPause ? scheduler_.Pause(id) : scheduler_.Resume(id);
      break;
  }
  TakeEvents();
}

std::vector<Op> World::Possible() const {
  std::vector<Op> ops;
  if (MayPlan()) ops.push_back({Op::kPlan});
  if (!in_flight_.empty()) ops.push_back({Op::kApply});
  for (uint8_t i = 0; i < kRequests; ++i) {
    if (life_[i] == Life::kLive) {
      ops.push_back({Op::kCancel, i});
      if (case_.pauses) ops.push_back({paused_[i] ? Op::kResume : Op::kPause, i});
    }
    if (life_[i] != Life::kAbsent) continue;
    for (int32_t actual = 1; actual <= case_.outputs[i]; ++actual) {
      // The last one never says the end token: it ends by its length.
      const int32_t ends_at = actual == case_.outputs[i] ? actual + 1 : actual;
      ops.push_back({Op::kAdd, i, static_cast<uint8_t>(ends_at)});
    }
    break;  // in order: every permutation of sizes is a case of its own
  }
  return ops;
}

Op World::Quiet() const {
  for (uint8_t i = 0; i < kRequests; ++i) {
    if (paused_[i]) return {Op::kResume, i};
  }
  return {MayPlan() ? Op::kPlan : Op::kApply};
}

uint64_t World::Fingerprint() const {
  uint64_t value = scheduler_.Fingerprint();
  for (size_t i = 0; i < kRequests; ++i) {
    const uint64_t mine =
        static_cast<uint64_t>(life_[i]) * 16 + (life_[i] == Life::kLive ? actual_[i] : 0u);
    value = (value ^ mine) * 0x9e3779b97f4a7c15ULL;
    value ^= value >> 31;
  }
  return value;
}

std::string World::CheckInvariants() const {
  if (ends_too_many_ > 0) return "a request ended twice";
  if (AtEnd() && std::count(life_.begin(), life_.end(), Life::kLive) > 0) {
    return "no work is left, but a request has not ended";
  }
  return scheduler_.CheckInvariants();
}

struct Node {
  uint32_t parent = 0;
  Op op;
  uint32_t quiet = 0;  // the state after the quiet system's next call
  bool at_end = false;
};

// Breadth first, so that the calls to replay are as few as can be.
class Search {
 public:
  explicit Search(const Case& c) : case_(c) {}
  Verdict Run();

 private:
  std::vector<Op> CallsTo(uint32_t node) const;
  std::unique_ptr<World> Replay(const std::vector<Op>& calls) const;
  uint32_t Enter(const World& world, uint32_t parent, const Op& op);
  void Expand(uint32_t node);
  void FollowQuietRuns();
  std::string Describe(uint32_t node) const;

  const Case& case_;
  std::vector<Node> nodes_;
  std::unordered_map<uint64_t, uint32_t> seen_;  // looked up, never walked
  Verdict verdict_;
};

std::vector<Op> Search::CallsTo(uint32_t node) const {
  std::vector<Op> calls;
  for (; node != 0; node = nodes_[node].parent) calls.push_back(nodes_[node].op);
  std::reverse(calls.begin(), calls.end());
  return calls;
}

std::unique_ptr<World> Search::Replay(const std::vector<Op>& calls) const {
  auto world = std::make_unique<World>(case_);
  for (const Op& op : calls) world->Do(op);
  return world;
}

std::string Search::Describe(uint32_t node) const {
  std::string text;
  for (const scheduler::KvGroupConfig& group : scheduler::KvGroupsOf(case_.config)) {
    text += std::to_string(group.blocks) + " blocks, window " + std::to_string(group.window) + "; ";
  }
  text += "prompts";
  for (const int32_t prompt : case_.prompts) text += " " + std::to_string(prompt);
  text += " outputs";
  for (const int32_t output : case_.outputs) text += " " + std::to_string(output);
  text += ":";
  for (const Op& op : CallsTo(node)) text += " " + Name(op) + ";";
  return text;
}

uint32_t Search::Enter(const World& world, uint32_t parent, const Op& op) {
  const auto next = static_cast<uint32_t>(nodes_.size());
  const auto entered = seen_.emplace(world.Fingerprint(), next);
  if (!entered.second) return entered.first->second;
  nodes_.push_back({parent, op, next, world.AtEnd()});
  verdict_.wrong_ends += world.wrong_ends() > 0;
  verdict_.most_preemptions = std::max(verdict_.most_preemptions, world.most_preemptions());
  if (verdict_.broken.empty()) {
    const std::string broken = world.CheckInvariants();
    if (!broken.empty()) verdict_.broken = broken + " after " + Describe(next);
  }
  return next;
}

void Search::Expand(uint32_t node) {
  const std::vector<Op> calls = CallsTo(node);
  std::unique_ptr<World> world = Replay(calls);
  const std::vector<Op> possible = world->Possible();
  const Op quiet = world->Quiet();
  uint32_t after_apply = node;
  for (size_t i = 0; i < possible.size(); ++i) {
    if (i > 0) world = Replay(calls);
    const Op op = possible[i];
    world->Do(op);
    const uint32_t target = Enter(*world, node, op);
    if (op.kind == Op::kApply) after_apply = target;
    if (op.kind == quiet.kind && op.request == quiet.request) nodes_[node].quiet = target;
  }
  // An empty plan that changes nothing: the engine goes on with the next result, if there is one.
  if (nodes_[node].quiet == node) nodes_[node].quiet = after_apply;
}

// A quiet run is a path in a graph with one way out of each state: it ends, or it is a cycle (a
// state that is its own successor, or a livelock).
void Search::FollowQuietRuns() {
  constexpr int32_t kUnknown = -1;
  constexpr int32_t kOnPath = -2;
  constexpr int32_t kStuck = -3;
  std::vector<int32_t> calls(nodes_.size(), kUnknown);
  for (uint32_t start = 0; start < nodes_.size(); ++start) {
    std::vector<uint32_t> path;
    uint32_t at = start;
    while (calls[at] == kUnknown && !nodes_[at].at_end) {
      calls[at] = kOnPath;
      path.push_back(at);
      at = nodes_[at].quiet;
    }
    if (nodes_[at].at_end) calls[at] = 0;
    int32_t left = calls[at] == kOnPath ? kStuck : calls[at];
    for (size_t i = path.size(); i-- > 0;) {
      if (left != kStuck) ++left;
      calls[path[i]] = left;
    }
  }
  for (uint32_t node = 0; node < nodes_.size(); ++node) {
    verdict_.worst_quiet = std::max(verdict_.worst_quiet, calls[node]);
    if (calls[node] != kStuck) continue;
    if (verdict_.stuck++ == 0) verdict_.example = Describe(node);
  }
}

Verdict Search::Run() {
  Enter(World(case_), 0, {});
  for (uint32_t node = 0; node < nodes_.size(); ++node) Expand(node);
  FollowQuietRuns();
  verdict_.states = static_cast<int64_t>(nodes_.size());
  return std::move(verdict_);
}

}  // namespace

Verdict Check(const Case& c) {
  return Search(c).Run();
}

void Verdict::Add(const Verdict& other) {
  states += other.states;
  stuck += other.stuck;
  wrong_ends += other.wrong_ends;
  worst_quiet = std::max(worst_quiet, other.worst_quiet);
  most_preemptions = std::max(most_preemptions, other.most_preemptions);
  if (broken.empty()) broken = other.broken;
  if (example.empty()) example = other.example;
}

}  // namespace millrace::checker
