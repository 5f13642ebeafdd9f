#include "paged_kv/block_pool.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "paged_kv/free_set.h"
#include "paged_kv/leaf_heap.h"
#include "paged_kv/pool_model.h"

namespace millrace::paged_kv {
namespace {

int walks = 1500;

PoolConfig Config(int32_t blocks, int32_t block_tokens = 2) {
  PoolConfig config;
  config.groups.push_back({blocks, block_tokens});
  return config;
}

// A pool of one group, and tables made in one line.
class Bench {
 public:
  explicit Bench(const PoolConfig& config) : pool(config), space(pool.OpenNamespace("t")) {}
  BlockTable Table(int32_t blocks) {
    BlockTable table;
    const std::array<int32_t, 1> counts = {blocks};
    std::optional<Reservation> reservation = pool.Reserve(counts);
    EXPECT_TRUE(reservation.has_value());
    reservation->MoveTo(table);
    return table;
  }
  void Publish(BlockTable& table, NamespaceId in, std::span<const TokenId> verified) {
    pool.Publish({&table, 1}, in, verified);
  }
  std::vector<BlockId> Lookup(NamespaceId in, std::span<const TokenId> tokens, int32_t most) {
    return pool.Lookup(in, tokens, most).tables[0];
  }
  std::string Check(std::vector<const BlockTable*> tables) { return pool.CheckInvariants(tables); }

  BlockPool pool;
  NamespaceId space;
};

TEST(BlockPoolTest, ReservationsAreAllOrNothingAndComeBackUnused) {
  Bench bench(Config(4));
  const std::array<int32_t, 1> three = {3};
  {
    std::optional<Reservation> first = bench.pool.Reserve(three);
    ASSERT_TRUE(first.has_value());
    EXPECT_EQ(first->count(0), 3);
    EXPECT_FALSE(bench.pool.Reserve(three).has_value());
    EXPECT_EQ(bench.pool.Stats().free, 1);
    const Reservation moved = std::move(*first);
    EXPECT_EQ(moved.count(0), 3);
  }
  EXPECT_EQ(bench.pool.Stats().free, 4);
  EXPECT_EQ(bench.Check({}), "");
}

TEST(BlockPoolTest, CountsAreByGroup) {
  PoolConfig config = Config(4);
  config.groups.push_back({2, 2, 3});
  BlockPool pool(config);
  const std::array<int32_t, 2> too_many = {1, 3};
  EXPECT_FALSE(pool.Reserve(too_many).has_value());
  EXPECT_EQ(pool.Stats(0).free, 4) << "the first group must not have been touched";
  const std::array<int32_t, 2> counts = {2, 1};
  BlockTable full(0);
  BlockTable window(1);
  pool.Share(window, std::vector<BlockId>{kNullBlock});  // outside the window
  std::optional<Reservation> reservation = pool.Reserve(counts);
  reservation->MoveTo(full);
  reservation->MoveTo(window);
  EXPECT_EQ(full.size(), 2);
  EXPECT_EQ(window.size(), 2);
  EXPECT_EQ(window[0], kNullBlock);
  const std::array<const BlockTable*, 2> tables = {&full, &window};
  EXPECT_EQ(pool.CheckInvariants(tables), "");
  pool.Release(full, StepId(0));
  pool.Release(window, StepId(0));
  EXPECT_EQ(pool.Stats(1).free, 2);
}

// The second chain follows the equal first one; that is evicted, and another text takes its block.
TEST(BlockPoolTest, ACompanionIsNotEnteredBelowABlockThatWasEvicted) {
  PoolConfig config = Config(4);
  config.groups.push_back({8, 2, 3});
  BlockPool pool(config);
  const NamespaceId space = pool.OpenNamespace("t");
  const auto take = [&](int32_t blocks) {
    std::vector<BlockTable> tables;
    std::optional<Reservation> reserved = pool.Reserve(std::vector<int32_t>{blocks, blocks});
    for (const uint32_t g : {0u, 1u}) reserved->MoveTo(tables.emplace_back(g));
    return tables;
  };
  const auto publish = [&](std::vector<BlockTable>& tables, const std::vector<TokenId>& tokens) {
    pool.Publish(tables, space, tokens);
  };
  const auto release = [&](std::vector<BlockTable>& tables) {
    for (BlockTable& table : tables) pool.Release(table, StepId(0));
  };
  std::vector<BlockTable> first = take(1);
  publish(first, {1, 1});
  std::vector<BlockTable> second = take(2);
  publish(second, {1, 1});  // passes the first one's block
  const BlockId passed = first[0][0];
  release(first);
  std::vector<BlockTable> hog = take(1);  // the last free one
  std::vector<BlockTable> other = {};
  std::optional<Reservation> evicting = pool.Reserve(std::vector<int32_t>{1, 1});
  for (const uint32_t g : {0u, 1u}) evicting->MoveTo(other.emplace_back(g));
  ASSERT_EQ(other[0][0], passed);
  release(hog);
  std::optional<Reservation> more = pool.Reserve(std::vector<int32_t>{1, 1});
  for (BlockTable& table : other) more->MoveTo(table);
  for (BlockTable& table : other) table.KeepPrivate();
  publish(other, {9, 9, 2, 2});
  publish(second, {1, 1, 2, 2});
  EXPECT_EQ(pool.Lookup(space, std::vector<TokenId>{9, 9, 2, 2}, 9).blocks, 0)
      << "no companion of its own is there";
}

TEST(BlockPoolTest, AHitNeedsWhatTheWindowSees) {
  PoolConfig config = Config(8);
  config.groups.push_back({8, 2, 3});  // sees one whole block before the next one
  BlockPool pool(config);
  const NamespaceId space = pool.OpenNamespace("t");
  std::vector<BlockTable> tables;
  std::optional<Reservation> reserved = pool.Reserve(std::vector<int32_t>{4, 4});
  for (const uint32_t g : {0u, 1u}) reserved->MoveTo(tables.emplace_back(g));
  const std::vector<TokenId> text = {1, 2, 3, 4, 5, 6, 7, 8};
  pool.Publish(tables, space, text);
  const PrefixHit hit = pool.Lookup(space, text, 4);
  EXPECT_EQ(hit.blocks, 4);
  EXPECT_EQ(hit.tables[1][2], kNullBlock);
  EXPECT_EQ(hit.tables[1][3], tables[1][3]);
  // The window leaves the first three, and others take their place: only the end is left.
  pool.ReleaseFront(tables[1], 3, StepId(0));
  EXPECT_EQ(pool.Stats(1).cached, 3);
  std::optional<Reservation> taken = pool.Reserve(std::vector<int32_t>{0, 7});
  ASSERT_TRUE(taken.has_value());
  EXPECT_EQ(pool.Lookup(space, text, 4).blocks, 4);
  EXPECT_EQ(pool.Lookup(space, text, 3).blocks, 0) << "skips down to what all groups have";
}

TEST(BlockPoolTest, TheNullBlockIsNeverHandedOut) {
  Bench bench(Config(3));
  BlockTable table = bench.Table(3);
  for (const BlockId id : table.blocks()) EXPECT_NE(id, kNullBlock);
}

TEST(BlockPoolTest, ReleaseWaitsForItsStep) {
  Bench bench(Config(4));
  BlockTable table = bench.Table(3);
  bench.pool.Release(table, StepId(5));
  EXPECT_EQ(bench.pool.Stats().pending, 3);
  bench.pool.Complete(StepId(4));
  EXPECT_EQ(bench.pool.Stats().free, 1);
  bench.pool.Complete(StepId(5));
  EXPECT_EQ(bench.pool.Stats().free, 4);
}

TEST(BlockPoolTest, TheLatestFenceOfAllHoldersCounts) {
  Bench bench(Config(4));
  const std::vector<TokenId> tokens = {1, 2};
  BlockTable a = bench.Table(1);
  bench.Publish(a, bench.space, tokens);
  BlockTable b;
  bench.pool.Share(b, a.blocks());
  bench.pool.Release(a, StepId(9));
  bench.pool.Release(b, StepId(3));
  bench.pool.Complete(StepId(3));
  EXPECT_EQ(bench.pool.Stats().pending, 1) << "step 9 still names it";
  bench.pool.Complete(StepId(9));
  EXPECT_EQ(bench.pool.Stats().cached, 1);
}

TEST(BlockPoolTest, PendingBlocksCanBeHitAgain) {
  Bench bench(Config(2));
  const std::vector<TokenId> tokens = {1, 2, 3, 4};
  BlockTable a = bench.Table(2);
  bench.Publish(a, bench.space, tokens);
  bench.pool.Release(a, StepId(1));
  BlockTable b;
  bench.pool.Share(b, bench.Lookup(bench.space, tokens, 2));
  EXPECT_EQ(b.size(), 2);
  bench.pool.Complete(StepId(1));
  EXPECT_EQ(bench.pool.Stats().active, 2);
  EXPECT_EQ(bench.Check({&b}), "");
}

TEST(BlockPoolTest, LookupIsExactEvenIfEveryHashCollides) {
  PoolConfig config = Config(8);
  config.hash = [](Hash128, std::span<const TokenId>) { return Hash128{1, 1}; };
  Bench bench(config);
  const NamespaceId other = bench.pool.OpenNamespace("u");
  BlockTable a = bench.Table(3);
  const std::vector<TokenId> tokens = {1, 2, 3, 4, 1, 2};
  bench.Publish(a, bench.space, tokens);
  EXPECT_EQ(bench.Lookup(bench.space, tokens, 9).size(), 3u);
  EXPECT_EQ(bench.Lookup(bench.space, tokens, 2).size(), 2u);
  const std::vector<TokenId> differs = {1, 2, 3, 5, 1, 2};
  EXPECT_EQ(bench.Lookup(bench.space, differs, 9).size(), 1u);
  const std::vector<TokenId> later = {3, 4, 1, 2};
  EXPECT_TRUE(bench.Lookup(bench.space, later, 9).empty());
  EXPECT_TRUE(bench.Lookup(other, tokens, 9).empty());
  EXPECT_EQ(bench.Check({&a}), "");
}

TEST(BlockPoolTest, NamespaceIdsAreReusedOnlyWhenNothingIsPublishedUnderThem) {
  Bench bench(Config(2));
  const NamespaceId first = bench.pool.OpenNamespace("a");
  EXPECT_EQ(bench.pool.OpenNamespace("a"), first);
  bench.pool.CloseNamespace(first);
  BlockTable table = bench.Table(1);
  bench.Publish(table, first, std::vector<TokenId>{1, 2});
  bench.pool.CloseNamespace(first);  // the published block still holds it
  EXPECT_NE(bench.pool.OpenNamespace("b"), first);
  bench.pool.Release(table, StepId(0));
  BlockTable all = bench.Table(2);  // evicts it
  EXPECT_EQ(bench.pool.OpenNamespace("c"), first);
}

TEST(BlockPoolTest, EvictsTheLeastRecentlyUsedLeafFirst) {
  Bench bench(Config(4));
  const std::vector<TokenId> ab = {1, 1, 2, 2};
  const std::vector<TokenId> cd = {3, 3, 4, 4};
  BlockTable first = bench.Table(2);
  BlockTable second = bench.Table(2);
  bench.Publish(first, bench.space, ab);
  bench.Publish(second, bench.space, cd);
  bench.pool.Release(first, StepId(0));
  bench.pool.Release(second, StepId(0));
  // Used again: now the second chain is the older one.
  BlockTable again;
  bench.pool.Share(again, bench.Lookup(bench.space, ab, 1));
  bench.pool.Release(again, StepId(0));
  BlockTable one = bench.Table(1);
  EXPECT_EQ(bench.Lookup(bench.space, ab, 9).size(), 1u) << "its leaf was the oldest";
  EXPECT_EQ(bench.Lookup(bench.space, cd, 9).size(), 2u);
  BlockTable two = bench.Table(1);
  EXPECT_EQ(bench.Lookup(bench.space, cd, 9).size(), 1u) << "child before parent";
  EXPECT_EQ(bench.pool.Stats().evictions, 2);
}

TEST(BlockPoolTest, ASecondCopyOfABlockIsNotPublished) {
  Bench bench(Config(6));
  const std::vector<TokenId> tokens = {1, 1, 2, 2, 3, 3};
  BlockTable first = bench.Table(2);
  BlockTable second = bench.Table(3);
  bench.Publish(first, bench.space, std::span<const TokenId>(tokens).first(4));
  bench.Publish(second, bench.space, tokens);
  EXPECT_FALSE(bench.pool.WantsPublish({&second, 1}, 3));
  const std::vector<BlockId> hit = bench.Lookup(bench.space, tokens, 9);
  EXPECT_EQ(hit, std::vector<BlockId>(first.blocks().begin(), first.blocks().end()));
  bench.pool.Release(second, StepId(0));
  EXPECT_EQ(bench.pool.Stats().free, 4) << "the copy is not worth keeping";
}

TEST(BlockPoolTest, PinnedBlocksStayThoughNobodyHoldsThem) {
  Bench bench(Config(2));
  BlockTable table = bench.Table(2);
  const std::vector<BlockId> pinned(table.blocks().begin(), table.blocks().end());
  bench.pool.Pin(pinned);
  bench.pool.Release(table, StepId(0));
  EXPECT_EQ(bench.pool.Stats().pinned, 2);
  EXPECT_EQ(bench.pool.CountPinnedOnly(pinned), 2);
  EXPECT_EQ(bench.pool.Stats().available(), 0);
  bench.pool.Unpin(pinned, StepId(1));
  EXPECT_EQ(bench.pool.Stats().pending, 2);
  bench.pool.Complete(StepId(1));
  EXPECT_EQ(bench.pool.Stats().free, 2);
}

TEST(BlockPoolTest, InvariantsNoticeAForeignTable) {
  Bench bench(Config(3));
  BlockTable table = bench.Table(2);
  EXPECT_EQ(bench.Check({&table}), "");
  EXPECT_NE(bench.Check({}), "");
  EXPECT_NE(bench.Check({&table, &table}), "");
}

TEST(HashTest, SpreadsAndSeparates) {
  std::set<uint64_t> low;
  std::set<uint64_t> buckets;
  for (TokenId i = 0; i < 4096; ++i) {
    const std::vector<TokenId> tokens = {i, 0, 0, 7};
    const Hash128 hash = MixTokens({}, tokens);
    low.insert(hash.lo);
    buckets.insert(hash.lo % 4096);
  }
  EXPECT_EQ(low.size(), 4096u);
  EXPECT_GT(buckets.size(), 2400u);  // 63 % of 4096 for a random function
  const std::vector<TokenId> one = {0};
  const std::vector<TokenId> two = {0, 0};
  EXPECT_FALSE(MixTokens({}, one) == MixTokens({}, two));
  EXPECT_FALSE(MixTokens({1, 0}, one) == MixTokens({0, 1}, one));
  EXPECT_FALSE(MixBytes({}, "ab") == MixBytes({}, std::string_view("ab\0", 3)));
}

TEST(FreeSetTest, TakesTheLowest) {
  FreeSet set(10000);
  for (const uint32_t id : {9999u, 1u, 64u, 4096u, 63u}) set.Insert(id);
  for (const uint32_t id : {1u, 63u, 64u, 4096u, 9999u}) {
    EXPECT_TRUE(set.Contains(id));
    EXPECT_EQ(set.TakeLowest(), id);
    EXPECT_FALSE(set.Contains(id));
  }
}

TEST(LeafHeapTest, OldestFirstWithRemovals) {
  LeafHeap heap(200);
  for (uint32_t id = 1; id <= 200; ++id) heap.Push(id, (id * 37) % 101);
  for (uint32_t id = 3; id <= 200; id += 3) heap.Erase(id);
  uint64_t last = 0;
  int left = 0;
  while (!heap.empty()) {
    const uint32_t id = heap.Oldest();
    EXPECT_NE(id % 3, 0u);
    const uint64_t key = (uint64_t{id} * 37) % 101 * 1000 + id;
    EXPECT_GT(key, last);
    last = key;
    heap.Erase(id);
    ++left;
  }
  EXPECT_EQ(left, 134);
}

TEST(BlockPoolPropertyTest, AgreesWithTheNaiveModel) {
  int64_t hits = 0;
  int64_t evictions = 0;
  int64_t slides = 0;
  for (int seed = 1; seed <= walks; ++seed) {
    uint64_t state = static_cast<uint64_t>(seed) * 0x9e3779b97f4a7c15ULL;
    PoolModel model(
        [&state](uint32_t n) {
          state ^= state << 13;
          state ^= state >> 7;
          state ^= state << 17;
          return static_cast<uint32_t>((state >> 20) % n);
        },
        seed % 2 == 0);
    std::string broken;
    for (int i = 0; i < 120 && broken.empty(); ++i) broken = model.Act();
    if (broken.empty()) broken = model.Finish();
    ASSERT_EQ(broken, "") << "seed " << seed;
    hits += model.hits();
    evictions += model.evictions();
    slides += model.slides();
  }
  EXPECT_GT(slides, walks);
  EXPECT_GT(hits, walks);
  EXPECT_GT(evictions, walks);
}

}  // namespace

void SetWalks(int count) {
  walks = count;
}

}  // namespace millrace::paged_kv

// `--walks=N` makes the random part longer (./dev soak).
int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag.rfind("--walks=", 0) == 0) millrace::paged_kv::SetWalks(std::atoi(flag.c_str() + 8));
  }
  return RUN_ALL_TESTS();
}
