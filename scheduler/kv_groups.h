#pragma once
// Inside of Scheduler: its KV groups, and what one admission or one step does to a sequence's
// tables.

#include <cstdint>
#include <vector>

#include "paged_kv/block_pool.h"
#include "scheduler/scheduler.h"

namespace millrace::scheduler {

struct Sequence;

// A KV group of the pool.
struct KvGroup {
  int32_t blocks = 0;
  int32_t window = 0;
  int32_t most = 0;  // blocks that one sequence may hold
};

// The config's groups, then perhaps one that is known here alone: where all are local, the index
// still needs whole chains of ids.
std::vector<KvGroup> PoolGroups(const SchedulerConfig& config);
paged_kv::PoolConfig PoolOf(const SchedulerConfig& config);

// How an admission finds its first blocks.
struct Start {
  std::vector<std::vector<BlockId>> shared;  // by group: front of the table, by reference
  std::vector<BlockId> copy_from;            // by group, copied into the first fresh block
  int32_t computed = 0;                      // positions whose KV is there
  bool forked = false;
};

// Table entries that became null or were added outside of a plan: the next one tells.
struct Slide {
  Sequence* sequence;
  uint32_t epoch;
  uint32_t group;
  int32_t first;
  int32_t count;
};

}  // namespace millrace::scheduler
