// Look-up of guesses against a slow search, and what they are thought to be worth.

#include "scheduler/speculation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "scheduler/ngram_index.h"

namespace millrace::scheduler {
namespace {

using Tokens = std::vector<TokenId>;

int32_t Agree(const Tokens& tokens, size_t a) {
  int32_t length = 0;
  size_t b = tokens.size() - 1;
  while (length < NgramIndex::kLongest) {
    if (tokens[a] != tokens[b]) return length;
    ++length;
    if (a == 0) return length;
    --a, --b;
  }
  return length;
}

// All places, without bound.
NgramMatch Slow(const Tokens& tokens) {
  NgramMatch match;
  for (size_t end = 1; end + 1 < tokens.size(); ++end) {
    const int32_t length = Agree(tokens, end);
    const bool counts = length >= NgramIndex::kShort && end + 1 >= static_cast<size_t>(length);
    if (!counts || length < match.length) continue;
    match = {static_cast<int32_t>(end) + 1, length};
  }
  return match;
}

TEST(NgramIndexTest, FindsWhatASlowSearchFindsWhenPlacesAreFew) {
  int found = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    std::mt19937_64 random(seed);
    NgramIndex index;
    Tokens tokens;
    size_t copy = SIZE_MAX;
    const uint64_t vocabulary = 30 + seed * 10;
    while (tokens.size() < 400) {
      // Now and then a piece of what was said.
      if (tokens.size() > 20 && random() % 40 == 0) copy = random() % tokens.size();
      if (random() % 10 == 0) copy = SIZE_MAX;
      const auto fresh = static_cast<TokenId>(random() % vocabulary);
      tokens.push_back(copy < tokens.size() ? tokens[copy++] : fresh);
      const NgramMatch slow = Slow(tokens);
      const NgramMatch match = index.Find(tokens);
      // Never one that is not there; and the best unless a bucket was taken by others.
      if (match.next >= 0) {
        ASSERT_EQ(Agree(tokens, static_cast<size_t>(match.next) - 1), match.length);
        ++found;
      }
      ASSERT_LE(match.length, slow.length);
      if (slow.length >= 4) {
        ASSERT_GE(match.length, NgramIndex::kLinked);
      }
    }
  }
  EXPECT_GT(found, 1000);
}

TEST(NgramIndexTest, IsAFunctionOfTheTokens) {
  std::mt19937_64 random(5);
  Tokens tokens;
  NgramIndex grown;
  for (int i = 0; i < 3000; ++i) {
    tokens.push_back(static_cast<TokenId>(random() % 12));
    const NgramMatch match = random() % 3 == 0 ? NgramMatch() : grown.Find(tokens);
    if (i % 50 != 0) continue;
    NgramIndex fresh;
    const NgramMatch expected = fresh.Find(tokens);
    const NgramMatch again = grown.Find(tokens);
    EXPECT_EQ(again.next, expected.next);
    EXPECT_EQ(again.length, expected.length);
    if (match.next >= 0) {
      EXPECT_EQ(match.next, expected.next);
    }
  }
}

TEST(NgramIndexTest, PrefersTheLongestThenTheNewest) {
  NgramIndex index;
  // 1 2 3 stands twice; only before the first stood 9 9.
  const Tokens longest = {9, 9, 1, 2, 3, 50, 7, 8, 1, 2, 3, 60, 9, 9, 1, 2, 3};
  EXPECT_EQ(index.Find(longest).next, 5);
  EXPECT_EQ(index.Find(longest).length, 5);
  NgramIndex other;
  const Tokens newest = {4, 1, 2, 3, 50, 5, 1, 2, 3, 60, 6, 1, 2, 3};
  EXPECT_EQ(other.Find(newest).next, 9);
  NgramIndex pair;
  EXPECT_EQ(pair.Find(Tokens{1, 2, 50, 9, 1, 2}).next, 2);
  NgramIndex none;
  EXPECT_EQ(none.Find(Tokens{1, 2, 3, 4, 5}).next, -1);
  EXPECT_EQ(NgramIndex().Find(Tokens{1}).next, -1);
  EXPECT_EQ(NgramIndex().Find(Tokens{1, 1}).next, -1);
}

// One token for ever, short periods, and texts whose every place looks alike: the work per token is
// bounded (a test that took a pass over the text per token would not end in time).
TEST(NgramIndexTest, RepetitiveTextsCostNoMore) {
  for (const int period : {1, 2, 3, 7, 64}) {
    NgramIndex index;
    Tokens tokens;
    for (int i = 0; i < 200'000; ++i) {
      tokens.push_back(i % period);
      const NgramMatch match = index.Find(tokens);
      if (i > 2 * period + NgramIndex::kLongest) {
        ASSERT_EQ(match.length, NgramIndex::kLongest) << period;
        ASSERT_EQ(tokens[static_cast<size_t>(match.next)], (i + 1) % period);
      }
    }
  }
}

TEST(NgramIndexTest, ReadsOnPastTheEndOfThePeriod) {
  Tokens guesses;
  ReadOn(Tokens{1, 2, 3, 1, 2, 3}, 3, 7, guesses);
  EXPECT_EQ(guesses, (Tokens{1, 2, 3, 1, 2, 3, 1}));
  ReadOn(Tokens{1, 2, 3, 4}, 1, 2, guesses);
  EXPECT_EQ(guesses, (Tokens{2, 3}));
}

TEST(SpeculationTest, CostsRiseWithTokensAndWithYield) {
  EXPECT_EQ(StepCost({1, kOne}), kOne);
  int64_t before = 0;
  for (int32_t tokens = 1; tokens < 400; ++tokens) {
    const int64_t cost = StepCost({tokens, kOne});
    EXPECT_GT(cost, before);
    before = cost;
  }
  EXPECT_GT(StepCost({8, 8 * kOne}), StepCost({8, kOne}));
}

TEST(SpeculationTest, ExpectsAGeometricSum) {
  EXPECT_EQ(ExpectedTokens(kOne, 5), 5 * kOne);
  EXPECT_EQ(ExpectedTokens(0, 5), 0);
  EXPECT_EQ(ExpectedTokens(kOne / 2, 3), kOne / 2 + kOne / 4 + kOne / 8);
}

TEST(SpeculationTest, GuessesMoreWhenTheyAreRightAndTheStepIsSmall) {
  const StepLoad alone{1, kOne};
  EXPECT_EQ(BestGuesses(alone, 8, 15), 0);
  EXPECT_GE(BestGuesses(alone, 1016, 15), 5);
  int32_t before = 0;
  for (int32_t rate = 0; rate <= kOne; rate += 32) {
    const int32_t best = BestGuesses(alone, rate, 8);
    EXPECT_GE(best, before) << rate;
    before = best;
  }
  EXPECT_EQ(BestGuesses(alone, 1000, 3), 3);
  EXPECT_EQ(BestGuesses(alone, 1000, 0), 0);
  // 32 others pay for what one may gain: only the near certain is worth it.
  EXPECT_EQ(BestGuesses({32, 32 * kOne}, 512, 8), 0);
}

TEST(SpeculationTest, RatesFollowWhatHappensAndRecoverUnused) {
  Acceptance acceptance;
  const int32_t first = acceptance.Rate(3);
  for (int i = 0; i < 40; ++i) acceptance.Note(3, 4, 0);
  EXPECT_LT(acceptance.Rate(3), 16);
  EXPECT_EQ(BestGuesses({1, kOne}, acceptance.Rate(3), 8), 0);
  EXPECT_GT(acceptance.Rate(32), 800);  // its own
  int rests = 0;
  while (BestGuesses({1, kOne}, acceptance.Rate(3), 8) == 0) acceptance.Rest(3), ++rests;
  EXPECT_GT(rests, 8);
  EXPECT_LT(rests, 200);
  for (int i = 0; i < 1000; ++i) acceptance.Rest(3);
  EXPECT_EQ(acceptance.Rate(3), first);
  for (int i = 0; i < 40; ++i) acceptance.Note(3, 4, 4);
  EXPECT_GT(acceptance.Rate(3), 1000);
  EXPECT_LT(acceptance.Rate(3), kOne);
}

}  // namespace
}  // namespace millrace::scheduler
