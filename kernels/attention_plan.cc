#include "kernels/attention_plan.h"

#include <algorithm>
#include <bit>

#include "kernels/cpu/kernels.h"

namespace millrace::kernels {
namespace {

// Positions after which the running softmax starts anew, in both modes: splits can then be computed
// anywhere and joined in order without changing a bit.
constexpr int32_t kSplitTokens = 256;
// Query rows that walk the blocks together, so that a block is read once from the first-level
// cache.
constexpr int64_t kTileRows = 48;
// Query rows of a fold. A block costs a core about as much time to compute for 8 rows as to fetch
// from memory, so more than a few times that save little, and large items share out badly.
constexpr int64_t kFoldRows = 32;
// Blocks in common below which a fold is not worth the larger item.
constexpr int32_t kFewestShared = 2;

bool MayShare(const AttentionArgs& a, const AttentionRow& row) {
  return a.window == 0 && row.token_count == 1 && row.first_needed == 0 &&
         row.position / a.layout->block_tokens >= kFewestShared;
}

// Blocks of a row that are full before its token.
int32_t FullBlocks(const AttentionArgs& a, int32_t row) {
  return a.rows[static_cast<size_t>(row)].position / a.layout->block_tokens;
}

int32_t InCommon(const AttentionArgs& a, int32_t x, int32_t y) {
  const uint32_t* const s = a.rows[static_cast<size_t>(x)].table;
  const uint32_t* const t = a.rows[static_cast<size_t>(y)].table;
  const int32_t most = std::min(FullBlocks(a, x), FullBlocks(a, y));
  if (s == t) return most;
  int32_t n = 0;
  constexpr int32_t kStep = 16;  // compared at once
  for (; n + kStep <= most; n += kStep) {
    uint32_t differs = 0;
    for (int32_t i = n; i < n + kStep; ++i) differs |= s[i] ^ t[i];
    if (differs != 0) break;
  }
  while (n < most && s[n] == t[n]) ++n;
  return n;
}

// Rows with the same first block, sorted by how much they share with the first of them, then by
// where they leave it: neighbours share at least that.
void SortRun(const AttentionArgs& a, std::span<AttentionSharing> run) {
  const int32_t leader = run[0].row;
  for (AttentionSharing& s : run) {
    s.shared = InCommon(a, leader, s.row);
    const AttentionRow& row = a.rows[static_cast<size_t>(s.row)];
    s.key = s.shared < FullBlocks(a, s.row) ? row.table[s.shared] : 0;
  }
  std::sort(run.begin(), run.end(), [](const AttentionSharing& x, const AttentionSharing& y) {
    if (x.shared != y.shared) return x.shared > y.shared;
    return x.key != y.key ? x.key < y.key : x.row < y.row;
  });
}

// Cuts a sorted run into folds of about equal size. A row that would halve what the fold shares
// begins the next.
void CutRun(const AttentionArgs& a, int64_t width, std::span<AttentionSharing> run) {
  const auto rows = static_cast<int64_t>(run.size());
  const int64_t folds = (rows + width - 1) / width;
  const auto even = static_cast<size_t>((rows + folds - 1) / folds);
  for (size_t i = 0; i < run.size();) {
    int32_t blocks = FullBlocks(a, run[i].row);
    size_t n = 1;
    for (; n < even && i + n < run.size(); ++n) {
      const int32_t with = std::min(blocks, InCommon(a, run[i].row, run[i + n].row));
      if (with < kFewestShared || (n > 1 && 2 * with < blocks)) break;
      blocks = with;
    }
    run[i].fold = static_cast<int32_t>(n);
    run[i].fold_blocks = n > 1 ? blocks : 0;
    i += n;
  }
}

size_t FindSharers(const AttentionArgs& a, int64_t width, AttentionSharing* out) {
  size_t count = 0;
  for (size_t r = 0; r < a.rows.size(); ++r) {
    if (!MayShare(a, a.rows[r])) continue;
    AttentionSharing s;
    s.row = static_cast<int32_t>(r);
    s.key = a.rows[r].table[0];
    out[count++] = s;
  }
  std::sort(out, out + count, [](const AttentionSharing& x, const AttentionSharing& y) {
    return x.key != y.key ? x.key < y.key : x.row < y.row;
  });
  for (size_t begin = 0, end = 0; begin < count; begin = end) {
    while (end < count && out[end].key == out[begin].key) ++end;
    if (end - begin < 2) continue;
    const std::span<AttentionSharing> run(out + begin, end - begin);
    SortRun(a, run);
    CutRun(a, width, run);
  }
  return count;
}

// Calls put(task) for every KV head and piece of its group.
template <class Put>
void PutHeads(const AttentionArgs& a, const AttentionGeometry& g, AttentionTask task,
              const Put& put) {
  for (task.kv_head = 0; task.kv_head < a.layout->kv_heads; ++task.kv_head) {
    for (int64_t h = 0; h < g.group; h += g.item_heads) {
      task.first_head = static_cast<int32_t>(h);
      task.heads = static_cast<int32_t>(std::min(g.item_heads, g.group - h));
      put(task);
    }
  }
}

template <class Put>
void PutRow(const AttentionArgs& a, const AttentionGeometry& g, int32_t index, const Put& put) {
  const AttentionRow& row = a.rows[static_cast<size_t>(index)];
  const int32_t split_tokens = g.split_blocks * a.layout->block_tokens;
  for (int32_t t = 0; t < row.token_count; t += static_cast<int32_t>(g.item_tokens)) {
    AttentionTask task;
    task.row = index;
    task.first_token = t;
    task.tokens = static_cast<int32_t>(std::min<int64_t>(g.item_tokens, row.token_count - t));
    task.split_begin = FirstSeen(a, row, t) / split_tokens;
    task.split_end = (row.position + t + task.tokens - 1) / split_tokens + 1;
    PutHeads(a, g, task, put);
  }
}

// All tasks of the plan, in the order of the rows.
template <class Put>
void PutAll(const AttentionArgs& a, const AttentionPlan& plan, const Put& put) {
  const AttentionGeometry& g = plan.geometry;
  const bool folds = !plan.sharers.empty();
  for (size_t r = 0; r < a.rows.size(); ++r) {
    if (folds && MayShare(a, a.rows[r])) continue;
    PutRow(a, g, static_cast<int32_t>(r), put);
  }
  const int32_t split_tokens = g.split_blocks * a.layout->block_tokens;
  for (size_t i = 0; i < plan.sharers.size();) {
    const AttentionSharing& first = plan.sharers[i];
    AttentionTask task;
    task.row = first.row;
    task.tokens = 1;
    task.split_end = a.rows[static_cast<size_t>(first.row)].position / split_tokens + 1;
    task.sharers = static_cast<int32_t>(i + 1);
    task.sharer_count = first.fold - 1;
    task.shared_blocks = first.fold_blocks;
    PutHeads(a, g, task, put);
    i += static_cast<size_t>(first.fold);
  }
}

// Bucket of a task's cost, a quarter of an octave wide, heaviest first. A position costs its bytes,
// about as much as 4 query rows, and its query rows.
constexpr size_t kBuckets = 256;
size_t BucketOf(const AttentionArgs& a, const AttentionPlan& plan, const AttentionTask& task) {
  const AttentionRow& row = a.rows[static_cast<size_t>(task.row)];
  const int64_t rows = int64_t{task.heads} * task.tokens;
  const int32_t end = row.position + task.first_token + task.tokens;
  int64_t cost = (end - FirstSeen(a, row, task.first_token)) * (rows + 4);
  const int64_t shared = int64_t{task.shared_blocks} * a.layout->block_tokens;
  for (int32_t i = 0; i < task.sharer_count; ++i) {
    const int32_t other = plan.sharers[static_cast<size_t>(task.sharers + i)].row;
    const int64_t rest = a.rows[static_cast<size_t>(other)].position + 1 - shared;
    cost += shared * task.heads + rest * (task.heads + 4);
  }
  // The exponent and two bits of the mantissa.
  const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(cost)) >> 21;
  return kBuckets - 1 - std::min<size_t>(bits - (127u << 2), kBuckets - 1);
}

}  // namespace

int32_t FirstSeen(const AttentionArgs& a, const AttentionRow& row, int32_t t) {
  if (a.window == 0) return row.first_needed;
  return std::max(row.first_needed, row.position + t + 1 - a.window);
}

AttentionGeometry ChooseAttentionGeometry(const AttentionArgs& a, int workers) {
  AttentionGeometry g;
  g.group = a.heads / a.layout->kv_heads;
  g.item_heads = std::min<int64_t>(g.group, kMaxQueryRows);
  // Large tiles reuse a block best, but there should be some four items a worker; two where what
  // is saved is a read from memory.
  const int64_t work = a.tokens * a.layout->kv_heads;
  g.item_tokens =
      std::clamp<int64_t>(work / (4 * workers), 1, std::max<int64_t>(1, kTileRows / g.item_heads));
  g.fold_rows =
      std::clamp<int64_t>(work / (2 * workers), 1, std::max<int64_t>(1, kFoldRows / g.item_heads));
  g.split_blocks = std::max(1, kSplitTokens / a.layout->block_tokens);
  return g;
}

int64_t CountAttention(const AttentionArgs& args, int workers, AttentionPlan* plan) {
  plan->geometry = ChooseAttentionGeometry(args, workers);
  int64_t count = 0;
  for (size_t r = 0; r < args.rows.size(); ++r) {
    PutRow(args, plan->geometry, static_cast<int32_t>(r), [&](const AttentionTask& task) {
      const int32_t splits = task.split_end - task.split_begin;
      ++count;
      plan->units += splits;
      plan->partial_floats +=
          splits * AttentionPartialFloats(task.tokens * task.heads, args.layout->head_dim);
    });
  }
  plan->split = count < 2 * workers && plan->units > count;
  return count;
}

void PlanAttention(const AttentionArgs& args, AttentionTask* tasks, AttentionSharing* sharers,
                   AttentionPlan* plan) {
  if (!plan->split && plan->geometry.fold_rows > 1) {
    plan->sharers = {sharers, FindSharers(args, plan->geometry.fold_rows, sharers)};
  }
  // A counting sort: where each bucket begins, then every task to its place.
  size_t begin[kBuckets + 1] = {};
  PutAll(args, *plan, [&](const AttentionTask& task) { ++begin[BucketOf(args, *plan, task) + 1]; });
  for (size_t b = 0; b < kBuckets; ++b) begin[b + 1] += begin[b];
  plan->tasks = {tasks, begin[kBuckets]};
  PutAll(args, *plan,
         [&](const AttentionTask& task) { tasks[begin[BucketOf(args, *plan, task)]++] = task; });
  if (!plan->split) return;
  int64_t unit = 0, offset = 0;
  for (AttentionTask& task : plan->tasks) {
    const int32_t splits = task.split_end - task.split_begin;
    task.unit_begin = unit;
    task.partial_offset = offset;
    unit += splits;
    offset += splits * AttentionPartialFloats(task.tokens * task.heads, args.layout->head_dim);
  }
}

}  // namespace millrace::kernels
