// Plan: which sequences advance in the next step, and by how much. Decodes first, then the running
// prefills, then admissions, each in order of service. A request for which there is no room is
// found out before anything of it or of others has changed.

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "scheduler/state.h"

namespace millrace::scheduler {
namespace {

void Clear(StepPlan& plan) {
  plan.removes.clear();
  plan.installs.clear();
  plan.table_deltas.clear();
  plan.copies.clear();
  plan.rows.clear();
  plan.tokens.clear();
  plan.score_targets.clear();
  plan.history_tokens.clear();
  plan.blocks.clear();
}

// Entries of `table` from `first` on, at most `count`, as a delta of the sequence's slot.
void AddTableDelta(const Sequence& sequence, const paged_kv::BlockTable& table, int32_t first,
                   StepPlan& plan, size_t count = SIZE_MAX) {
  std::span<const BlockId> blocks = table.blocks().subspan(static_cast<size_t>(first));
  blocks = blocks.first(std::min(count, blocks.size()));
  TableDelta delta;
  delta.slot = sequence.slot;
  delta.kv_group = table.group();
  delta.first = static_cast<uint32_t>(first);
  delta.blocks = {static_cast<uint32_t>(plan.blocks.size()), static_cast<uint32_t>(blocks.size())};
  plan.blocks.insert(plan.blocks.end(), blocks.begin(), blocks.end());
  plan.table_deltas.push_back(delta);
}

}  // namespace

int32_t ChooseVictim(std::span<Sequence* const> running, size_t requester,
                     int32_t protected_after) {
  int32_t oldest = -1;
  int32_t youngest = -1;
  int32_t paused = -1;
  for (size_t i = 0; i < running.size(); ++i) {
    const Sequence& sequence = *running[i];
    if (sequence.phase != Phase::kRunning) continue;
    const auto index = static_cast<int32_t>(i);
    if (oldest < 0) oldest = index;
    if (sequence.paused && i != requester) paused = index;
    if (sequence.preemptions < protected_after) youngest = index;
  }
  if (paused >= 0) return paused;
  return youngest == oldest ? -1 : youngest;
}

void Scheduler::State::Plan(MonoNanos now, StepPlan& plan) {
  CHECK(in_flight_.size() < static_cast<size_t>(config_.max_in_flight));
  Clear(plan);
  plan.step = StepId(planned_.value() + 1);
  ExpireDeadlines(now);
  CompactRunning();
  std::erase_if(slides_, [](const Slide& s) { return s.sequence->epoch != s.epoch; });
  std::erase_if(retiring_, [this](const auto& entry) { return entry.first <= applied_; });

  if (spare_.empty()) spare_.emplace_back();
  in_flight_.push_back(std::move(spare_.back()));
  spare_.pop_back();
  in_flight_.back().step = plan.step;
  budget_ = config_.tokens_per_step;
  preempted_ = false;
  PlanDecodes(now, plan);
  if (const int32_t decoded = config_.tokens_per_step - budget_; decoded > 0) {
    budget_ = std::min(budget_, MixedPrefillTokens(config_.mixed_prefill_tokens, decoded));
  }
  PlanPrefills(plan);
  // What was just taken from some is not given to others.
  if (!preempted_) PlanAdmissions(now, plan);
  CompactRunning();
  std::swap(plan.removes, removes_);
  if (!slides_.empty() && !plan.empty()) TellSlides(plan);

  if (plan.empty()) {
    spare_.push_back(std::move(in_flight_.back()));
    in_flight_.pop_back();
    return;
  }
  planned_ = plan.step;
}

void Scheduler::State::ExpireDeadlines(MonoNanos now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    EndGroup(*groups_.at(deadlines_.begin()->second), FinishReason::kDeadline);
  }
}

// Oldest first. A sequence preempted here is younger than all that have a row already, or paused
// and without one: no row is ever taken back.
void Scheduler::State::PlanDecodes(MonoNanos now, StepPlan& plan) {
  prefilling_.clear();
  if (config_.speculation.guesses_max > 0) CountDecodes();
  for (size_t i = 0; i < running_.size(); ++i) {
    if (i + kPrefetchAhead < running_.size()) Prefetch(*running_[i + kPrefetchAhead]);
    Sequence& sequence = *running_[i];
    if (sequence.phase != Phase::kRunning || sequence.paused || !sequence.rows_left()) continue;
    if (sequence.guesses_in_flight > 0) continue;  // where it goes on is not known
    if (!sequence.decoding()) {
      // In a local group its table grows with it: here it gets its next token's block, at the cost
      // of younger ones if need be, and later what there is room for.
      if (windows_ && (budget_ <= 0 || !EnsureTables(i, now, plan))) continue;
      prefilling_.push_back(&sequence);
      continue;
    }
    // Its input is a sample in flight of a step that is not the one before this.
    if (sequence.samples_in_flight > 0 && sequence.sample_step != planned_) continue;
    if (budget_ <= 0 || !EnsureTables(i, now, plan)) continue;
    if (drafting_.on && AddDraftRow(sequence, plan)) continue;
    AddRow(sequence, RowKind::kDecode, 1, plan);
  }
}

void Scheduler::State::PlanPrefills(StepPlan& plan) {
  for (Sequence* sequence : prefilling_) {
    if (sequence->phase == Phase::kRunning && budget_ > 0) AddPrefillRow(*sequence, plan);
  }
}

void Scheduler::State::AddPrefillRow(Sequence& sequence, StepPlan& plan) {
  const int32_t left = sequence.virtual_length() - sequence.computed;
  int32_t count = ChunkTokens(left, config_.prefill_chunk_max, budget_);
  if (sequence.computed + count > sequence.table_end) count = FitChunk(sequence, count, plan);
  AddRow(sequence, RowKind::kPrefill, count, plan);
}

// As many of `count` tokens as can have blocks at nobody's cost.
int32_t Scheduler::State::FitChunk(Sequence& sequence, int32_t count, StepPlan& plan) {
  bool any = false;
  for (size_t g = 0; g < kv_.size(); ++g) {
    const paged_kv::BlockTable& table = sequence.tables[g];
    const int32_t missing = blocks_for(sequence.computed + count) - table.size();
    wanted_[g] = std::max(
        0, std::min({missing, kv_[g].most - table.held(), pool_.Stats(Id(g)).available()}));
    any = any || wanted_[g] > 0;
  }
  if (any) ExtendTables(sequence, plan);
  return std::min(count, sequence.table_end - sequence.computed);
}

// Before the plan's other deltas: what they add lies behind.
void Scheduler::State::TellSlides(StepPlan& plan) {
  const size_t others = plan.table_deltas.size();
  for (const Slide& slide : slides_) {
    const Sequence& sequence = *slide.sequence;
    if (sequence.epoch != slide.epoch) continue;
    AddTableDelta(sequence, sequence.tables[slide.group], slide.first, plan,
                  static_cast<size_t>(slide.count));
  }
  slides_.clear();
  std::rotate(plan.table_deltas.begin(), plan.table_deltas.begin() + static_cast<ptrdiff_t>(others),
              plan.table_deltas.end());
}

void Scheduler::State::AddRow(Sequence& sequence, RowKind kind, int32_t count, StepPlan& plan) {
  DCHECK(count > 0 && sequence.computed + count <= sequence.virtual_length());
  const int32_t end = sequence.computed + count;
  const bool samples = sequence.samples && end == sequence.virtual_length();
  PlanRow& row = plan.rows.emplace_back();
  row.slot = sequence.slot;
  row.sequence = sequence.id;
  row.kind = kind;
  row.output = samples ? RowOutput::kSample : RowOutput::kNone;
  row.position = sequence.computed;
  row.tokens = {static_cast<uint32_t>(plan.tokens.size()), static_cast<uint32_t>(count)};
  row.sample_index = samples ? end - sequence.prompt_tokens : 0;
  if (count == 1) {
    const bool on_device = sequence.computed >= sequence.known;
    const bool newest = sequence.computed == sequence.known - 1;
    plan.tokens.push_back(on_device ? kTokenOnDevice
                          : newest  ? sequence.last_token
                                    : sequence.tokens[static_cast<size_t>(sequence.computed)]);
  } else {
    const auto first = sequence.tokens.begin() + sequence.computed;
    plan.tokens.insert(plan.tokens.end(), first, first + count);
  }
  // The token at position p is scored by the output at p - 1; nothing scores what is not known.
  const int32_t targets = std::min(end, sequence.prompt_tokens - 1) - sequence.computed;
  if (sequence.wants_scores && targets > 0) {
    const auto first = sequence.tokens.begin() + sequence.computed + 1;
    row.score_targets = {static_cast<uint32_t>(plan.score_targets.size()),
                         static_cast<uint32_t>(targets)};
    row.score_top = sequence.group->request.prompt_logprobs;
    plan.score_targets.insert(plan.score_targets.end(), first, first + targets);
  }
  in_flight_.back().rows.push_back({&sequence, sequence.epoch, count, samples, 0});
  sequence.computed = end;
  sequence.last_step = plan.step;
  if (samples) {
    ++sequence.samples_in_flight;
    sequence.sample_step = plan.step;
  }
  budget_ -= count;
}

// True when the sequence's next position has a block in every group. All of them or none.
bool Scheduler::State::EnsureTables(size_t running_index, MonoNanos now, StepPlan& plan) {
  Sequence& sequence = *running_[running_index];
  if (sequence.computed < sequence.table_end) return true;
  for (size_t g = 0; g < kv_.size(); ++g) {
    const paged_kv::BlockTable& table = sequence.tables[g];
    wanted_[g] = sequence.computed < table.size() * config_.block_tokens ? 0 : 1;
    // Its own rows in flight will let some go.
    const bool full = kv_[g].window > 0 && table.held() >= kv_[g].most;
    if (wanted_[g] > 0 && full && sequence.applied < sequence.computed) return false;
  }
  if (!MakeRoom(running_index, now)) return false;
  ExtendTables(sequence, plan);
  return true;
}

// By `wanted_` blocks. REQUIRES: they are available.
void Scheduler::State::ExtendTables(Sequence& sequence, StepPlan& plan) {
  std::optional<paged_kv::Reservation> fresh = pool_.Reserve(wanted_);
  CHECK(fresh.has_value());
  for (size_t g = 0; g < kv_.size(); ++g) {
    if (wanted_[g] == 0) continue;
    paged_kv::BlockTable& table = sequence.tables[g];
    const int32_t have = table.size();
    fresh->MoveTo(table);
    if (g < device_groups_) AddTableDelta(sequence, table, have, plan);
  }
  SetTableEnd(sequence);
}

// Frees `wanted_` for running_[requester], at the cost of others if need be. False: not in this
// step (blocks are on their way, or it lost its own), or never.
bool Scheduler::State::MakeRoom(size_t requester, MonoNanos now) {
  while (true) {
    for (size_t g = 0; g < kv_.size(); ++g) {
      missing_[g] = wanted_[g] - pool_.Stats(Id(g)).available();
    }
    if (!AnyMissing()) return true;
    const bool coming = AnyComing();
    // What was given up and is still named by a submitted step comes back with its result. Without
    // counting it, one request after another is preempted for a block that is already on its way.
    if (coming && config_.count_pending_frees) return false;
    if (DropYoungestAnchor(nullptr)) continue;
    const int32_t victim = ChooseVictim(running_, requester, config_.preemptions_before_reserve);
    if (victim >= 0) {
      Preempt(*running_[static_cast<size_t>(victim)], now);
      if (static_cast<size_t>(victim) == requester) return false;
      continue;
    }
    Sequence& sequence = *running_[requester];
    const auto runs = [](const Sequence* s) { return s->phase == Phase::kRunning; };
    if (std::count_if(running_.begin(), running_.end(), runs) > 1) return false;
    if (coming) {
      // Reached by the checker's control only: blind to what is coming, it gives back its own too.
      Preempt(sequence, now);
    } else if (config_.refuse_never_fit && sequence.applied == sequence.computed) {
      // It holds every block there is, and nothing in flight may yet end it or leave its window.
      End end;
      end.reason = FinishReason::kNeverFits;
      EndSequence(sequence, end, MakeEvent(sequence));
    }
    return false;
  }
}

bool Scheduler::State::AnyMissing() const {
  return std::any_of(missing_.begin(), missing_.end(), [](int32_t count) { return count > 0; });
}

bool Scheduler::State::AnyComing() const {
  for (size_t g = 0; g < kv_.size(); ++g) {
    if (missing_[g] > 0 && pool_.Stats(Id(g)).pending > 0) return true;
  }
  return false;
}

// Gives up the prompt that the youngest group (but `keep`) holds ready for its choices, when all
// such groups together hold what is missing and nobody else holds it.
bool Scheduler::State::DropYoungestAnchor(const Group* keep) {
  if (anchored_.empty()) return false;
  Group* youngest = nullptr;
  for (size_t g = 0; g < kv_.size(); ++g) {
    if (missing_[g] <= 0) continue;
    int32_t gain = 0;
    for (const auto& [ticket, group] : anchored_) {
      const int32_t alone = group == keep ? 0 : pool_.CountPinnedOnly(group->anchor[g], Id(g));
      if (alone > 0 && (youngest == nullptr || youngest->choices[0]->ticket.ticket < ticket)) {
        youngest = group;
      }
      gain += alone;
    }
    if (gain < missing_[g]) return false;
  }
  if (youngest == nullptr) return false;
  DropAnchor(*youngest);
  return true;
}

// By recomputation: its blocks go, what it has said stays, and it keeps its place in the queue. A
// sample still in flight is dropped and made again, so that a waiting sequence knows all its
// tokens; the randomness is a function of the token's index, so the same token comes.
void Scheduler::State::Preempt(Sequence& sequence, MonoNanos now) {
  sequence.computed_before = std::max(sequence.computed_before, sequence.applied);
  LeaveDevice(sequence);
  sequence.phase = Phase::kWaiting;
  sequence.computed = sequence.applied = 0;
  sequence.scores.clear();
  ++sequence.preemptions;
  sequence.times.preempted.push_back(now);
  waiting_.emplace(sequence.ticket, &sequence);
  ++stats_.preemptions;
  preempted_ = true;
}

// In order of service; the first that finds no room ends it, so that nobody overtakes it for ever.
void Scheduler::State::PlanAdmissions(MonoNanos now, StepPlan& plan) {
  for (auto it = waiting_.begin(); it != waiting_.end() && budget_ > 0;) {
    Sequence& sequence = *it->second;
    ++it;
    Admission outcome = TryAdmit(sequence, now, plan);
    while ((outcome == Admission::kNoRoom && MakeRoomForHead(sequence, now)) ||
           (outcome == Admission::kNoSlot && PreemptIdle(now))) {
      outcome = TryAdmit(sequence, now, plan);
    }
    if (outcome == Admission::kNoRoom || outcome == Admission::kNoSlot) return;
  }
}

Scheduler::State::Admission Scheduler::State::TryAdmit(Sequence& sequence, MonoNanos now,
                                                       StepPlan& plan) {
  const Group& group = *sequence.group;
  if (sequence.paused) return Admission::kNotReady;
  if (group.leader != nullptr) return Admission::kNotReady;  // the prompt is being computed
  for (const KvGroup& kv : kv_) {
    if (BlocksAlone(sequence.known, kv.window, config_.block_tokens) <= kv.blocks) continue;
    if (!config_.refuse_never_fit) {
      std::fill(missing_.begin(), missing_.end(), 0);
      return Admission::kNoRoom;
    }
    End end;
    end.reason = FinishReason::kNeverFits;
    EndSequence(sequence, end, MakeEvent(sequence));
    return Admission::kGone;
  }
  if (slots_free_.empty()) return Admission::kNoSlot;
  const Start start = FindStart(sequence);
  if (HasRoomFor(sequence, start)) {
    Admit(sequence, start, plan);
    NoteAdmission(sequence, start, now);
  } else {
    // What others hold of it counts beside a worst case in local groups, and could for ever be what
    // is too much.
    const Start alone = NoStart();
    const bool worst = sequence.preemptions >= config_.preemptions_before_reserve;
    if (!windows_ || !worst || start.computed == 0 || !HasRoomFor(sequence, alone)) {
      return Admission::kNoRoom;
    }
    Admit(sequence, alone, plan);
    NoteAdmission(sequence, alone, now);
  }
  AddPrefillRow(sequence, plan);
  return Admission::kAdmitted;
}

Start Scheduler::State::NoStart() const {
  Start start;
  start.shared.resize(kv_.size());
  start.copy_from.resize(kv_.size());
  return start;
}

// Finds the entries of each table at admission (`wanted_`: the fresh ones) and what is missing.
bool Scheduler::State::HasRoomFor(const Sequence& sequence, const Start& start) {
  const int32_t length = blocks_for(sequence.known);
  const int32_t worst = blocks_for(sequence.rows_end);
  const int32_t whole = start.computed / config_.block_tokens;
  const bool reserve = sequence.preemptions >= config_.preemptions_before_reserve;
  for (size_t g = 0; g < kv_.size(); ++g) {
    const KvGroup& kv = kv_[g];
    AdmissionNeed need;
    if (kv.window == 0) {
      need = NeedAtAdmission(length, worst, kv.blocks, reserve);
    } else if (reserve) {  // its own, beside what it shares
      need.table = std::min(worst, whole + kv.most);
    } else {
      const int32_t first =
          paged_kv::FirstBlockSeen(start.computed, kv.window, config_.block_tokens);
      need = NeedAtAdmission(std::min(length, first + kv.most), std::min(worst, first + kv.most),
                             first + kv.blocks, false);
    }
    wanted_[g] = need.table - whole;
    missing_[g] = wanted_[g] + need.margin -
                  (pool_.Stats(Id(g)).available() - pool_.CountUnheld(start.shared[g], Id(g)));
  }
  return !AnyMissing();
}

// At least the last known token is always computed: its output is what the next token is drawn
// from.
Start Scheduler::State::FindStart(const Sequence& sequence) const {
  const Group& group = *sequence.group;
  Start start = NoStart();
  if (sequence.wants_scores) return start;
  if (group.anchored && sequence.known == sequence.prompt_tokens) {
    const auto whole = static_cast<size_t>((sequence.known - 1) / config_.block_tokens);
    for (size_t g = 0; g < kv_.size(); ++g) {
      const std::vector<BlockId>& anchor = group.anchor[g];
      start.shared[g].assign(anchor.begin(), anchor.begin() + static_cast<ptrdiff_t>(whole));
      if (anchor.size() > whole) start.copy_from[g] = anchor.back();
    }
    start.computed = sequence.known - 1;
    start.forked = true;
  } else if (config_.prefix_cache) {
    paged_kv::PrefixHit hit =
        pool_.Lookup(group.space, sequence.tokens, (sequence.known - 1) / config_.block_tokens);
    start.computed = hit.blocks * config_.block_tokens;
    start.shared = std::move(hit.tables);
  }
  return start;
}

// REQUIRES: HasRoomFor has just found that all of it fits.
void Scheduler::State::Admit(Sequence& sequence, const Start& start, StepPlan& plan) {
  waiting_.erase(sequence.ticket);
  sequence.slot = SlotId(*slots_free_.begin());
  slots_free_.erase(slots_free_.begin());
  sequence.phase = Phase::kRunning;
  sequence.computed = sequence.applied = start.computed;
  sequence.publish_at = config_.prefix_cache ? 0 : INT32_MAX;
  sequence.reserved = sequence.preemptions >= config_.preemptions_before_reserve;
  sequence.shared_blocks = start.computed / config_.block_tokens;
  // Shared first: from then on making room cannot evict them.
  for (size_t g = 0; g < kv_.size(); ++g) pool_.Share(sequence.tables[g], start.shared[g]);
  std::optional<paged_kv::Reservation> fresh = pool_.Reserve(wanted_);
  CHECK(fresh.has_value());
  for (size_t g = 0; g < kv_.size(); ++g) {
    paged_kv::BlockTable& table = sequence.tables[g];
    if (sequence.reserved && kv_[g].window > 0) table.KeepPrivate();
    fresh->MoveTo(table);
    if (start.copy_from[g] == kNullBlock) continue;
    sequence.group->anchor_step = plan.step;
    if (g >= device_groups_) continue;
    plan.copies.push_back({Id(g), start.copy_from[g], table[sequence.shared_blocks]});
  }
  SetTableEnd(sequence);
  CompactRunning();
  const auto before = [](const Sequence* a, const Sequence* b) {
    return ServedBefore()(a->ticket, b->ticket);
  };
  running_.insert(std::upper_bound(running_.begin(), running_.end(), &sequence, before), &sequence);
  Install(sequence, plan);
  for (size_t g = 0; g < device_groups_; ++g) AddTableDelta(sequence, sequence.tables[g], 0, plan);
}

void Scheduler::State::Install(const Sequence& sequence, StepPlan& plan) {
  const Group& group = *sequence.group;
  SlotInstall& install = plan.installs.emplace_back();
  install.slot = sequence.slot;
  install.sequence = sequence.id;
  install.group = group.choices[0]->id;
  install.choice = sequence.ticket.choice;
  install.sampling = group.request.sampling;
  install.min_tokens = group.request.stop.min_tokens;
  if (install.min_tokens > 0) install.banned_until_min = group.stops;
  install.prompt_tokens = sequence.prompt_tokens;
  if (install.sampling.penalized()) {
    install.history = {static_cast<uint32_t>(plan.history_tokens.size()),
                       static_cast<uint32_t>(sequence.tokens.size())};
    plan.history_tokens.insert(plan.history_tokens.end(), sequence.tokens.begin(),
                               sequence.tokens.end());
  }
}

// The books of an admission: statistics, usage, and who leads or has left a group.
void Scheduler::State::NoteAdmission(Sequence& sequence, const Start& start, MonoNanos now) {
  Group& group = *sequence.group;
  if (config_.prefix_cache && !start.forked && !sequence.wants_scores) {
    stats_.prefix_queries += sequence.known;
    stats_.prefix_hits += start.computed;
  }
  if (!sequence.admitted_once) {
    sequence.admitted_once = true;
    --group.never_admitted;
    if (!start.forked) group.cached_tokens = start.computed;
    sequence.cached_tokens = group.cached_tokens;
    sequence.times.first_scheduled = now;
  }
  if (group.never_admitted > 0 && !group.anchored) SetLeader(group, &sequence);
  if (group.never_admitted == 0 && group.anchored) DropAnchor(group);
}

// The head of the queue finds `missing_` blocks too few. Whether something was given up for it: not
// before it is known to help.
bool Scheduler::State::MakeRoomForHead(const Sequence& head, MonoNanos now) {
  if (AnyComing() && config_.count_pending_frees) return false;
  if (DropYoungestAnchor(head.group)) return true;
  if (PreemptIdle(now)) return true;
  if (!head.group->anchored || AnyAdvances()) return false;
  DropAnchor(*head.group);
  return true;
}

bool Scheduler::State::AnyAdvances() const {
  return std::any_of(running_.begin(), running_.end(),
                     [](const Sequence* s) { return s->phase == Phase::kRunning && !s->paused; });
}

// When nobody advances, those whose client does not read must not keep the others waiting: the
// youngest of them goes.
bool Scheduler::State::PreemptIdle(MonoNanos now) {
  if (AnyAdvances()) return false;
  for (size_t i = running_.size(); i-- > 0;) {
    if (running_[i]->phase != Phase::kRunning) continue;
    Preempt(*running_[i], now);
    return true;
  }
  return false;
}

}  // namespace millrace::scheduler
