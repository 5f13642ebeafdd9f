#pragma once
// Inside of Scheduler: its whole state. The folder's .cc files implement one part each:
// scheduler.cc (requests come and go), planner.cc (Plan), commit.cc (Apply), audit.cc (checks).

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "scheduler/kv_groups.h"
#include "scheduler/scheduler.h"
#include "scheduler/sequence.h"

namespace millrace::scheduler {

// Thread: engine.
class Scheduler::State {
 public:
  explicit State(const SchedulerConfig& config);

  // scheduler.cc
  AddResult Add(const Request& request, MonoNanos now);
  void Cancel(RequestId request, FinishReason reason, MonoNanos now);
  void Finish(RequestId request, int32_t choice, FinishReason reason, int32_t completion_tokens,
              MonoNanos now);
  void Pause(RequestId request, bool paused);
  void UpdateTenants(std::vector<TenantPolicy> tenants) { tenants_ = std::move(tenants); }
  void TakeEventsInto(std::vector<TokenEvent>& events);
  bool HasWork() const;
  MonoNanos NextDeadline() const;
  // planner.cc
  void Plan(MonoNanos now, StepPlan& plan);
  // commit.cc
  void Apply(const StepResult& result, MonoNanos now);
  // audit.cc
  EngineStats Stats() const;
  std::string CheckInvariants() const;
  uint64_t Fingerprint() const;

 private:
  // scheduler.cc
  void EndSequence(Sequence& sequence, const End& end, TokenEvent&& event);
  void EndGroup(Group& group, FinishReason reason);
  static void FillEvent(const Sequence& sequence, TokenEvent& event);
  static TokenEvent MakeEvent(const Sequence& sequence);
  static void SetLeader(Group& group, Sequence* leader);
  void LeaveDevice(Sequence& sequence);
  void DropAnchor(Group& group);
  void CloseGroup(Group& group);
  void CompactRunning();
  int32_t blocks_for(int32_t tokens) const { return BlocksFor(tokens, config_.block_tokens); }

  // planner.cc
  void ExpireDeadlines(MonoNanos now);
  void PlanDecodes(MonoNanos now, StepPlan& plan);
  void PlanPrefills(StepPlan& plan);
  void PlanAdmissions(MonoNanos now, StepPlan& plan);
  enum class Admission : uint8_t { kAdmitted, kNotReady, kNoRoom, kNoSlot, kGone };
  Admission TryAdmit(Sequence& sequence, MonoNanos now, StepPlan& plan);
  Start NoStart() const;
  Start FindStart(const Sequence& sequence) const;
  bool HasRoomFor(const Sequence& sequence, const Start& start);
  void Admit(Sequence& sequence, const Start& start, StepPlan& plan);
  void Install(const Sequence& sequence, StepPlan& plan);
  void NoteAdmission(Sequence& sequence, const Start& start, MonoNanos now);
  bool MakeRoomForHead(const Sequence& head, MonoNanos now);
  bool AnyAdvances() const;
  bool PreemptIdle(MonoNanos now);
  bool EnsureTables(size_t running_index, MonoNanos now, StepPlan& plan);
  void ExtendTables(Sequence& sequence, StepPlan& plan);
  int32_t FitChunk(Sequence& sequence, int32_t count, StepPlan& plan);
  void TellSlides(StepPlan& plan);
  bool MakeRoom(size_t requester, MonoNanos now);
  // Of `missing_`: some group lacks blocks; one that does gets some with a result to come.
  bool AnyMissing() const;
  bool AnyComing() const;
  bool DropYoungestAnchor(const Group* keep);
  void Preempt(Sequence& sequence, MonoNanos now);
  void AddPrefillRow(Sequence& sequence, StepPlan& plan);
  void AddRow(Sequence& sequence, RowKind kind, int32_t count, StepPlan& plan);

  // drafting.cc
  void CountDecodes();
  bool AddDraftRow(Sequence& sequence, StepPlan& plan);
  int32_t Guess(Sequence& sequence, int32_t most);
  void FitGuesses(Sequence& sequence, StepPlan& plan);
  void ApplyDraftRow(const SubmittedRow&, const RowResult&, const StepResult&, MonoNanos now);
  // commit.cc
  void ApplyRow(const SubmittedRow&, const RowResult&, const StepResult&, MonoNanos now);
  void PublishFull(Sequence& sequence);
  void PrefillEnded(Sequence& sequence);
  bool MakeAnchor(Sequence& sequence);
  void SlideWindows(Sequence& sequence);
  void TakeTokens(Sequence&, const RowResult&, const StepResult&, MonoNanos now);

  // audit.cc
  std::string CheckSequence(const Sequence& sequence) const;
  std::string CheckLists() const;

  static uint32_t Id(size_t group) { return static_cast<uint32_t>(group); }
  void SetTableEnd(Sequence& sequence) const;

  const SchedulerConfig config_;
  const std::vector<KvGroup> kv_;  // of the pool
  size_t device_groups_ = 1;
  bool windows_ = false;  // some group is local
  paged_kv::BlockPool pool_;
  std::vector<TenantPolicy> tenants_;

  // Live requests by ticket, and the way from a request's id to its ticket (never walked).
  std::map<uint64_t, std::unique_ptr<Group>> groups_;
  absl::flat_hash_map<RequestId, Group*> by_request_;
  std::set<std::pair<MonoNanos, uint64_t>> deadlines_;  // with the ticket
  std::map<QueueTicket, Sequence*, ServedBefore> waiting_;
  // Oldest first. Entries may have stopped running until the next CompactRunning.
  std::vector<Sequence*> running_;
  bool running_stale_ = false;
  std::map<uint64_t, Group*> anchored_;  // by ticket: groups that hold pins
  // Ended requests whose rows are still in flight, with the last step that has one.
  std::vector<std::pair<StepId, std::unique_ptr<Group>>> retiring_;
  std::vector<StepId> retiring_sequences_;

  std::set<uint32_t> slots_free_;
  std::vector<SlotId> removes_;  // for the next plan
  std::deque<SubmittedStep> in_flight_;
  std::vector<SubmittedStep> spare_;  // emptied, to be used again
  StepId planned_;                    // last non-empty plan
  StepId applied_;
  uint64_t next_ticket_ = 1;
  uint64_t next_sequence_ = 1;
  std::vector<TokenEvent> events_;
  EngineStats stats_;
  int64_t choices_accepted_ = 0;
  int32_t paused_groups_ = 0;

  // While planning.
  int32_t budget_ = 0;
  std::vector<int32_t> wanted_;   // by group: blocks to take now
  std::vector<int32_t> missing_;  // by group: blocks lacking to what was asked last; or <= 0
  std::vector<Slide> slides_;
  bool preempted_ = false;
  std::vector<Sequence*> prefilling_;
  Drafting drafting_;
};

}  // namespace millrace::scheduler
