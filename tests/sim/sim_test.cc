// Simulates the core by seed. As a test: four thousand seeds. By hand:
//   sim_test --seed 17           one seed, twice, with every step on stderr
//   sim_test --seeds 1..100000   many; stops at the first that fails
// A failing seed is a bug that can be replayed: nothing but the seed decides what happens.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/sim/simulation.h"

namespace millrace::sim {
namespace {

using ::testing::IsEmpty;

constexpr uint64_t kSeeds = 4000;

std::string Replay(uint64_t seed) {
  return absl::StrCat("replay with: sim_test --seed ", seed);
}

// Runs one seed twice; the second run must be the first, byte for byte (S15).
Outcome RunSeed(uint64_t seed, bool verbose) {
  const World world = DrawWorld(seed);
  if (verbose) std::fprintf(stderr, "%s\n", Describe(world).c_str());
  Outcome first = RunWorld(world, {.verbose = verbose});
  const Outcome second = RunWorld(world);
  if (first.plans_hash != second.plans_hash || first.turns != second.turns) {
    first.violations.push_back("two runs of one seed differ (S15)");
  }
  return first;
}

void AddStats(const EngineStats& stats, EngineStats& sum) {
  sum.steps += stats.steps;
  sum.preemptions += stats.preemptions;
  sum.prefix_hits += stats.prefix_hits;
  sum.recomputed_tokens += stats.recomputed_tokens;
  sum.pauses += stats.pauses;
  sum.generation_tokens += stats.generation_tokens;
  sum.drafts += stats.drafts;
  sum.draft_tokens += stats.draft_tokens;
  sum.draft_tokens_accepted += stats.draft_tokens_accepted;
  for (size_t i = 0; i < sum.finished.size(); ++i) sum.finished[i] += stats.finished[i];
}

TEST(SimTest, FourThousandSeeds) {
  EngineStats sum;
  int unhealthy = 0;
  int64_t let_go = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const Outcome outcome = RunSeed(seed, false);
    ASSERT_THAT(outcome.violations, IsEmpty()) << Replay(seed);
    AddStats(outcome.stats, sum);
    unhealthy += outcome.stats.healthy ? 0 : 1;
    let_go += outcome.blocks_let_go;
  }
  // The worlds are not too kind: everything that can happen did, and often.
  EXPECT_GT(sum.preemptions, 100);
  EXPECT_GT(sum.prefix_hits, 1000);
  EXPECT_GT(sum.recomputed_tokens, 1000);
  EXPECT_GT(sum.pauses, 100);
  EXPECT_GT(unhealthy, 20);
  EXPECT_GT(let_go, 10000);
  EXPECT_GT(sum.drafts, 10000);
  EXPECT_GT(sum.draft_tokens_accepted, 10000);
  EXPECT_GT(sum.draft_tokens - sum.draft_tokens_accepted, 10000);
  for (size_t reason = 1; reason < sum.finished.size(); ++reason) {
    EXPECT_GT(sum.finished[reason], 20) << FinishReasonName(static_cast<FinishReason>(reason));
  }
}

// What the worlds are judged by is itself true of the engine: each request, alone and with room.
TEST(SimTest, AloneWithRoomARequestYieldsWhatTheModelSays) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    const World crowded = DrawWorld(seed);
    for (const ClientScript& client : crowded.clients) {
      World alone;
      alone.seed = seed;
      alone.max_model_len = crowded.max_model_len;
      alone.block_tokens = 16;
      alone.groups = crowded.groups;
      for (scheduler::KvGroupConfig& group : alone.groups) group.blocks = 400;
      alone.tokens_per_step = 512;
      alone.prefill_chunk_max = 512;
      alone.prefix_cache = false;
      alone.clients = {client};
      ClientScript& only = alone.clients[0];
      only.cancels = only.request.deadline = kNever;
      only.stop_choice = -1;
      only.unread_max = 0;
      const Outcome outcome = RunWorld(alone);
      ASSERT_THAT(outcome.violations, IsEmpty())
          << Replay(seed) << " client " << client.request.id.value();
      ASSERT_EQ(outcome.stats.preemptions, 0);
    }
  }
}

int RunByHand(uint64_t first, uint64_t last) {
  const bool verbose = first == last;
  for (uint64_t seed = first; seed <= last; ++seed) {
    const Outcome outcome = RunSeed(seed, verbose);
    if (!outcome.violations.empty()) {
      std::fprintf(stderr, "seed %llu FAILED\n%s\n%s\n%s\n", static_cast<unsigned long long>(seed),
                   Describe(DrawWorld(seed)).c_str(),
                   absl::StrJoin(outcome.violations, "\n").c_str(), Replay(seed).c_str());
      return 1;
    }
    if ((seed - first + 1) % 10000 == 0) {
      std::fprintf(stderr, "%llu seeds\n", static_cast<unsigned long long>(seed - first + 1));
    }
  }
  std::fprintf(stderr, "seeds %llu..%llu: no violation\n", static_cast<unsigned long long>(first),
               static_cast<unsigned long long>(last));
  return 0;
}

}  // namespace
}  // namespace millrace::sim

int main(int argc, char** argv) {
  ::testing::InitGoogleMock(&argc, argv);
  if (argc == 3 && std::strcmp(argv[1], "--seed") == 0) {
    const uint64_t seed = std::strtoull(argv[2], nullptr, 10);
    return millrace::sim::RunByHand(seed, seed);
  }
  if (argc == 3 && std::strcmp(argv[1], "--seeds") == 0) {
    const char* dots = std::strstr(argv[2], "..");
    if (dots == nullptr) return 2;
    return millrace::sim::RunByHand(std::strtoull(argv[2], nullptr, 10),
                                    std::strtoull(dots + 2, nullptr, 10));
  }
  return RUN_ALL_TESTS();
}
