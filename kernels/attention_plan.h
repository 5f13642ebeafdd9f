#pragma once
// How a call of Attention is cut into work items: a pure host function of the rows. Private to
// kernels/.
//
//   own    one KV head, some of its query heads, some consecutive tokens of a row
//   fold   one KV head, one token each of several sequences whose tables begin with the same
//          blocks (a cached prefix, n > 1): those are read once for all of them, the rest of each
//          sequence after that. Each query row does what it would do alone, in the same order.

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/attention.h"

namespace millrace::kernels {

struct AttentionGeometry {
  int64_t group = 0;        // heads that share a KV head
  int64_t item_heads = 0;   // of them in an item, at most
  int64_t item_tokens = 0;  // consecutive tokens in an item, at most
  int64_t fold_rows = 0;    // sequences in a fold, at most
  int32_t split_blocks = 0;
};
// Monotone in args.tokens; of the rows it sees nothing.
AttentionGeometry ChooseAttentionGeometry(const AttentionArgs& args, int workers);

// First position that token `t` of a row sees.
int32_t FirstSeen(const AttentionArgs& args, const AttentionRow& row, int32_t t);

struct AttentionTask {
  int32_t row = 0;
  int32_t kv_head = 0;
  int32_t first_head = 0;  // within the group
  int32_t heads = 0;
  int32_t first_token = 0;  // within the row
  int32_t tokens = 0;
  int32_t split_begin = 0, split_end = 0;
  int32_t sharers = 0;  // of a fold: index in AttentionPlan::sharers of the one after `row`
  int32_t sharer_count = 0;
  int32_t shared_blocks = 0;   // all of them before the token of every sequence of the fold
  int64_t unit_begin = 0;      // its first unit when splits are units
  int64_t partial_offset = 0;  // floats
};

// A row of one token that may be folded, sorted so that those which share most are neighbours.
struct AttentionSharing {
  int32_t row = 0;
  int32_t shared = 0;       // blocks in common with the first of those with the same first block
  uint32_t key = 0;         // first block; then the first block that is not in common
  int32_t fold = 1;         // on the first row of a fold: how many rows it has
  int32_t fold_blocks = 0;  // and the blocks that all of them share
};

struct AttentionPlan {
  AttentionGeometry geometry;
  bool split = false;  // splits are the units: few items with long contexts. Nothing is folded
  int64_t units = 0;
  int64_t partial_floats = 0;      // of all units, when splits are
  std::span<AttentionTask> tasks;  // heaviest first
  std::span<AttentionSharing> sharers;
};

// Items without folds, an upper bound with them; sets geometry, split, units and partial_floats.
int64_t CountAttention(const AttentionArgs& args, int workers, AttentionPlan* plan);
// Fills the plan after CountAttention. `tasks` has room for what it returned, `sharers` one a row.
// REQUIRES: checked arguments.
void PlanAttention(const AttentionArgs& args, AttentionTask* tasks, AttentionSharing* sharers,
                   AttentionPlan* plan);

}  // namespace millrace::kernels
