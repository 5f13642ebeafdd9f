#pragma once
// For tests only: a device that obeys plans and trusts none. Instead of KV it keeps, for each token
// slot of each block, a hash of all the tokens up to there; before a row runs, the whole history
// that its table shows is recomputed. A block handed out too early, shared wrongly, copied late or
// hit by mistake therefore changes an answer or is named as a broken rule. In a local group only
// what the window leaves is read, and all of that must be there.

#include <cstdint>
#include <deque>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "messages/step_plan.h"
#include "messages/step_result.h"
#include "scheduler/scheduler.h"

namespace millrace::scheduler {

uint64_t Chain(uint64_t before, TokenId token);
// What the test device answers: the token with that index, drawn after the tokens in `chain`.
using SampleFn =
    std::function<TokenId(uint64_t chain, uint64_t seed, int32_t choice, int32_t sample_index)>;
// Pseudo-random tokens in [0, vocabulary).
SampleFn HashSampler(int32_t vocabulary);
TokenLogprobs ScoreOf(uint64_t chain, TokenId target);

// The answer of one choice, computed alone and at once.
struct Answer {
  std::vector<TokenId> tokens;
  FinishReason finish = FinishReason::kNone;
  TokenId stop_token = -1;
};
Answer Reference(const Request& request, int32_t choice, const SchedulerConfig& config,
                 const SampleFn& sample);

// Thread: one.
class TestDevice {
 public:
  TestDevice(const SchedulerConfig& config, SampleFn sample);

  // Runs the plan. Empty, or the rule of the contract that it breaks.
  std::string Submit(const StepPlan& plan);
  // The result of the oldest step not yet taken.
  StepResult Take();
  size_t in_flight() const { return steps_.size(); }
  // Rows of this sequence yield no finite logits from now on.
  void Poison(SequenceId sequence) { poisoned_.insert(sequence.value()); }

  int64_t copies() const { return copies_; }
  int64_t rows_on_device() const { return rows_on_device_; }
  // Table entries that became null: their window had passed.
  int64_t blocks_let_go() const { return blocks_let_go_; }
  int64_t tokens_run() const { return tokens_run_; }
  // Of draft rows: guesses that were checked. Those after a wrong one are not.
  int64_t guesses_right() const { return guesses_right_; }
  int64_t guesses_wrong() const { return guesses_wrong_; }
  int32_t slots_in_use() const;

 private:
  using BlockName = std::pair<uint32_t, uint32_t>;  // group, block
  struct Cell {
    bool written = false;
    TokenId token = 0;
    uint64_t chain = 0;
  };
  struct Slot {
    bool used = false;
    SlotInstall install;
    std::vector<std::vector<uint32_t>> tables;  // by group
    TokenId sample = 0;
    uint64_t sample_step = 0;
  };
  struct Step {
    StepResult result;
    std::vector<std::pair<uint64_t, BlockName>> named;  // by which sequence
  };

  std::string ApplySlots(const StepPlan& plan);
  std::string ApplyTables(const StepPlan& plan);
  std::string RunRow(const StepPlan& plan, const PlanRow& row, Step& step);
  std::string CheckHistory(const Slot& slot, int32_t position, uint64_t& chain) const;
  std::string CheckWrite(const PlanRow& row, BlockName block) const;
  std::string Write(const Slot& slot, const PlanRow& row, int32_t position, const Cell& cell);
  const Cell* At(const Slot& slot, uint32_t group, int32_t position) const;
  int32_t FirstSeen(uint32_t group, int32_t position) const;  // block
  void Sample(Slot& slot, const PlanRow& row, uint64_t chain, Step& step);

  const SchedulerConfig config_;
  const SampleFn sample_;
  const std::vector<KvGroupConfig> groups_;
  std::vector<std::vector<Cell>> cells_;  // [group][block * block_tokens + offset]
  std::vector<Slot> slots_;
  std::deque<Step> steps_;
  std::set<uint64_t> poisoned_;
  uint64_t last_step_ = 0;
  int64_t copies_ = 0;
  int64_t rows_on_device_ = 0;
  int64_t blocks_let_go_ = 0;
  int64_t tokens_run_ = 0;
  int64_t guesses_right_ = 0;
  int64_t guesses_wrong_ = 0;
};

}  // namespace millrace::scheduler
