#pragma once
// What one forward pass did. The executor makes it, the scheduler applies it.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"
#include "messages/step_plan.h"
#include "messages/token_event.h"

namespace millrace {

// One for each row of the plan, in the plan's order.
struct RowResult {
  SequenceId sequence;
  SlotId slot;
  Span32 tokens;    // sampled tokens: 0 or 1; of a draft row 1 to as many as it has
  Span32 logprobs;  // as many as tokens, or none
  Span32 scores;    // one per score target of the row
  // This row's logits were not finite: the sequence ends with kError. Of a draft row `tokens` are
  // what came before.
  bool failed = false;
};

// A copy, adapter load or constraint that has completed, applied in order. None today.
struct Completion {
  enum class Kind : uint8_t { kCopy, kAdapter, kConstraint };
  Kind kind = Kind::kCopy;
  uint64_t id = 0;
  bool ok = true;
};

struct StepResult {
  StepId step;
  std::vector<RowResult> rows;
  std::vector<TokenId> tokens;
  std::vector<TokenLogprobs> logprobs;
  std::vector<TokenLogprobs> scores;
  std::vector<Completion> completions;
};

void Serialize(const StepResult& result, std::string& out);

}  // namespace millrace
