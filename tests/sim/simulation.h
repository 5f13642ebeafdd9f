#pragma once
// The real loop, scheduler and block pool with a simulated device and clock, driven by one seed.
// All that happens (arrivals, cancels, stop strings found by clients, slow readers, deadlines, rows
// that fail, a device that dies, a drain) is drawn from the seed; after every turn of the loop the
// invariants of the reference are checked, by their names there.

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "messages/engine_stats.h"
#include "messages/request.h"
#include "scheduler/scheduler.h"
#include "tests/support/fake_model.h"

namespace millrace::sim {

// What one request will do and meet, drawn before the run.
struct ClientScript {
  Request request;
  testing::SequenceScript script;
  MonoNanos arrives = 0;
  MonoNanos cancels = kNever;
  int32_t stop_choice = -1;   // a stop string is "found" in this choice
  int32_t stop_after = 0;     // when it has this many tokens
  int32_t unread_max = 0;     // its sink is full then; 0: it always reads
  MonoNanos reads_every = 0;  // how often it reads when it was full; kNever: never again
};

struct World {
  uint64_t seed = 0;
  int32_t block_tokens = 4;
  std::vector<scheduler::KvGroupConfig> groups = {{16, 0}};
  int32_t slots = 4;
  int32_t tokens_per_step = 16;
  int32_t prefill_chunk_max = 16;
  int32_t mixed_prefill_tokens = 16;
  int32_t max_model_len = 64;
  int32_t depth = 0;           // overlap
  int32_t guesses_max = 0;     // speculation; 0: off
  int32_t guesses_right = 80;  // percent of them; the rest are spoilt
  bool prefix_cache = true;
  int32_t vocab_size = 60;
  MonoNanos pause_max = 50 * kNanosPerMilli;
  int32_t requests_max = 4096;
  uint64_t device_fails_at = 0;  // step; 0: never
  bool fails_in_submit = false;
  MonoNanos drain_at = kNever;
  MonoNanos drain_deadline = kNever;
  std::vector<ClientScript> clients;
};

World DrawWorld(uint64_t seed);
std::string Describe(const World& world);

struct Outcome {
  std::vector<std::string> violations;  // empty: all is well
  uint64_t plans_hash = 0;              // of every plan's bytes, in order
  int64_t turns = 0;
  int64_t blocks_let_go = 0;  // by windows
  int64_t guesses_right = 0;  // seen by the device
  EngineStats stats;
};

struct RunOptions {
  bool verbose = false;  // one line a step on stderr
};

Outcome RunWorld(const World& world, const RunOptions& options = {});

}  // namespace millrace::sim
