#include "scheduler/policy.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <vector>

#include "scheduler/sequence.h"

namespace millrace::scheduler {
namespace {

// Running sequences, oldest first.
class Running {
 public:
  struct One {
    int32_t preemptions = 0;
    bool paused = false;
    Phase phase = Phase::kRunning;
  };
  Running(std::initializer_list<One> ones) : sequences_(ones.size()) {
    size_t i = 0;
    for (const One& one : ones) {
      Sequence& sequence = sequences_[i++];
      sequence.preemptions = one.preemptions;
      sequence.paused = one.paused;
      sequence.phase = one.phase;
      list_.push_back(&sequence);
    }
  }
  int32_t Victim(size_t requester) const { return ChooseVictim(list_, requester, 2); }

 private:
  std::vector<Sequence> sequences_;
  std::vector<Sequence*> list_;
};

TEST(PolicyTest, PrefillBesideDecodes) {
  EXPECT_EQ(MixedPrefillTokens(128, 1), 128);
  EXPECT_EQ(MixedPrefillTokens(128, 32), 128);
  EXPECT_EQ(MixedPrefillTokens(128, 33), 132);
  EXPECT_EQ(MixedPrefillTokens(1, 2), 8);
}

TEST(PolicyTest, TheYoungestGoesEvenIfItAsks) {
  const Running running({{}, {}, {}});
  EXPECT_EQ(running.Victim(0), 2);
  EXPECT_EQ(running.Victim(1), 2);
  EXPECT_EQ(running.Victim(2), 2);
}

TEST(PolicyTest, TheOldestNever) {
  EXPECT_EQ(Running({{}}).Victim(0), -1);
  EXPECT_EQ(Running({{}, {2}}).Victim(0), -1) << "the other one holds its worst case";
  EXPECT_EQ(Running({{0, false, Phase::kWaiting}, {}, {0, false, Phase::kEnded}}).Victim(1), -1);
}

TEST(PolicyTest, WhoWasPreemptedTwiceIsLeftAlone) {
  EXPECT_EQ(Running({{}, {1}, {2}, {3}}).Victim(0), 1);
}

TEST(PolicyTest, WhoDoesNotReadGoesFirst) {
  EXPECT_EQ(Running({{0, true}, {}, {0, true}, {}}).Victim(1), 2);
  EXPECT_EQ(Running({{0, true}, {}, {}}).Victim(1), 0) << "even the oldest: it does not advance";
  EXPECT_EQ(Running({{}, {5, true}}).Victim(0), 1) << "and though it was preempted often";
}

TEST(PolicyTest, NeedAtAdmission) {
  EXPECT_EQ(NeedAtAdmission(3, 10, 20, false).table, 3);
  EXPECT_EQ(NeedAtAdmission(3, 10, 20, false).margin, 1);
  EXPECT_EQ(NeedAtAdmission(3, 3, 20, false).margin, 0) << "it will never grow";
  EXPECT_EQ(NeedAtAdmission(3, 10, 3, false).margin, 0) << "it could not";
  EXPECT_EQ(NeedAtAdmission(3, 10, 20, true).table, 10);
  EXPECT_EQ(NeedAtAdmission(3, 10, 5, true).table, 5) << "all there is";
  EXPECT_EQ(NeedAtAdmission(3, 10, 20, true).margin, 0);
}

TEST(PolicyTest, RowsAndBlocks) {
  EXPECT_EQ(RowsEnd(5, 1, 100), 5) << "the only output is never an input";
  EXPECT_EQ(RowsEnd(5, 0, 100), 5);
  EXPECT_EQ(RowsEnd(5, 10, 100), 14);
  EXPECT_EQ(RowsEnd(5, 10, 8), 7);
  EXPECT_EQ(BlocksFor(0, 4), 0);
  EXPECT_EQ(BlocksFor(4, 4), 1);
  EXPECT_EQ(BlocksFor(5, 4), 2);
  EXPECT_EQ(ChunkTokens(100, 16, 7), 7);
}

TEST(PolicyTest, OrderOfService) {
  const ServedBefore before;
  const QueueTicket first{TenantId(9), 0, 1, 3};
  const QueueTicket second{TenantId(1), 0, 2, 0};
  const QueueTicket urgent{TenantId(1), -1, 5, 0};
  EXPECT_TRUE(before(first, second));
  EXPECT_TRUE(before(urgent, first));
  EXPECT_FALSE(before(first, first));
}

}  // namespace
}  // namespace millrace::scheduler
