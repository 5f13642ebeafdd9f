#include "scheduler/kv_groups.h"

#include <algorithm>

#include "base/check.h"
#include "scheduler/policy.h"

namespace millrace::scheduler {

std::vector<KvGroupConfig> KvGroupsOf(const SchedulerConfig& config) {
  if (!config.kv_groups.empty()) return config.kv_groups;
  return {KvGroupConfig{config.blocks, 0}};
}

bool FitsAlone(const SchedulerConfig& config, int32_t tokens) {
  const std::vector<KvGroupConfig> groups = KvGroupsOf(config);
  return std::all_of(groups.begin(), groups.end(), [&](const KvGroupConfig& group) {
    return BlocksAlone(tokens, group.window, config.block_tokens) <= group.blocks;
  });
}

std::vector<KvGroup> PoolGroups(const SchedulerConfig& config) {
  std::vector<KvGroup> out;
  // What the longest row and the rows before it that are still in flight see.
  const int64_t rows =
      int64_t{std::min(config.prefill_chunk_max, config.tokens_per_step)} * config.max_in_flight;
  bool global = false;
  int64_t blocks = 0;
  int32_t smallest = INT32_MAX;
  for (const KvGroupConfig& group : KvGroupsOf(config)) {
    CHECK(group.blocks > 0 && group.window >= 0);
    const int32_t span = SpanBlocks(group.window + rows - 1, config.block_tokens);
    out.push_back({group.blocks, group.window,
                   group.window == 0 ? group.blocks : std::min(group.blocks, span)});
    global = global || group.window == 0;
    blocks += group.blocks;
    smallest =
        std::min(smallest, BlocksAlone(config.max_model_len, group.window, config.block_tokens));
  }
  if (global || !config.prefix_cache) return out;
  // Ids without memory. As many as the sequences that fit in the local groups could have positions
  // for, so that they are no limit of their own; where they are, it is kept as any other.
  const int64_t whole = std::max(1, BlocksFor(config.max_model_len, config.block_tokens));
  const int64_t useful = (whole / std::max(1, smallest) + 1) * blocks;
  const auto ids = static_cast<int32_t>(
      std::min<int64_t>(std::max(whole, std::min(useful, whole * config.slots)), INT32_MAX / 2));
  out.push_back({ids, 0, ids});
  return out;
}

paged_kv::PoolConfig PoolOf(const SchedulerConfig& config) {
  paged_kv::PoolConfig pool;
  for (const KvGroup& group : PoolGroups(config)) {
    pool.groups.push_back({group.blocks, config.block_tokens, group.window});
  }
  return pool;
}

}  // namespace millrace::scheduler
