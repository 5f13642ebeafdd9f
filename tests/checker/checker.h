#pragma once
// A bounded exhaustive check of the real scheduler. Every order of arrivals, steps, results,
// cancels and pauses of three small requests is tried on a pool of a few blocks. A state is the
// list of calls that leads to it: it is reached again by replaying them on a fresh scheduler, and
// two states are one when their fingerprints are. The question is liveness: from each reachable
// state, does the quiet system (only steps and results, everyone reads) come to its end?

#include <array>
#include <cstdint>
#include <string>

#include "scheduler/scheduler.h"

namespace millrace::checker {

inline constexpr int kRequests = 3;

struct Case {
  scheduler::SchedulerConfig config;
  std::array<int32_t, kRequests> prompts{};
  std::array<int32_t, kRequests> outputs{};  // max_tokens; the environment may stop earlier
  std::array<int32_t, kRequests> choices{1, 1, 1};
  bool pauses = false;
};

struct Verdict {
  int64_t states = 0;
  int64_t stuck = 0;        // from here the quiet system never ends
  int64_t wrong_ends = 0;   // ended as never fitting, though it fits
  int32_t worst_quiet = 0;  // most calls until the quiet system has ended
  int32_t most_preemptions = 0;
  std::string broken;   // an invariant, with the calls that break it
  std::string example;  // calls that lead to a stuck state

  void Add(const Verdict& other);
};

// Thread: any.
Verdict Check(const Case& c);

}  // namespace millrace::checker
