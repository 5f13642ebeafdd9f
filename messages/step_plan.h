#pragma once
// What one forward pass shall do, as flat values without pointers. The scheduler makes it, the
// executor obeys it. A plan does not repeat what has not changed: slots are installed and removed,
// block tables grow by deltas.
//
//   rows    [ A prefill chunk 5 tokens | B decode 1 | C decode 1 ]
//   tokens  [ a7 a8 a9 a10 a11 | b42 | -1 ]        -1 = kTokenOnDevice: C's sample of the step
//   before blocks  referenced by table_deltas as [begin, begin+count)

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "messages/request.h"

namespace millrace {

// A half-open range of one of the plan's flat arrays.
struct Span32 {
  uint32_t begin = 0;
  uint32_t count = 0;
  friend bool operator==(const Span32&, const Span32&) = default;
};

// Applied in this order: removes, installs, table_deltas, copies, rows.

// A sequence gets a slot. After preemption the same sequence is installed anew, perhaps elsewhere.
struct SlotInstall {
  SlotId slot;
  SequenceId sequence;
  SequenceId group;    // choice 0's id: equal for the choices of one request
  int32_t choice = 0;  // with the seed and the token index, the counter of the sampler's randomness
  SamplingParams sampling;
  std::vector<TokenId> banned_until_min;  // end and stop tokens, when min_tokens > 0
  int32_t min_tokens = 0;
  int32_t prompt_tokens = 0;
  // Prompt and output so far: the sampler's penalties count over it. Empty unless penalized().
  Span32 history;           // in `history_tokens`
  uint32_t adapter = 0;     // 0: none
  uint32_t constraint = 0;  // 0: none; a token constraint's id
  friend bool operator==(const SlotInstall&, const SlotInstall&) = default;
};

// Entries [first, first + blocks.count) of the slot's table in one KV group become these blocks.
// An entry may be kNullBlock: never read (outside a sliding window).
struct TableDelta {
  SlotId slot;
  uint32_t kv_group = 0;
  uint32_t first = 0;
  Span32 blocks;
  friend bool operator==(const TableDelta&, const TableDelta&) = default;
};

// Before any row runs, the whole of `source` is copied to `target` (copy on write).
struct BlockCopy {
  uint32_t kv_group = 0;
  BlockId source;
  BlockId target;
  friend bool operator==(const BlockCopy&, const BlockCopy&) = default;
};

// kDraft: a known token and then guesses of what follows it. Each of its tokens yields a sample, as
// in a step of its own (sample_index, + 1, ...); the result has them up to the first that is not
// the guess that follows, that one included. It is the only row of its sequence, outputs kSample
// and scores nothing. KV of guesses that were wrong is garbage, to be written anew.
//
//   tokens   [ b42  d43  d44  d45 ]      the guesses are d43..d45
//   samples    b43  b44  x45             d43 = b43, d44 = b44, d45 != x45: three tokens came
inline constexpr int kGuessesMax = 15;  // of one draft row
enum class RowKind : uint8_t { kPrefill, kDecode, kDraft };
// kSample: the last token of the row yields a sampled token. kHidden: its hidden state
// (embeddings).
enum class RowOutput : uint8_t { kNone, kSample, kHidden };

// A run of consecutive tokens of one sequence. A sequence may have several rows in a step.
struct PlanRow {
  SlotId slot;
  SequenceId sequence;
  RowKind kind = RowKind::kDecode;
  RowOutput output = RowOutput::kNone;
  int32_t position = 0;      // of the first token; the KV of positions before it is in the table
  int32_t first_needed = 0;  // first position this row still attends to
  Span32 tokens;             // in `tokens`
  // Scores of known tokens: `score_targets` [i] is scored by the output at token i of this row.
  // count is 0 or tokens.count or tokens.count - 1.
  Span32 score_targets;
  int32_t score_top = 0;     // how many of the most likely to report beside each score
  int32_t sample_index = 0;  // index of the sampled token in the output; counter of the randomness
  uint32_t mask = UINT32_MAX;  // index of a token mask; UINT32_MAX: none
  friend bool operator==(const PlanRow&, const PlanRow&) = default;
};

struct StepPlan {
  StepId step;
  std::vector<SlotId> removes;
  std::vector<SlotInstall> installs;
  std::vector<TableDelta> table_deltas;
  std::vector<BlockCopy> copies;
  std::vector<PlanRow> rows;

  std::vector<TokenId> tokens;
  std::vector<TokenId> score_targets;
  std::vector<TokenId> history_tokens;
  std::vector<BlockId> blocks;

  bool empty() const {
    return rows.empty() && removes.empty() && installs.empty() && table_deltas.empty() &&
           copies.empty();
  }
  friend bool operator==(const StepPlan&, const StepPlan&) = default;
};

// Appends a canonical byte form: equal plans, equal bytes. For hashes and replays.
void Serialize(const StepPlan& plan, std::string& out);

}  // namespace millrace
