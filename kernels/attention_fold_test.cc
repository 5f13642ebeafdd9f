// Sequences that begin with the same blocks: what is shared is read once, and nobody's numbers
// show it.

#include <gtest/gtest.h>

#include <string>

#include "kernels/attention_plan.h"
#include "kernels/attention_test_support.h"
#include "kernels/ops.h"
#include "kernels/test_gemm.h"

namespace millrace::kernels {
namespace {

using testing::Arena;
using testing::kNumbers;
using testing::Numbers;
using testing::Random;
using testing::RowSpec;
using testing::RunBatch;
using testing::RunnableTiers;
using testing::SameBytes;
using testing::Sequence;
using testing::Shape;
using testing::Workers;

// What the plan makes of one row of one token for each table.
struct Planned {
  Planned(const Shape& s, const std::vector<std::vector<uint32_t>>& tables,
          const std::vector<int32_t>& positions, int workers) {
    layout.layers = 1;
    layout.kv_heads = static_cast<int32_t>(s.kv_heads);
    layout.head_dim = static_cast<int32_t>(s.head_dim);
    layout.block_tokens = s.block_tokens;
    for (size_t i = 0; i < tables.size(); ++i) {
      AttentionRow row;
      row.token_begin = static_cast<int32_t>(i);
      row.token_count = 1;
      row.position = positions[i];
      row.table = tables[i].data();
      rows.push_back(row);
    }
    args.heads = s.heads;
    args.tokens = static_cast<int64_t>(rows.size());
    args.window = s.window;
    args.layout = &layout;
    args.rows = rows;
    tasks.resize(static_cast<size_t>(CountAttention(args, workers, &plan)));
    sharers.resize(rows.size());
    PlanAttention(args, tasks.data(), sharers.data(), &plan);
  }

  // "0+2@3": rows 0 and 2 share 3 blocks; of KV head 0, rows alone left out; sorted.
  std::string Folds() const {
    std::vector<std::string> names;
    for (const AttentionTask& task : plan.tasks) {
      if (task.kv_head != 0 || task.first_head != 0 || task.sharer_count == 0) continue;
      std::string name = std::to_string(task.row);
      for (int32_t i = 0; i < task.sharer_count; ++i) {
        name += "+" + std::to_string(plan.sharers[static_cast<size_t>(task.sharers + i)].row);
      }
      names.push_back(name + "@" + std::to_string(task.shared_blocks));
    }
    std::sort(names.begin(), names.end());
    std::string all;
    for (const std::string& name : names) all += (all.empty() ? "" : " ") + name;
    return all;
  }

  KvLayout layout;
  std::vector<AttentionRow> rows;
  AttentionArgs args;
  AttentionPlan plan;
  std::vector<AttentionTask> tasks;
  std::vector<AttentionSharing> sharers;
};

TEST(AttentionPlan, FoldsWhatIsShared) {
  const Shape s = {8, 8, 64, 16};
  using Tables = std::vector<std::vector<uint32_t>>;
  struct Case {
    Tables tables;
    std::vector<int32_t> positions;
    const char* folds;
  };
  const Case cases[] = {
      {{{1, 2, 3, 4}, {1, 2, 3, 5}}, {60, 50}, "0+1@3"},
      {{{1, 2, 3, 4}, {5, 6, 7, 8}, {1, 2, 3, 9}}, {60, 50, 50}, "0+2@3"},
      // A block that is not full before the token of each is not shared, whatever the tables say.
      {{{1, 2, 3, 4}, {1, 2, 3, 4}}, {60, 40}, "0+1@2"},
      {{{1, 2, 3, 4}, {1, 2, 3, 4}}, {60, 31}, ""},
      {{{1, 2, 3, 4}, {1, 9, 3, 4}}, {60, 60}, ""},
      {{{1, 2, 3, 4}}, {60}, ""},
      // Two families under one prefix: within each is shared more, so each is a fold.
      {{{1, 2, 3, 4, 5, 6, 7},
        {1, 2, 8, 9, 10, 11, 12},
        {1, 2, 3, 4, 5, 6, 13},
        {1, 2, 8, 9, 10, 11, 14}},
       {100, 100, 100, 100},
       "0+2@6 1+3@6"},
      // A third that shares little does not spoil two that share much; two like it do share.
      {{{1, 2, 3, 4, 5, 6, 7}, {1, 2, 3, 4, 5, 6, 8}, {1, 2, 20}}, {100, 100, 40}, "0+1@6"},
  };
  for (const Case& c : cases) {
    const Planned planned(s, c.tables, c.positions, 1);
    EXPECT_EQ(planned.Folds(), c.folds);
    // Every row is in one task of each KV head.
    std::vector<int> seen(c.tables.size() * 8);
    for (const AttentionTask& task : planned.plan.tasks) {
      ++seen[static_cast<size_t>(task.row * 8 + task.kv_head)];
      for (int32_t i = 0; i < task.sharer_count; ++i) {
        const int32_t row = planned.plan.sharers[static_cast<size_t>(task.sharers + i)].row;
        ++seen[static_cast<size_t>(row * 8 + task.kv_head)];
      }
    }
    for (int count : seen) EXPECT_EQ(count, 1) << c.folds;
  }
  const Tables same = {{1, 2, 3, 4}, {1, 2, 3, 5}};
  const Shape windowed = {8, 8, 64, 16, 40};
  EXPECT_EQ(Planned(windowed, same, {60, 60}, 1).Folds(), "") << "their windows begin apart";
  EXPECT_EQ(Planned(s, same, {60, 60}, 16).Folds(), "") << "too few items for 16 workers";
}

TEST(AttentionPlan, HeavyTasksComeFirst) {
  const Shape s = {4, 2, 64, 16};
  std::vector<std::vector<uint32_t>> tables;
  std::vector<int32_t> positions;
  Random random(9);
  for (uint32_t i = 0; i < 40; ++i) {
    positions.push_back(static_cast<int32_t>(random.Below(500)));
    tables.emplace_back();
    for (uint32_t b = 0; b < 32; ++b) tables.back().push_back(1 + 32 * i + b);
  }
  const Planned planned(s, tables, positions, 2);
  ASSERT_EQ(planned.plan.tasks.size(), 80u);
  for (size_t i = 1; i < 80; ++i) {  // sorted by quarters of an octave
    const AttentionTask &before = planned.plan.tasks[i - 1], &task = planned.plan.tasks[i];
    EXPECT_GE(1.26 * (positions[static_cast<size_t>(before.row)] + 1),
              positions[static_cast<size_t>(task.row)] + 1);
  }
}

// Sequences of one prefix, decoded together with shared blocks, with copies of the prefix in blocks
// of their own, and each alone: the same bytes.
struct Family {
  // Lengths are after the shared positions.
  Family(const Shape& shape, int32_t shared, const std::vector<int64_t>& lengths)
      : s(shape), shared_blocks(shared) {
    const int64_t prefix = int64_t{shared} * s.block_tokens;
    for (size_t i = 0; i < lengths.size(); ++i) {
      members.emplace_back(s, prefix + lengths[i], 70 + i);
      if (i == 0) continue;
      const auto copy = [&](std::vector<float>& to, const std::vector<float>& from, int64_t width) {
        std::copy_n(from.begin(), prefix * width, to.begin());
      };
      copy(members[i].k, members[0].k, s.kv_heads * s.head_dim);
      copy(members[i].v, members[0].v, s.kv_heads * s.head_dim);
    }
  }
  // With `share`, the tables begin with member 0's blocks. Returns the blocks there are.
  uint32_t Place(bool share) {
    uint32_t next = 1;
    for (Sequence& member : members) {
      for (size_t b = 0; b < member.table.size(); ++b) {
        const bool common =
            share && b < static_cast<size_t>(shared_blocks) && &member != &members[0];
        member.table[b] = common ? members[0].table[b] : next++;
      }
    }
    return next;
  }
  void Fill(Arena& arena, bool share, Stream& stream) const {
    for (size_t i = 0; i < members.size(); ++i) {
      const int64_t from = share && i > 0 ? int64_t{shared_blocks} * s.block_tokens : 0;
      testing::WriteKeys(s, arena, members[i], stream, from);
    }
  }
  std::vector<RowSpec> LastTokens() const {
    std::vector<RowSpec> rows;
    for (const Sequence& member : members) rows.push_back({&member, member.length - 1, 1});
    return rows;
  }
  std::string Folds(int workers) const {
    std::vector<std::vector<uint32_t>> tables;
    std::vector<int32_t> positions;
    for (const Sequence& member : members) {
      tables.push_back(member.table);
      positions.push_back(static_cast<int32_t>(member.length - 1));
    }
    return Planned(s, tables, positions, workers).Folds();
  }

  Shape s;
  int32_t shared_blocks;
  std::vector<Sequence> members;
};

class AttentionFold : public ::testing::TestWithParam<Shape> {};

TEST_P(AttentionFold, BytesAreThoseOfEachAlone) {
  const Shape s = GetParam();
  const int64_t block = s.block_tokens;
  // What is shared ends within the first split of 256 positions, at its end, and in the second.
  const int32_t split = std::max(1, 256 / s.block_tokens);
  for (int32_t shared : {2, split, split + 3}) {
    Family family(s, shared, {1, 7, block, block + 1, 3 * block + 2, 300});
    for (const Numbers& numbers : kNumbers) {
      for (IsaTier tier : RunnableTiers()) {
        if (tier == IsaTier::kScalar && shared != 2) continue;  // slow
        const int workers = 1 + static_cast<int>(tier == IsaTier::kAvx2);
        ThreadPool pool(Workers(workers));
        Stream stream(pool, numbers.mode, tier);
        const uint32_t own_blocks = family.Place(false);
        Arena apart(s, numbers.type, own_blocks);
        family.Fill(apart, false, stream);
        ASSERT_EQ(family.Folds(workers), "");
        const std::vector<float> want = RunBatch(s, apart, family.LastTokens(), stream);

        const uint32_t blocks = family.Place(true);
        ASSERT_LT(blocks, own_blocks);
        Arena arena(s, numbers.type, blocks);
        family.Fill(arena, true, stream);
        ASSERT_NE(family.Folds(workers), "") << "control: nothing was folded";
        const std::vector<float> got = RunBatch(s, arena, family.LastTokens(), stream);
        ASSERT_TRUE(SameBytes(got, want)) << numbers << IsaTierName(tier) << shared;

        const int64_t width = s.heads * s.head_dim;
        for (size_t i = 0; i < family.members.size(); ++i) {
          const std::vector<float> alone = RunBatch(s, arena, {family.LastTokens()[i]}, stream);
          ASSERT_EQ(0, std::memcmp(alone.data(), got.data() + static_cast<int64_t>(i) * width,
                                   alone.size() * sizeof(float)))
              << numbers << IsaTierName(tier) << " sequence " << i;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionFold,
                         ::testing::Values(Shape{9, 3, 64, 32}, Shape{4, 4, 32, 16},
                                           Shape{14, 2, 64, 32}, Shape{8, 8, 80, 16, 0, 0.4f},
                                           Shape{6, 6, 20, 5}));

// On tiles, where whole splits of 256 positions are folded.
class FoldOnTiles : public ::testing::TestWithParam<std::tuple<Shape, KvType>> {};

TEST_P(FoldOnTiles, IsEachAlone) {
  const auto& [s, type] = GetParam();
  const int64_t block = s.block_tokens;
  const int32_t split = 256 / s.block_tokens;
  ThreadPool pool(Workers(1));
  for (int32_t shared : {split - 1, split, 2 * split + 3}) {
    Family family(s, shared, {1, 7, block, block + 1, 3 * block + 2, 300});
    const auto run = [&](IsaTier tier, bool share) {
      Stream stream(pool, ComputeMode::kFast, tier);
      Arena arena(s, type, family.Place(share));
      family.Fill(arena, share, stream);
      EXPECT_EQ(family.Folds(1).empty(), !share);
      return RunBatch(s, arena, family.LastTokens(), stream);
    };
    const std::vector<float> plain = run(DetectIsaTier(), true);
    const std::vector<float> want = run(IsaTier::kAmxEmulated, false);
    const bool alone_on_tiles = s.heads / s.kv_heads >= 6;
    if (!alone_on_tiles) {
      EXPECT_TRUE(SameBytes(want, run(DetectIsaTier(), false))) << "too few rows";
    }
    for (IsaTier tier : testing::TiledTiers()) {
      const std::vector<float> got = run(tier, true);
      EXPECT_EQ(SameBytes(got, plain), shared < split) << "control: what is folded is on tiles";
      if (alone_on_tiles && shared >= split) {
        EXPECT_TRUE(SameBytes(got, want)) << IsaTierName(tier) << shared;
      }
      // Weights that are rounded move by 2^-9 at most, and so does their sum; values are below 1.
      for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 0x1p-8) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, FoldOnTiles,
    ::testing::Combine(::testing::Values(Shape{9, 3, 64, 32}, Shape{14, 2, 64, 32},
                                         Shape{8, 1, 128, 16, 0, 0.5f}, Shape{8, 4, 96, 32}),
                       ::testing::Values(KvType::kBF16, KvType::kInt8)));

// Decode beside a prefill and a stranger, as in a step of a server.
TEST(AttentionFoldInCompany, PrefillBesideIt) {
  const Shape s = {9, 3, 64, 32};
  Family family(s, 4, {40, 50, 1, 2});
  Sequence stranger(s, 200, 99);
  ThreadPool pool(Workers(2));
  Stream stream(pool, ComputeMode::kFast);
  const uint32_t blocks = family.Place(true);
  Arena arena(s, KvType::kBF16, blocks + 8);
  std::iota(stranger.table.begin(), stranger.table.end(), blocks);
  family.Fill(arena, true, stream);
  const std::vector<float> alone = RunBatch(s, arena, family.LastTokens(), stream);
  std::vector<RowSpec> rows = family.LastTokens();
  rows.insert(rows.begin() + 2, {&stranger, 0, 150});
  const std::vector<float> got = RunBatch(s, arena, rows, stream);
  const auto width = static_cast<size_t>(s.heads * s.head_dim);
  EXPECT_EQ(0, std::memcmp(got.data(), alone.data(), 2 * width * sizeof(float)));
  EXPECT_EQ(0, std::memcmp(got.data() + 152 * width, alone.data() + 2 * width,
                           2 * width * sizeof(float)));
}

}  // namespace
}  // namespace millrace::kernels
