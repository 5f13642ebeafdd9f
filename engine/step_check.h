#pragma once
// What the loop checks about values that come from elsewhere: pure functions.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "executor/executor.h"
#include "messages/engine_stats.h"
#include "messages/step_plan.h"
#include "messages/step_result.h"
#include "scheduler/scheduler.h"

namespace millrace::engine {

// Whether the executor has what the scheduler will hand out.
absl::Status CheckCapacity(const scheduler::SchedulerConfig& config,
                           const executor::ExecutorCapacity& capacity);

// The KV blocks that this request needs at most, alone, are more than the pool has. Asked at the
// door for each choice on its own: choices can run one after the other.
bool NeverFits(const scheduler::SchedulerConfig& config, const Request& request);

// A result for `plan` in which every row failed.
StepResult AllRowsFailed(const StepPlan& plan);

// What the result of a plan must look like.
struct ExpectedResult {
  StepResult if_lost;             // every row failed: what to apply when it never comes
  std::vector<uint32_t> samples;  // by row: tokens at most
};
ExpectedResult Expect(const StepPlan& plan);

// Whether `result` has the shape that was asked for: the rows in their order with one to as many
// tokens as they sample, and spans inside its arrays. Anything else is a device error. A row with a
// token outside the vocabulary is marked as failed, which ends one sequence only, after the tokens
// before it.
absl::Status CheckResult(const ExpectedResult& expected, int32_t vocab_size, StepResult& result);

// Each block is in exactly one state.
bool BlocksAreConserved(const EngineStats& stats);

// Takes the counters of `baseline` from `stats`, but for `steps`. Gauges stay.
void SubtractCounters(const EngineStats& baseline, EngineStats& stats);

}  // namespace millrace::engine
