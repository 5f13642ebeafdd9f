#pragma once
// A device for tests. Its KV memory is simulated cell by cell: rows write what they compute into
// the blocks of their table and read all of their past back through it, so that a wrong table, a
// block freed too early, a missing copy or a foreign block either changes the sampled tokens or is
// said in violations(). It trusts nothing that the plan could state wrongly. In a local KV group a
// row reads what its window leaves of the past, and all of that must be there.
//
//   cell (block b, offset o)   { token, position, hash of the tokens up to here, domain }
//
// With `fast_tokens` nothing of this happens: a cheap source of tokens for load tests.

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "executor/executor.h"
#include "tests/support/fake_model.h"

namespace millrace::testing {

struct FakeExecutorOptions {
  executor::KvGroupCapacity kv = {.block_tokens = 4, .blocks = 64};
  std::vector<executor::KvGroupCapacity> kv_groups = {};  // or these, of equal block_tokens
  int32_t slots = 8;
  int32_t tokens_per_step = 64;
  int32_t vocab_size = 97;
  int max_in_flight = 1;

  // Moved forward by each step, when given.
  FakeClock* clock = nullptr;
  MonoNanos step_nanos = kNanosPerMilli;
  MonoNanos token_nanos = 10 * kNanosPerMicro;

  std::map<uint64_t, SequenceScript> scripts = {};  // by SamplingParams::seed
  // Who may read a block: cells written in one domain and read in another are a violation (S6).
  std::function<uint64_t(const SlotInstall&)> domain = {};

  StepId fail_at_step = {};     // 0: never. From this step on every call fails.
  bool fail_in_submit = false;  // Submit fails, not Wait
  // Called first in Wait: threaded tests block in it.
  std::function<void(StepId)> before_wait = {};
  // Not empty: no memory is simulated, and these tokens are sampled in turn.
  std::vector<TokenId> fast_tokens = {};
};

// Thread: engine; violations() when the engine thread is known to be idle.
class FakeExecutor final : public executor::Executor {
 public:
  explicit FakeExecutor(FakeExecutorOptions options);

  executor::ExecutorCapacity Capacity() const override;
  // Keeps the plan; Wait runs it.
  absl::Status Submit(StepPlan plan) override;
  absl::StatusOr<StepResult> Wait(StepId step) override;
  int max_in_flight() const override { return options_.max_in_flight; }

  // What the plans did that no correct scheduler does; the first 20.
  const std::vector<std::string>& violations() const { return violations_; }
  StepId submitted() const { return submitted_; }
  // Table entries that became null: their window had passed.
  int64_t blocks_let_go() const { return blocks_let_go_; }
  int64_t guesses_right() const { return guesses_right_; }
  // Slots that are occupied after the plans submitted so far.
  int32_t installed() const;

 private:
  using Table = std::vector<BlockId>;
  using BlockName = std::pair<uint32_t, BlockId>;  // with its group
  struct Cell {
    bool written = false;
    TokenId token = 0;
    int32_t position = -1;
    ContextHash context = 0;
    uint64_t domain = 0;
  };
  // A slot as submitted plans left it: what the next plan builds upon.
  struct Shadow {
    bool installed = false;
    SequenceId sequence;
    int32_t prompt_tokens = 0;
    int32_t next_position = -1;   // -1: no row yet
    int32_t first_position = -1;  // after a draft row it may be less, but not less than this
    std::vector<Table> tables;    // by group
  };
  // A slot as executed steps left it.
  struct Slot {
    SlotInstall install;
    uint64_t domain = 0;
    std::vector<TokenId> history;
    TokenId last_sample = kTokenOnDevice;
    StepId last_sample_step;
  };
  // A submitted plan; tables[i] are those of row i at its time.
  struct Work {
    StepPlan plan;
    std::vector<std::vector<Table>> tables;
    std::multimap<BlockName, SequenceId> named;  // by rows of this plan
  };

  void Violate(StepId step, const std::string& what);
  void UpdateShadow(const StepPlan& plan);
  void ApplyDelta(const StepPlan& plan, const TableDelta& delta);
  void CheckRow(const StepPlan& plan, const PlanRow& row);
  void CheckWrites(Work& work);
  void CheckWrittenBlock(const Work& work, BlockName block, SequenceId writer);

  StepResult Execute(const Work& work);
  void ExecuteSlots(const StepPlan& plan);
  void ExecuteRow(const Work& work, size_t index, StepResult& result);
  ContextHash ReadPast(const Work& work, size_t index);
  const char* WrongPast(const Work& work, size_t index, uint32_t group, ContextHash& context);
  void Write(const Work& work, size_t index, int32_t position, const Cell& cell);
  void Sample(const Work& work, const PlanRow& row, ContextHash context, StepResult& result);
  StepResult ExecuteFast(const StepPlan& plan);

  Cell* CellAt(const std::vector<Table>& tables, uint32_t group, int32_t position);
  int32_t FirstSeen(uint32_t group, int32_t position) const;

  FakeExecutorOptions options_;
  const int32_t block_tokens_;
  std::vector<executor::KvGroupCapacity> groups_;
  std::vector<std::vector<Cell>> cells_;  // by group
  std::vector<Shadow> shadows_;
  std::vector<Slot> slots_;
  std::deque<Work> work_;
  StepId submitted_;
  size_t next_fast_token_ = 0;
  int64_t blocks_let_go_ = 0;
  int64_t guesses_right_ = 0;
  std::vector<std::string> violations_;
};

}  // namespace millrace::testing
