// Statistics, deep checks and the fingerprint. Nothing here changes anything.

#include <algorithm>
#include <map>
#include <set>

#include "scheduler/state.h"

namespace millrace::scheduler {
namespace {

std::string Broken(const char* what, const Sequence& sequence) {
  return std::string("sequence ") + std::to_string(sequence.id.value()) + ": " + what;
}

// A running 64-bit digest over integers.
class Digest {
 public:
  void Add(uint64_t value) {
    value_ = (value_ ^ value) * 0xd6e8feb86659fd93ULL;
    value_ ^= value_ >> 32;
  }
  void Add(int32_t a, int32_t b) {
    Add(static_cast<uint64_t>(static_cast<uint32_t>(a)) << 32 | static_cast<uint32_t>(b));
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0x452821e638d01377ULL;
};

uint64_t After(StepId step, StepId applied) {
  return step > applied ? step.value() - applied.value() : 0;
}

}  // namespace

EngineStats Scheduler::State::Stats() const {
  EngineStats stats = stats_;
  if (!running_stale_ && paused_groups_ == 0) {
    stats.sequences_running = static_cast<int32_t>(running_.size());
  } else {
    for (const Sequence* sequence : running_) {
      if (sequence->phase != Phase::kRunning) continue;
      ++(sequence->paused ? stats.sequences_paused : stats.sequences_running);
    }
  }
  stats.sequences_waiting = static_cast<int32_t>(waiting_.size());
  stats.sequences_retiring = static_cast<int32_t>(retiring_sequences_.size());
  for (size_t g = 0; g < device_groups_; ++g) {
    const paged_kv::PoolStats& pool = pool_.Stats(Id(g));
    stats.blocks_total += pool.total;
    stats.blocks_free += pool.free;
    stats.blocks_active += pool.active;
    stats.blocks_cached += pool.cached;
    stats.blocks_pending += pool.pending;
    stats.kv_usage =
        std::max(stats.kv_usage, static_cast<double>(pool.total - pool.free - pool.cached) /
                                     std::max(1, pool.total));
  }
  return stats;
}

std::string Scheduler::State::CheckSequence(const Sequence& sequence) const {
  if (sequence.known != static_cast<int32_t>(sequence.tokens.size())) {
    return Broken("known tokens miscounted", sequence);
  }
  const bool empty = std::all_of(sequence.tables.begin(), sequence.tables.end(),
                                 [](const paged_kv::BlockTable& table) { return table.empty(); });
  if (sequence.phase == Phase::kWaiting) {
    const auto found = waiting_.find(sequence.ticket);
    if (found == waiting_.end() || found->second != &sequence) {
      return Broken("waits outside the queue", sequence);
    }
    if (!empty || sequence.computed != 0 || sequence.samples_in_flight != 0 ||
        sequence.guesses_in_flight != 0) {
      return Broken("waits, but holds something", sequence);
    }
    return "";
  }
  if (sequence.phase == Phase::kEnded) {
    return empty ? "" : Broken("ended, but holds blocks", sequence);
  }
  if (std::count(running_.begin(), running_.end(), &sequence) != 1) {
    return Broken("runs, but not once in the list", sequence);
  }
  if (sequence.applied > sequence.computed ||
      sequence.computed > sequence.virtual_length() + sequence.guesses_in_flight) {
    return Broken("computed more than is known (S8)", sequence);
  }
  for (size_t g = 0; g < kv_.size(); ++g) {
    const paged_kv::BlockTable& table = sequence.tables[g];
    const int32_t end = table.size() * config_.block_tokens;
    if (sequence.computed > end || sequence.table_end > end) {
      return Broken("computed more than its table holds (S8)", sequence);
    }
    const int32_t first =
        paged_kv::FirstBlockSeen(sequence.applied, kv_[g].window, config_.block_tokens);
    if (table.nulls() != first) return Broken("holds too little or too much of a window", sequence);
    if (sequence.reserved && kv_[g].window > 0) {
      const int32_t from = std::max(first, sequence.shared_blocks);
      const int32_t own = std::min(kv_[g].most, blocks_for(sequence.rows_end) - from);
      if (table.size() - from < own) return Broken("its worst case is not kept (L3)", sequence);
    }
    const std::span<const BlockId> held = table.blocks().subspan(static_cast<size_t>(first));
    if (std::count(held.begin(), held.end(), kNullBlock) > 0) {
      return Broken("a window has a hole", sequence);
    }
  }
  int32_t tokens = 0;
  int32_t samples = 0;
  int32_t guesses = 0;
  for (const SubmittedStep& step : in_flight_) {
    for (const SubmittedRow& row : step.rows) {
      if (row.sequence != &sequence || row.epoch != sequence.epoch) continue;
      tokens += row.tokens;
      samples += row.samples;
      guesses += row.guesses;
      if (step.step > sequence.last_step) return Broken("a later step names it", sequence);
    }
  }
  if (sequence.computed - sequence.applied != tokens || sequence.samples_in_flight != samples ||
      sequence.guesses_in_flight != guesses) {
    return Broken("rows in flight miscounted", sequence);
  }
  return "";
}

std::string Scheduler::State::CheckLists() const {
  std::set<uint32_t> slots = slots_free_;
  std::map<std::pair<size_t, uint32_t>, int32_t> holders;  // of (group, block)
  size_t running = 0;
  const Sequence* previous = nullptr;
  for (const Sequence* sequence : running_) {
    if (sequence->phase != Phase::kRunning) continue;
    ++running;
    if (!slots.insert(sequence->slot.value()).second) return Broken("slot in use twice", *sequence);
    if (previous != nullptr && !ServedBefore()(previous->ticket, sequence->ticket)) {
      return Broken("out of order", *sequence);
    }
    previous = sequence;
    for (size_t g = 0; g < kv_.size(); ++g) {
      for (const BlockId block : sequence->tables[g].blocks()) ++holders[{g, block.value()}];
    }
  }
  if (slots.size() != static_cast<size_t>(config_.slots)) return "a slot is lost";
  for (const Sequence* sequence : running_) {
    if (sequence->phase != Phase::kRunning) continue;
    for (size_t g = 0; g < kv_.size(); ++g) {
      const paged_kv::BlockTable& table = sequence->tables[g];
      for (int32_t i = sequence->applied / config_.block_tokens; i < table.size(); ++i) {
        if (holders[{g, table[i].value()}] == 1) continue;
        return Broken("writes to a shared block (S3)", *sequence);
      }
    }
  }
  int64_t ended = 0;
  for (const int64_t count : stats_.finished) ended += count;
  if (choices_accepted_ != ended + static_cast<int64_t>(running + waiting_.size())) {
    return "choices are lost or counted twice (S10)";
  }
  return "";
}

std::string Scheduler::State::CheckInvariants() const {
  std::vector<const paged_kv::BlockTable*> tables;
  size_t waiting = 0;
  int32_t paused = 0;
  for (const auto& [ticket, group] : groups_) {
    int32_t live = 0;
    int32_t never_admitted = 0;
    paused += group->paused;
    for (const auto& sequence : group->choices) {
      if (sequence->leads != (group->leader == sequence.get())) return "a leader's mark is wrong";
      std::string broken = CheckSequence(*sequence);
      if (!broken.empty()) return broken;
      const bool alive = sequence->phase != Phase::kEnded;
      live += alive;
      never_admitted += alive && !sequence->admitted_once;
      waiting += sequence->phase == Phase::kWaiting;
      if (sequence->phase != Phase::kRunning) continue;
      for (const paged_kv::BlockTable& table : sequence->tables) tables.push_back(&table);
    }
    if (live == 0 || live != group->live || never_admitted != group->never_admitted) {
      return "a group's choices are miscounted";
    }
    if (group->leader != nullptr && group->leader->phase != Phase::kRunning) {
      return "a group waits for a leader that does not run";
    }
    if (group->anchored != (anchored_.count(ticket) == 1)) return "an anchor is not in the list";
  }
  if (waiting != waiting_.size()) return "the queue holds strangers";
  if (paused != paused_groups_) return "paused requests are miscounted";
  if (by_request_.size() != groups_.size()) return "request index";
  for (size_t g = 0; g < kv_.size(); ++g) {
    if (anchored_.empty() && pool_.Stats(Id(g)).pinned != 0) return "pins without an anchor";
  }
  std::string broken = CheckLists();
  return broken.empty() ? pool_.CheckInvariants(tables) : broken;
}

uint64_t Scheduler::State::Fingerprint() const {
  Digest digest;
  std::map<const Sequence*, uint64_t> ranks;  // looked up, never walked
  for (const auto& [ticket, group] : groups_) {
    digest.Add(group->request.id.value());
    digest.Add(static_cast<uint64_t>(group->request.deadline));
    digest.Add(group->paused, group->anchored);
    digest.Add(group->never_admitted, group->live);
    digest.Add(After(group->anchor_step, applied_));
    for (const std::vector<BlockId>& anchor : group->anchor) {
      for (const BlockId block : anchor) digest.Add(block.value());
    }
    for (const auto& owned : group->choices) {
      const Sequence& sequence = *owned;
      ranks.emplace(&sequence, ranks.size() + 1);
      digest.Add(static_cast<int32_t>(sequence.phase), group->leader == &sequence);
      digest.Add(sequence.computed, sequence.applied);
      digest.Add(sequence.samples_in_flight, sequence.rows_end);
      if (sequence.speculation != nullptr) {
        digest.Add(sequence.guesses_in_flight, sequence.speculation->match);
        for (const int32_t rate : sequence.speculation->acceptance.rates()) digest.Add(rate, 0);
      }
      // Beyond the limit, or without one, more of them change nothing.
      const bool limited = config_.preemptions_before_reserve < INT32_MAX;
      digest.Add(limited ? std::min(sequence.preemptions, config_.preemptions_before_reserve) : 0,
                 sequence.wants_scores);
      if (sequence.phase == Phase::kEnded) continue;
      digest.Add(sequence.prompt_tokens, sequence.known);
      for (const TokenId token : sequence.tokens) digest.Add(static_cast<uint32_t>(token));
      digest.Add(After(sequence.last_step, applied_));
      digest.Add(After(sequence.sample_step, applied_));
      if (sequence.phase != Phase::kRunning) continue;
      digest.Add(sequence.slot.value());
      for (const paged_kv::BlockTable& table : sequence.tables) {
        for (const BlockId block : table.blocks()) digest.Add(block.value());
        if (kv_.size() > 1) digest.Add(pool_.Fingerprint(table));
      }
      digest.Add(sequence.reserved ? sequence.shared_blocks : 0, sequence.reserved);
    }
  }
  for (const SubmittedStep& step : in_flight_) {
    digest.Add(After(step.step, applied_));
    for (const SubmittedRow& row : step.rows) {
      const bool dropped = row.epoch != row.sequence->epoch;
      digest.Add(dropped ? 0 : ranks.at(row.sequence));
      digest.Add(row.tokens, row.samples);
    }
  }
  for (const SlotId slot : removes_) digest.Add(slot.value());
  for (const Slide& slide : slides_) {
    if (slide.epoch != slide.sequence->epoch) continue;
    digest.Add(ranks.at(slide.sequence));
    digest.Add(static_cast<int32_t>(slide.group), slide.first);
    digest.Add(slide.count, 0);
  }
  digest.Add(After(planned_, applied_));
  digest.Add(events_.size());
  digest.Add(pool_.Fingerprint());
  return digest.value();
}

}  // namespace millrace::scheduler
