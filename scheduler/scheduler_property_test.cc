// Random traffic by seed. `--storms=N` makes the run longer.

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "scheduler/storm.h"

namespace millrace::scheduler {
namespace {

int storms = 600;

Choose Seeded(uint64_t seed) {
  return [state = seed * 0x9e3779b97f4a7c15ULL + 1](uint32_t n) mutable {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return static_cast<uint32_t>((state >> 20) % n);
  };
}

TEST(SchedulerPropertyTest, InvariantsHoldAndEveryRequestEndsRightly) {
  EngineStats sum;
  int64_t copies = 0;
  int64_t let_go = 0;
  int64_t right = 0;
  int64_t wrong = 0;
  for (int seed = 1; seed <= storms; ++seed) {
    Storm storm(Seeded(static_cast<uint64_t>(seed)));
    std::string broken;
    const int acts = 50 + seed % 7 * 60;
    for (int i = 0; i < acts && broken.empty(); ++i) broken = storm.Act();
    if (broken.empty()) broken = storm.Quiet();
    ASSERT_EQ(broken, "") << "seed " << seed;
    const EngineStats stats = storm.Stats();
    sum.preemptions += stats.preemptions;
    sum.prefix_hits += stats.prefix_hits;
    sum.pauses += stats.pauses;
    for (size_t r = 0; r < sum.finished.size(); ++r) sum.finished[r] += stats.finished[r];
    copies += storm.copies();
    let_go += storm.blocks_let_go();
    sum.drafts += stats.drafts;
    right += storm.guesses_right();
    wrong += storm.guesses_wrong();
  }
  // A storm in which nothing happens proves nothing.
  EXPECT_GT(sum.preemptions, storms / 4);
  EXPECT_GT(sum.prefix_hits, storms);
  EXPECT_GT(sum.pauses, storms);
  EXPECT_GT(copies, storms / 4);
  EXPECT_GT(let_go, storms);
  EXPECT_GT(sum.drafts, storms);
  EXPECT_GT(right, storms);
  EXPECT_GT(wrong, storms / 2);
  for (const FinishReason reason :
       {FinishReason::kStop, FinishReason::kLength, FinishReason::kCancelled,
        FinishReason::kDeadline, FinishReason::kNeverFits, FinishReason::kError}) {
    EXPECT_GT(sum.finished[static_cast<size_t>(reason)], storms / 20) << FinishReasonName(reason);
  }
}

TEST(SchedulerPropertyTest, SameCallsSamePlanBytes) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    uint64_t digests[2];
    for (uint64_t& digest : digests) {
      Storm storm(Seeded(seed));
      for (int i = 0; i < 200; ++i) ASSERT_EQ(storm.Act(), "");
      digest = storm.plans_digest();
    }
    EXPECT_EQ(digests[0], digests[1]) << "seed " << seed;
  }
}

}  // namespace

void SetStorms(int count) {
  storms = count;
}

}  // namespace millrace::scheduler

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const std::string name = "--storms=";
    if (flag.rfind(name, 0) == 0)
      millrace::scheduler::SetStorms(std::atoi(flag.c_str() + name.size()));
  }
  return RUN_ALL_TESTS();
}
