#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cmath>
#include <numeric>

#include "kernels/attention_test_support.h"
#include "kernels/ops.h"
#include "kernels/ref/ref.h"
#include "kernels/test_gemm.h"
#include "kernels/test_support.h"

namespace millrace::kernels {
namespace {

using testing::Arena;
using testing::kNumbers;
using testing::Numbers;
using testing::Place;
using testing::Random;
using testing::RowSpec;
using testing::RunBatch;
using testing::RunnableTiers;
using testing::SameBytes;
using testing::Sequence;
using testing::Shape;
using testing::Workers;
using testing::WriteKeys;

float ThroughBf16(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  std::memcpy(&f, &bits, 4);
  return f;
}

// What an int8 cache holds of keys or values [tokens * kv_heads, dim], written anew from its
// definition.
void ThroughInt8(std::vector<float>& x, int64_t dim) {
  for (size_t at = 0; at < x.size(); at += static_cast<size_t>(dim)) {
    float largest = 0;
    for (int64_t d = 0; d < dim; ++d) {
      largest = std::max(largest, std::abs(x[at + static_cast<size_t>(d)]));
    }
    for (int64_t d = 0; d < dim; ++d) {
      float& value = x[at + static_cast<size_t>(d)];
      value = std::nearbyint(value * (127.0f / largest)) * (largest / 127.0f);
    }
  }
}

// What the cache holds of a sequence.
std::vector<float> Through(KvType type, std::vector<float> x, int64_t dim) {
  if (type == KvType::kInt8) ThroughInt8(x, dim);
  for (float& value : x) {
    if (type == KvType::kBF16) value = ThroughBf16(value);
  }
  return x;
}

// The whole sequence fed in chunks of the given size.
std::vector<float> RunChunked(const Shape& s, Arena& arena, const Sequence& sequence, int64_t chunk,
                              Stream& stream, int64_t window = 0) {
  std::vector<float> out;
  for (int64_t p = 0; p < sequence.length; p += chunk) {
    const int64_t count = std::min(chunk, sequence.length - p);
    RowSpec row = {&sequence, p, count};
    if (window > 0) row.first_needed = std::max<int64_t>(0, p + 1 - window);
    const std::vector<float> part = RunBatch(s, arena, {row}, stream);
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

const Shape kShapes[] = {{9, 3, 64, 32},
                         {4, 4, 64, 16},
                         {8, 1, 128, 32},
                         {6, 2, 80, 32},
                         {2, 1, 20, 5},
                         {1, 1, 8, 1},
                         {5, 1, 64, 48},
                         {71, 1, 32, 32},
                         {9, 3, 64, 16, 33},
                         {3, 1, 96, 32, 1, 0.7f},
                         {2, 1, 256, 16, 21, 1.5f},
                         {4, 2, 80, 32, 0, 0.4f},
                         {6, 2, 20, 5, 7},
                         {7, 1, 32, 16, 45, 0.5f}};

class AttentionTest : public ::testing::TestWithParam<Shape> {};

// Scores: a chain of head_dim products, each off by eps of the magnitude so far; with |q|, |k|
// < 1.5 the magnitude is below 2.25 head_dim scale. A weight moves by that relatively (and by 2 eps
// of the exponential and of each rescaling, one a block at most); a value by twice that of sum p
// |v|, as the weights' total moves too. Splits, sums and divisions add some eps per position.
double Tolerance(const Shape& s, int64_t positions, double magnitude) {
  constexpr double kEps = 0x1p-24;
  const double dim = static_cast<double>(s.head_dim);
  const double score = 2.25 * std::sqrt(dim) * (dim + 4) * kEps;
  const double count = static_cast<double>(positions);
  const double rescaled = 4 * (count / s.block_tokens + 4) * kEps;
  // int8: the score and the weight are multiplied by a scale each, which rounds; the scale itself
  // and the twin's products round too.
  // Capping: six roundings of values up to the cap, and of 1 in tanh.
  const double cap = 8 * static_cast<double>(s.soft_cap) * kEps;
  return 2 * (score + cap + rescaled + (count + 12) * kEps) * magnitude;
}

// On top of that, weights rounded to bf16 (by 2^-8 of themselves at most, and so their sum) after
// a shorter exponential.
double Tolerance(const Shape& s, const Numbers& numbers, int64_t positions, double magnitude) {
  return Tolerance(s, positions, magnitude) + (numbers.rounded() ? 0x1.02p-7 * magnitude : 0);
}

// What the slow twin is asked about a token.
ref::AttendArgs Question(const Shape& s, const Numbers& numbers, std::vector<float>& q,
                         const std::vector<float>& k, const std::vector<float>& v) {
  ref::AttendArgs args;
  args.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
  if (numbers.rounded()) {
    for (float& x : q) x = ThroughBf16(x * args.scale);
    args.scale = 1;
  }
  args.q = q;
  args.k = k;
  args.v = v;
  args.heads = s.heads;
  args.kv_heads = s.kv_heads;
  args.head_dim = s.head_dim;
  args.soft_cap = s.soft_cap;
  return args;
}

TEST_P(AttentionTest, AgreesWithTheSlowTwinInEveryTier) {
  const Shape s = GetParam();
  const int64_t length = 2 * s.block_tokens + 7;
  ThreadPool pool(Workers(2));
  for (const Numbers& numbers : kNumbers) {
    std::vector<float> first;
    for (IsaTier tier : RunnableTiers()) {
      Stream stream(pool, numbers.mode, tier);
      Sequence sequence(s, length, 5);
      Arena arena(s, numbers.type, 16);
      Random random(3);
      Place(sequence.table, arena.blocks, random);
      const std::vector<float> got = RunBatch(s, arena, {{&sequence, 0, length}}, stream);
      const std::vector<float> k = Through(numbers.type, sequence.k, s.head_dim);
      const std::vector<float> v = Through(numbers.type, sequence.v, s.head_dim);
      const int64_t width = s.heads * s.head_dim;
      for (int64_t t = 0; t < length; ++t) {
        std::vector<float> q(sequence.q.begin() + t * width, sequence.q.begin() + (t + 1) * width);
        ref::AttendArgs args = Question(s, numbers, q, k, v);
        args.first = s.FirstSeen(t);
        args.last = t;
        const ref::Values want = ref::Attend(args);
        for (size_t i = 0; i < want.value.size(); ++i) {
          ASSERT_NEAR(got[static_cast<size_t>(t * width) + i], want.value[i],
                      Tolerance(s, numbers, t + 1, want.magnitude[i]))
              << numbers << IsaTierName(tier) << " token " << t << " element " << i;
        }
      }
      if (first.empty()) first = got;
      ASSERT_TRUE(SameBytes(got, first)) << IsaTierName(tier);
    }
  }
}

// The bytes of a token's result depend on its sequence and position alone: not on how the sequence
// was cut, what shared the batch, the workers, the tier or where its blocks lie.
TEST_P(AttentionTest, BytesDoNotDependOnTheCompany) {
  const Shape s = GetParam();
  const int64_t length = 4 * s.block_tokens + 3;
  for (const Numbers& numbers : kNumbers) {
    Sequence sequence(s, length, 11), other(s, length + 16, 12);
    std::vector<float> first;
    for (IsaTier tier : RunnableTiers()) {
      for (int workers : {1, 2, 3}) {
        if (tier == IsaTier::kScalar && workers == 2) continue;  // slow: 1 and 3 must do
        ThreadPool pool(Workers(workers));
        Stream stream(pool, numbers.mode, tier);
        Random random(static_cast<uint64_t>(workers * 10));
        for (int64_t chunk : {int64_t{1}, int64_t{7}, int64_t{64}, length}) {
          Arena arena(s, numbers.type, 64);
          Place(sequence.table, arena.blocks, random);
          const std::vector<float> got = RunChunked(s, arena, sequence, chunk, stream);
          if (first.empty()) first = got;
          ASSERT_TRUE(SameBytes(got, first))
              << numbers << IsaTierName(tier) << " workers " << workers << " chunk " << chunk;
        }
        // Beside another sequence, half of it as one chunk and the rest as two rows of one batch.
        Arena arena(s, numbers.type, 64);
        std::vector<uint32_t> both(sequence.table.size() + other.table.size());
        Place(both, arena.blocks, random);
        std::copy_n(both.begin(), sequence.table.size(), sequence.table.begin());
        std::copy_n(both.rbegin(), other.table.size(), other.table.begin());
        const int64_t half = length / 2;
        std::vector<float> got = RunBatch(s, arena, {{&sequence, 0, half}, {&other, 0, 9}}, stream);
        const int64_t width = s.heads * s.head_dim;
        got.resize(static_cast<size_t>(half * width));
        const std::vector<float> rest = RunBatch(
            s, arena,
            {{&other, 9, 1}, {&sequence, half, 2}, {&sequence, half + 2, length - half - 2}},
            stream);
        got.insert(got.end(), rest.begin() + width, rest.end());
        ASSERT_TRUE(SameBytes(got, first)) << IsaTierName(tier) << " workers " << workers;
      }
    }
  }
}

// Long enough for several splits of 256 positions. One token alone takes the path that shares
// splits out among workers, a long chunk the one that does not.
TEST(AttentionSplits, AreJoinedInTheSameOrderWhoeverComputesThem) {
  for (int32_t window : {0, 300}) {
    const Shape s = {9, 3, 64, 32, window};
    const int64_t length = 1100;
    Sequence sequence(s, length, 21);
    const int64_t width = s.heads * s.head_dim;
    std::vector<float> first;
    for (IsaTier tier : RunnableTiers()) {
      if (tier == IsaTier::kScalar) continue;  // slow; its bytes are compared on shorter sequences
      for (int workers : {1, 2, 3}) {
        ThreadPool pool(Workers(workers));
        Stream stream(pool, ComputeMode::kFast, tier);
        Arena arena(s, KvType::kBF16, 64);
        Random random(static_cast<uint64_t>(workers));
        Place(sequence.table, arena.blocks, random);
        const std::vector<float> whole = RunBatch(s, arena, {{&sequence, 0, length}}, stream);
        if (first.empty()) first = whole;
        ASSERT_TRUE(SameBytes(whole, first)) << IsaTierName(tier) << " workers " << workers;
        for (int64_t t : {int64_t{255}, int64_t{256}, int64_t{700}, length - 1}) {
          const std::vector<float> one = RunBatch(s, arena, {{&sequence, t, 1}}, stream);
          ASSERT_EQ(0,
                    std::memcmp(one.data(), first.data() + t * width, one.size() * sizeof(float)))
              << IsaTierName(tier) << " workers " << workers << " token " << t << " window "
              << window;
        }
      }
    }
  }
}

// 32,768 positions, the last token and one in the middle of a block, against the slow twin.
TEST(AttentionLongContext, AgreesWithTheSlowTwin) {
  const Shape s = {6, 2, 64, 32};
  constexpr int64_t kLength = 32768;
  Sequence sequence(s, kLength, 51);
  // A few keys that a query finds among the many: else all weights are equal and hide an error.
  for (int64_t p : {int64_t{3}, int64_t{16384}, int64_t{32700}}) {
    for (int64_t i = 0; i < 64; ++i) {
      sequence.k[static_cast<size_t>(p * 128 + i)] =
          1.5f * (sequence.q[static_cast<size_t>((kLength - 1) * 384 + i)] > 0 ? 1.0f : -1.0f);
    }
  }
  std::iota(sequence.table.begin(), sequence.table.end(), 1u);
  std::reverse(sequence.table.begin(), sequence.table.end());
  ThreadPool pool(Workers(2));
  for (const Numbers& numbers : kNumbers) {
    Stream stream(pool, numbers.mode);
    Arena arena(s, numbers.type, 1025);
    WriteKeys(s, arena, sequence, stream);
    const std::vector<float> k = Through(numbers.type, sequence.k, s.head_dim);
    const std::vector<float> v = Through(numbers.type, sequence.v, s.head_dim);
    for (int64_t t : {kLength - 1, int64_t{20011}}) {
      const std::vector<float> got = RunBatch(s, arena, {{&sequence, t, 1}}, stream);
      std::vector<float> q(sequence.q.begin() + t * 384, sequence.q.begin() + (t + 1) * 384);
      ref::AttendArgs args = Question(s, numbers, q, k, v);
      args.last = t;
      const ref::Values want = ref::Attend(args);
      for (size_t i = 0; i < want.value.size(); ++i) {
        ASSERT_NEAR(got[i], want.value[i], Tolerance(s, numbers, t + 1, want.magnitude[i]))
            << numbers << " token " << t << " element " << i;
      }
    }
  }
}

// Positions before first_needed do not count, and blocks wholly before it may be null.
TEST_P(AttentionTest, SeesNothingBeforeFirstNeeded) {
  const Shape s = GetParam();
  const int64_t length = 5 * s.block_tokens + 2, window = 2 * s.block_tokens + 1;
  ThreadPool pool(Workers(2));
  for (IsaTier tier : RunnableTiers()) {
    Stream stream(pool, ComputeMode::kExact, tier);
    Sequence sequence(s, length, 31);
    Arena arena(s, KvType::kF32, 16);
    Random random(3);
    Place(sequence.table, arena.blocks, random);
    RunBatch(s, arena, {{&sequence, 0, length - 1}}, stream);
    const int64_t last = length - 1, first_needed = length - window;
    for (int64_t b = 0; (b + 1) * s.block_tokens <= first_needed; ++b) {
      sequence.table[static_cast<size_t>(b)] = 0;
    }
    const std::vector<float> got = RunBatch(s, arena, {{&sequence, last, 1, first_needed}}, stream);
    ref::AttendArgs args;
    args.q = std::span<const float>(sequence.q)
                 .subspan(static_cast<size_t>(last * s.heads * s.head_dim));
    args.k = sequence.k;
    args.v = sequence.v;
    args.heads = s.heads;
    args.kv_heads = s.kv_heads;
    args.head_dim = s.head_dim;
    args.first = std::max(first_needed, s.FirstSeen(last));
    args.soft_cap = s.soft_cap;
    args.last = last;
    args.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
    const ref::Values want = ref::Attend(args);
    for (size_t i = 0; i < want.value.size(); ++i) {
      ASSERT_NEAR(got[i], want.value[i], Tolerance(s, window, want.magnitude[i]))
          << IsaTierName(tier) << " element " << i;
    }
  }
}

// Blocks wholly before the window of a row's first token may be null too.
TEST(AttentionWindow, NeedsNoBlocksBeforeIt) {
  const Shape s = {6, 2, 80, 16, 20};
  ThreadPool pool(Workers(2));
  Stream stream(pool, ComputeMode::kExact);
  Sequence sequence(s, 100, 41);
  Arena arena(s, KvType::kF32, 16);
  sequence.table = {1, 2, 3, 4, 5, 6, 7};
  const std::vector<float> whole = RunBatch(s, arena, {{&sequence, 0, 100}}, stream);
  std::fill_n(sequence.table.begin(), 3, 0);  // token 70 sees 51 .. 70
  const std::vector<float> rest = RunBatch(s, arena, {{&sequence, 70, 30}}, stream);
  EXPECT_TRUE(SameBytes(rest, {whole.end() - 30 * 6 * 80, whole.end()}));
}

// One sequence's NaN reaches its own rows from there on and no other's.
TEST(AttentionNan, StaysInItsSequence) {
  const Shape s = {9, 3, 64, 32};
  ThreadPool pool(Workers(2));
  for (const Numbers& numbers : kNumbers) {
    for (IsaTier tier : RunnableTiers()) {
      Stream stream(pool, numbers.mode, tier);
      Sequence sick(s, 40, 1), well(s, 40, 2);
      sick.k[static_cast<size_t>(20 * s.kv_heads * s.head_dim)] = NAN;  // KV head 0, position 20
      Arena arena(s, numbers.type, 16);
      sick.table = {1, 3};
      well.table = {2, 4};
      const std::vector<float> got = RunBatch(s, arena, {{&sick, 0, 40}, {&well, 0, 40}}, stream);
      const int64_t width = s.heads * s.head_dim;
      for (int64_t t = 0; t < 80; ++t) {
        for (int64_t i = 0; i < width; ++i) {
          const bool sees_it = t >= 20 && t < 40 && i < 3 * s.head_dim;
          ASSERT_EQ(std::isnan(got[static_cast<size_t>(t * width + i)]), sees_it)
              << numbers << IsaTierName(tier) << " token " << t << " element " << i;
        }
      }
    }
  }
}

// The instruction for products of bf16 takes subnormals for zeros; so must the tiers without it.
TEST(AttentionSubnormals, AreZerosInEveryTierOfBf16) {
  const Shape s = {6, 2, 64, 32};
  ThreadPool pool(Workers(1));
  std::vector<float> first;
  for (IsaTier tier : RunnableTiers()) {
    Stream stream(pool, ComputeMode::kFast, tier);
    Sequence sequence(s, 75, 8);
    Random random(4);
    for (std::vector<float>* numbers : {&sequence.q, &sequence.k, &sequence.v}) {
      for (float& x : *numbers) x = std::ldexp(x, static_cast<int>(-random.Below(150)));
    }
    Arena arena(s, KvType::kBF16, 8);
    sequence.table = {3, 1, 2};
    const std::vector<float> got = RunBatch(s, arena, {{&sequence, 0, 75}}, stream);
    if (first.empty()) first = got;
    ASSERT_TRUE(SameBytes(got, first)) << IsaTierName(tier);
  }
  for (float x : first) ASSERT_TRUE(x == 0 || std::abs(x) >= 0x1p-126f);
  EXPECT_GT(std::count_if(first.begin(), first.end(), [](float x) { return x != 0; }), 0);
  // The mode is the item's alone.
  volatile float tiny = 0x1p-126f;
  EXPECT_NE(tiny * 0.5f, 0.0f);
}

// 127 steps to each side: no element is off by more than half a step, so scores and values are off
// by at most half a step of the largest element each; an outlier costs its own token alone.
TEST(AttentionInt8, ErrorIsBoundedByTheSteps) {
  const Shape s = {2, 1, 64, 32};
  ThreadPool pool(Workers(2));
  Stream stream(pool, ComputeMode::kExact);
  Sequence sequence(s, 90, 7);
  for (float& q : sequence.q) q = 0;  // all weights are equal: the mean of the values
  sequence.v[5 * 64 + 3] = 1000.0f;
  Arena plain(s, KvType::kF32, 8), packed(s, KvType::kInt8, 8);
  EXPECT_LT(packed.layout.BlockBytes() * 3, plain.layout.BlockBytes());
  sequence.table = {3, 1, 2};
  const std::vector<float> want = RunBatch(s, plain, {{&sequence, 0, 90}}, stream);
  const std::vector<float> got = RunBatch(s, packed, {{&sequence, 0, 90}}, stream);
  for (size_t t = 0; t < 90; ++t) {
    const double outlier = t >= 5 ? 1000.0 : 0.0;
    const double bound = 0.5 / 127 * (1.0 + outlier / static_cast<double>(t + 1)) + 1e-5;
    for (size_t i = 0; i < 128; ++i) ASSERT_NEAR(got[t * 128 + i], want[t * 128 + i], bound) << t;
  }
  // Zeros stay zeros, and what is too small to scale counts as zero.
  for (float& v : sequence.v) v = 1e-40f;
  for (float x : RunBatch(s, packed, {{&sequence, 0, 90}}, stream)) ASSERT_EQ(x, 0.0f);
}

TEST(AttentionArguments, BadOnesAreRefused) {
  const Shape s = {4, 2, 16, 4};
  ThreadPool pool(Workers(1));
  Stream stream(pool, ComputeMode::kExact);
  Arena arena(s, KvType::kF32, 4);
  const std::vector<uint32_t> table = {1, 2};
  std::vector<float> q(8 * 64), kv(8 * 32), out(8 * 64);
  AttentionRow row;
  row.token_count = 5;
  row.table = table.data();
  AttentionArgs good;
  good.q = q.data();
  good.k = good.v = kv.data();
  good.out = out.data();
  good.tokens = 5;
  good.heads = 4;
  good.scale = 1;
  good.layout = &arena.layout;
  good.arena = arena.data();
  good.rows = std::span<const AttentionRow>(&row, 1);
  EXPECT_TRUE(Attention(good, stream).ok());

  using Change = void (*)(AttentionArgs&, AttentionRow&);
  const Change changes[] = {
      [](AttentionArgs& a, AttentionRow&) { a.layer = 2; },
      [](AttentionArgs& a, AttentionRow&) { a.layer = -1; },
      [](AttentionArgs& a, AttentionRow&) { a.window = -1; },
      [](AttentionArgs& a, AttentionRow&) { a.soft_cap = -1; },
      [](AttentionArgs& a, AttentionRow&) { a.soft_cap = NAN; },
      [](AttentionArgs& a, AttentionRow&) { a.heads = 3; },
      [](AttentionArgs& a, AttentionRow&) { a.heads = 0; },
      [](AttentionArgs& a, AttentionRow&) { a.layout = nullptr; },
      [](AttentionArgs& a, AttentionRow&) { a.arena = nullptr; },
      [](AttentionArgs& a, AttentionRow&) { a.k = nullptr; },
      [](AttentionArgs& a, AttentionRow&) { a.tokens = 4; },
      [](AttentionArgs&, AttentionRow& r) { r.token_begin = 1; },
      [](AttentionArgs&, AttentionRow& r) { r.token_begin = -1; },
      [](AttentionArgs&, AttentionRow& r) { r.token_count = 0; },
      [](AttentionArgs&, AttentionRow& r) { r.position = -1; },
      [](AttentionArgs&, AttentionRow& r) { r.position = INT32_MAX; },
      [](AttentionArgs&, AttentionRow& r) { r.first_needed = 1; },
      [](AttentionArgs&, AttentionRow& r) { r.table = nullptr; },
      [](AttentionArgs&, AttentionRow& r) {
        static const uint32_t with_null[] = {1, 0};
        r.table = with_null;
      },
      [](AttentionArgs&, AttentionRow& r) {
        static const uint32_t beyond[] = {1, 4};
        r.table = beyond;
      },
      [](AttentionArgs& a, AttentionRow&) {
        static KvLayout none = *a.layout;
        none.blocks = 0;
        a.layout = &none;
      },
  };
  for (size_t i = 0; i < std::size(changes); ++i) {
    AttentionRow changed = row;
    AttentionArgs bad = good;
    bad.rows = std::span<const AttentionRow>(&changed, 1);
    changes[i](bad, changed);
    EXPECT_EQ(Attention(bad, stream).code(), absl::StatusCode::kInvalidArgument) << "change " << i;
  }
}

TEST(KvLayout, CopyBlockCopiesEveryLayer) {
  const Shape s = {4, 2, 16, 4};
  ThreadPool pool(Workers(1));
  Stream stream(pool, ComputeMode::kExact);
  Arena arena(s, KvType::kBF16, 4);
  EXPECT_EQ(arena.layout.LayerBlockBytes() % 64, 0u);
  EXPECT_EQ(arena.layout.BlockBytes(), 2 * arena.layout.LayerBlockBytes());
  const size_t bytes = arena.layout.LayerBlockBytes();
  const auto block = [&](size_t layer, size_t id) {
    return arena.data() + (layer * arena.blocks + id) * bytes;
  };
  for (size_t layer : {0, 1}) std::memset(block(layer, 1), 7 + static_cast<int>(layer), bytes);
  ASSERT_TRUE(CopyBlock({&arena.layout, arena.data(), 1, 3}, stream).ok());
  for (size_t layer : {0, 1}) {
    EXPECT_EQ(0, std::memcmp(block(layer, 1), block(layer, 3), bytes)) << layer;
    EXPECT_EQ(*block(layer, 3), static_cast<std::byte>(7 + layer));
    EXPECT_EQ(*block(layer, 2), std::byte{0xff});
  }
  EXPECT_FALSE(CopyBlock({nullptr, arena.data(), 1, 3}, stream).ok());
  EXPECT_FALSE(CopyBlock({&arena.layout, arena.data(), 4, 3}, stream).ok());
  EXPECT_FALSE(CopyBlock({&arena.layout, arena.data(), 1, 4}, stream).ok());
}

// QZ-05: block ids whose offsets do not fit 32 bits, in memory that is mostly not there.
TEST(AttentionOffsets, BlocksBeyond4GiB) {
  const Shape s = {4, 2, 64, 64};
  constexpr uint32_t kFar = 70'000;  // times 64 KiB a block
  ThreadPool pool(Workers(1));
  Stream stream(pool, ComputeMode::kFast);
  Arena near(s, KvType::kF32, 8);
  KvLayout wide = near.layout;
  wide.blocks = kFar + 8;
  const size_t block = near.layout.LayerBlockBytes();
  ASSERT_GT(block * kFar, size_t{1} << 32);
  const size_t layer = block * static_cast<size_t>(wide.blocks);  // where layer 1 begins
  const size_t bytes = 2 * layer;
  void* const far = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(far, MAP_FAILED);
  Sequence sequence(s, 300, 3);
  const auto run = [&](uint32_t first, const KvLayout& layout, std::byte* memory) {
    std::iota(sequence.table.begin(), sequence.table.end(), first);
    AttentionRow row;
    row.token_count = 300;
    row.table = sequence.table.data();
    std::vector<float> out(sequence.q.size(), NAN);
    AttentionArgs args;
    args.q = sequence.q.data();
    args.k = sequence.k.data();
    args.v = sequence.v.data();
    args.out = out.data();
    args.tokens = 300;
    args.heads = s.heads;
    args.scale = 0.125f;
    args.layout = &layout;
    args.layer = 1;
    args.arena = memory;
    args.rows = std::span<const AttentionRow>(&row, 1);
    EXPECT_TRUE(Attention(args, stream).ok());
    return out;
  };
  auto* const memory = static_cast<std::byte*>(far);
  EXPECT_EQ(run(1, near.layout, near.data()), run(kFar, wide, memory));
  ASSERT_TRUE(CopyBlock({&wide, memory, kFar, kFar + 7}, stream).ok());
  const std::byte* source = memory + layer + block * kFar;
  EXPECT_EQ(0, std::memcmp(source, memory + layer + block * (kFar + 7), block));
  EXPECT_EQ(0, std::memcmp(source, near.data() + block * (8 + 1), block));
  munmap(far, bytes);
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTest, ::testing::ValuesIn(kShapes));

// Any rows of up to so many tokens that end where the bounds say.
TEST(AttentionScratch, IsWithinItsBound) {
  const Shape shapes[] = {{4, 2, 16, 16}, {3, 3, 8, 32}, {16, 1, 16, 64}, {40, 2, 8, 16}};
  constexpr int64_t kPositions = 1400;
  Random random(5);
  for (const Shape& s : shapes) {
    Sequence sequence(s, kPositions, 7);
    std::iota(sequence.table.begin(), sequence.table.end(), 1u);
    Arena arena(s, KvType::kF32, static_cast<uint32_t>(sequence.table.size()) + 1);
    for (int workers : {1, 2, 5}) {
      ThreadPool pool(Workers(workers));
      size_t largest_share = 0;
      for (int64_t tokens : {1, 2, 3, 9, 70}) {
        AttentionBounds bounds;
        bounds.tokens = tokens;
        bounds.heads = s.heads;
        bounds.positions = kPositions;
        bounds.layout = arena.layout;
        for (int i = 0; i < 8; ++i) {
          std::vector<RowSpec> rows;
          for (int64_t left = 1 + (i == 0 ? tokens - 1 : random.Below(tokens)); left > 0;) {
            const int64_t count = i < 2 ? 1 : 1 + random.Below(left);
            // The first go as far as there are positions.
            const int64_t begin = i < 2 ? kPositions - count : random.Below(kPositions - count + 1);
            rows.push_back({&sequence, begin, count});
            left -= count;
          }
          Stream stream(pool, ComputeMode::kFast);
          RunBatch(s, arena, rows, stream);
          const size_t bound = AttentionScratchBytes(bounds, stream.shape());
          ASSERT_GT(stream.scratch_bytes(), 0u);
          ASSERT_LE(stream.scratch_bytes(), bound) << tokens << " tokens, " << workers;
          largest_share = std::max(largest_share, 100 * stream.scratch_bytes() / bound);
        }
      }
      EXPECT_GT(largest_share, 30u) << "a bound that is far away";
    }
  }
}

// ---- On tiles (attention_tiled_body.h): other sums than the other tiers', the same on AMX and its
// emulation. Memory that was never written holds NaNs here too.

class AttentionOnTiles : public ::testing::TestWithParam<std::tuple<Shape, KvType>> {};

TEST_P(AttentionOnTiles, AgreesWithTheSlowTwinAndAmxWithItsEmulation) {
  const auto& [s, type] = GetParam();
  const Numbers numbers = {type, ComputeMode::kFast};
  const int64_t width = s.heads * s.head_dim, length = 547;
  ThreadPool pool(Workers(2));
  const Sequence sequence(s, length, 5);
  const std::vector<float> k = Through(numbers.type, sequence.k, s.head_dim);
  const std::vector<float> v = Through(numbers.type, sequence.v, s.head_dim);
  // A prompt in chunks, the last of which begins within a block and ends the sequence; and its last
  // token alone, whose splits are computed apart.
  const auto run = [&](IsaTier tier) {
    Stream stream(pool, numbers.mode, tier);
    Sequence placed = sequence;
    Arena arena(s, numbers.type, 48);
    Random random(3);
    Place(placed.table, arena.blocks, random);
    std::vector<float> out = RunChunked(s, arena, placed, 261, stream, s.window);
    const int64_t first = s.window > 0 ? std::max<int64_t>(0, length - s.window) : 0;
    const std::vector<float> one = RunBatch(s, arena, {{&placed, length - 1, 1, first}}, stream);
    out.insert(out.end(), one.begin(), one.end());
    return out;
  };
  const std::vector<float> plain = run(DetectIsaTier());
  std::vector<float> first;
  for (IsaTier tier : testing::TiledTiers()) {
    const std::vector<float> got = run(tier);
    EXPECT_FALSE(SameBytes(got, plain)) << "nothing ran on tiles";
    if (first.empty()) first = got;
    ASSERT_TRUE(SameBytes(got, first)) << IsaTierName(tier);
    for (int64_t i = 0; i <= length; i += i % 7 == 0 && i + 7 < length ? 7 : 1) {
      const int64_t t = std::min(i, length - 1);  // the last one alone comes at the end
      std::vector<float> q(sequence.q.begin() + t * width, sequence.q.begin() + (t + 1) * width);
      ref::AttendArgs args = Question(s, numbers, q, k, v);
      args.first = s.FirstSeen(t);
      args.last = t;
      const ref::Values want = ref::Attend(args);
      for (size_t e = 0; e < want.value.size(); ++e) {
        ASSERT_NEAR(got[static_cast<size_t>(i * width) + e], want.value[e],
                    Tolerance(s, numbers, t + 1, want.magnitude[e]))
            << IsaTierName(tier) << " token " << i << " element " << e;
      }
    }
  }
}

constexpr Shape kTiledShapes[] = {
    {9, 3, 64, 32},           {8, 2, 128, 16},         {16, 1, 64, 32},    {4, 4, 64, 16},
    {6, 2, 96, 32},           {4, 1, 32, 48},          {9, 3, 64, 16, 33}, {20, 1, 64, 32, 300},
    {3, 1, 96, 32, 40, 0.7f}, {6, 2, 64, 32, 0, 0.5f}, {14, 2, 64, 32},    {8, 1, 96, 16, 50}};
INSTANTIATE_TEST_SUITE_P(Shapes, AttentionOnTiles,
                         ::testing::Combine(::testing::ValuesIn(kTiledShapes),
                                            ::testing::Values(KvType::kBF16, KvType::kInt8)));

}  // namespace
}  // namespace millrace::kernels
