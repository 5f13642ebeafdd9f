#pragma once
// The numbers and the pure functions by which the scheduler decides. Whatever is a matter of policy
// and not of bookkeeping is here, so that it can be read, tested and replaced in one place.

#include <algorithm>
#include <cstdint>
#include <tuple>

#include "base/ids.h"

namespace millrace::scheduler {

// Blocks that must be left after an admission's prompt, so that its first decodes do not preempt at
// once; not asked of a sequence that will never need them.
inline constexpr int32_t kAdmissionMarginBlocks = 1;

// A place in the queue. `ticket` is the order of arrival and survives preemption.
struct QueueTicket {
  TenantId tenant;
  int32_t priority = 0;
  uint64_t ticket = 0;
  int32_t choice = 0;
};

// Who is served first: lower priority value, then first come, first served. The seam for tenants:
// fair shares will compare the virtual time of `tenant` here, before the ticket.
struct ServedBefore {
  bool operator()(const QueueTicket& a, const QueueTicket& b) const {
    return std::tie(a.priority, a.ticket, a.choice) < std::tie(b.priority, b.ticket, b.choice);
  }
};

inline int32_t BlocksFor(int32_t tokens, int32_t block_tokens) {
  return (tokens + block_tokens - 1) / block_tokens;
}

// Blocks that `tokens` consecutive positions touch at most, wherever they begin.
inline int32_t SpanBlocks(int64_t tokens, int32_t block_tokens) {
  return static_cast<int32_t>(
      std::min<int64_t>((tokens + block_tokens - 2) / block_tokens + 1, INT32_MAX));
}

// Blocks that a sequence of this length must hold at some time, however small its steps: all in a
// global group (window 0), in a local one what one token sees.
inline int32_t BlocksAlone(int32_t tokens, int32_t window, int32_t block_tokens) {
  const int32_t all = BlocksFor(tokens, block_tokens);
  return window == 0 ? all : std::min(all, SpanBlocks(window, block_tokens));
}

// Positions that ever need KV. The last sampled token is never an input.
inline int32_t RowsEnd(int32_t prompt_tokens, int32_t max_tokens, int32_t max_model_len) {
  const int32_t outputs = std::min(max_tokens, max_model_len - prompt_tokens);
  return prompt_tokens + std::max(outputs, 1) - 1;
}

// A decode waits for the whole step that it is in. Where prefill costs by the token, prompts get
// the same share of time in small steps as in large ones, and gaps between tokens stay even.
inline constexpr int32_t kPrefillPerDecode = 4;

// Prefill tokens, all rows together, of a step in which `decoded` > 0 tokens are decoded.
inline int32_t MixedPrefillTokens(int32_t least, int32_t decoded) {
  return std::max(least, kPrefillPerDecode * decoded);
}

// Tokens of one prefill row.
inline int32_t ChunkTokens(int32_t left, int32_t chunk_max, int32_t budget) {
  return std::min({left, chunk_max, budget});
}

struct AdmissionNeed {
  int32_t table = 0;   // entries of the table at admission
  int32_t margin = 0;  // blocks that must be available beside
};

// In blocks. `length_blocks`: of the tokens known at admission. `worst_blocks`: of all that it may
// come to need. `reserve_worst`: it was preempted often enough to get those at once.
inline AdmissionNeed NeedAtAdmission(int32_t length_blocks, int32_t worst_blocks,
                                     int32_t pool_blocks, bool reserve_worst) {
  const int32_t reachable = std::min(worst_blocks, pool_blocks);
  if (reserve_worst) return {std::max(length_blocks, reachable), 0};
  return {length_blocks, std::min(kAdmissionMarginBlocks, std::max(0, reachable - length_blocks))};
}

}  // namespace millrace::scheduler
