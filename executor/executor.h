#pragma once
// Runs one step plan on one device. The engine submits and waits; everything about memory, batches
// and kernels is behind this door. Two implementations: StepExecutor (the model) and the scripted
// fake of tests/support.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "messages/step_plan.h"
#include "messages/step_result.h"

namespace millrace::executor {

struct KvGroupCapacity {
  int32_t block_tokens = 0;  // token slots in a block
  int32_t blocks = 0;        // usable blocks; ids 1 .. blocks (0 is the null block)
  int32_t window = 0;        // positions that a token sees, its own included; 0: all
};

struct ExecutorCapacity {
  std::vector<KvGroupCapacity> kv_groups;  // with the same block_tokens
  int32_t slots = 0;                       // sequences that may be installed at once
  int32_t tokens_per_step = 0;             // input tokens of all rows of one plan
  int32_t vocab_size = 0;
};

// Thread: engine.
class Executor {
 public:
  virtual ~Executor() = default;

  // Constant after construction.
  virtual ExecutorCapacity Capacity() const = 0;

  // Takes the plan. On CPU it is only stored; Wait runs it with the calling thread as worker 0.
  // REQUIRES: plan.step is one more than the last submitted; at most max_in_flight() not yet
  // waited. An error is a device error: sticky, for good.
  virtual absl::Status Submit(StepPlan plan) = 0;

  // The result of `step`. REQUIRES: steps are waited for in order, each once.
  virtual absl::StatusOr<StepResult> Wait(StepId step) = 0;

  // Steps that may be submitted and not yet waited for: 1 on CPU, 2 where steps overlap.
  virtual int max_in_flight() const = 0;
};

}  // namespace millrace::executor
