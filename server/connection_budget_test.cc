#include "server/connection_budget.h"

#include <gtest/gtest.h>

namespace millrace::server {
namespace {

constexpr MonoNanos kTick = 250 * kNanosPerMilli;

// Adds `step` to a sample every tick until the budget is broken; how many ticks it took, or -1.
int TicksUntil(BudgetVerdict verdict, const ConnectionSample& step, int ticks_max = 4000) {
  const ConnectionBudgetLimits limits;
  ConnectionBudget budget(0);
  ConnectionSample sample;
  for (int tick = 1; tick <= ticks_max; ++tick) {
    sample.at += kTick;
    sample.bytes_received += step.bytes_received;
    sample.bytes_unread = step.bytes_unread;
    sample.streams_started += step.streams_started;
    sample.streams_succeeded += step.streams_succeeded;
    sample.messages_received += step.messages_received;
    const BudgetVerdict got = budget.Spend(limits, sample);
    if (got != BudgetVerdict::kFine) {
      EXPECT_EQ(got, verdict);
      return tick;
    }
  }
  return -1;
}

TEST(ConnectionBudget, StreamsThatNeverEndWell) {
  // 6,000 a second: 1,500 a tick, less 25 that leak.
  EXPECT_EQ(TicksUntil(BudgetVerdict::kTooManyStreams, {0, 300'000, 0, 1500, 0, 0}), 3);
  // A message in each does not excuse them.
  EXPECT_EQ(TicksUntil(BudgetVerdict::kTooManyStreams, {0, 300'000, 0, 1500, 0, 1500}), 3);
}

TEST(ConnectionBudget, WorkAndAFewCancelsAreFine) {
  EXPECT_EQ(TicksUntil(BudgetVerdict::kFine, {0, 300'000, 0, 1500, 1490, 1500}), -1);
  EXPECT_EQ(TicksUntil(BudgetVerdict::kFine, {0, 5'000, 0, 25, 0, 25}), -1);
}

TEST(ConnectionBudget, BytesThatLeadToNothing) {
  EXPECT_EQ(TicksUntil(BudgetVerdict::kTooManyBytes, {0, 1 << 20, 0, 0, 0, 0}), 18);
  // 64 KiB a second are a slow upload, or a client that reads for hours.
  EXPECT_EQ(TicksUntil(BudgetVerdict::kFine, {0, 16 << 10, 0, 0, 0, 0}), -1);
  // Large messages that arrive.
  EXPECT_EQ(TicksUntil(BudgetVerdict::kFine, {0, 8 << 20, 0, 1, 1, 1}), -1);
}

TEST(ConnectionBudget, APeerThatIsReadMoreAndMoreSlowly) {
  // 2 MiB after 9 ticks, then 2 s, of which a tick this long proves a tenth of a second.
  EXPECT_EQ(TicksUntil(BudgetVerdict::kStalled, {0, 256 << 10, 1 << 20, 0, 0, 0}), 29);
  EXPECT_EQ(TicksUntil(BudgetVerdict::kTooManyBytes, {0, 256 << 10, 10 << 10, 0, 0, 0}), 73);
  EXPECT_EQ(TicksUntil(BudgetVerdict::kFine, {0, 256 << 10, 1 << 20, 0, 0, 1}), -1);
}

TEST(ConnectionBudget, OldMeritsBuyNoFlood) {
  const ConnectionBudgetLimits limits;
  ConnectionBudget budget(0);
  ConnectionSample sample{kTick, 1 << 30, 0, 1'000'000, 1'000'000, 1'000'000};
  EXPECT_EQ(budget.Spend(limits, sample), BudgetVerdict::kFine);
  sample.at += kTick;
  sample.streams_started += 4000;
  EXPECT_EQ(budget.Spend(limits, sample), BudgetVerdict::kTooManyStreams);
}

}  // namespace
}  // namespace millrace::server
