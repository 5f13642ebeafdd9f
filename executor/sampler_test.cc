#include "executor/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "executor/random.h"

namespace millrace::executor {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> RandomLogits(size_t count, uint64_t seed, float spread = 3.0f) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> out(count);
  for (float& x : out) x = normal(random);
  return out;
}

Sample Draw(Sampler& sampler, const std::vector<float>& logits, const SamplingParams& params,
            int32_t index = 0) {
  SampleArgs args;
  args.logits = logits.data();
  args.params = &params;
  args.sample_index = index;
  return sampler.Draw(args);
}

// The distribution that the parameters define, computed plainly: sort, cut, renormalize, in double.
std::map<TokenId, double> Expected(const std::vector<float>& logits, const SamplingParams& p) {
  const double peak = *std::max_element(logits.begin(), logits.end());
  std::vector<std::pair<double, TokenId>> order;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double weight =
        std::exp((static_cast<double>(logits[i]) - peak) / static_cast<double>(p.temperature));
    order.push_back({weight, static_cast<TokenId>(i)});
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  while (order.back().first < static_cast<double>(p.min_p)) order.pop_back();
  if (p.top_k > 0 && order.size() > static_cast<size_t>(p.top_k)) {
    order.resize(static_cast<size_t>(p.top_k));
  }
  double total = 0;
  for (const auto& item : order) total += item.first;
  if (p.top_p < 1) {
    double sum = 0;
    size_t keep = 0;
    while (keep < order.size() && sum < static_cast<double>(p.top_p) * total) {
      sum += order[keep++].first;
    }
    order.resize(keep);
    total = sum;
  }
  std::map<TokenId, double> out;
  for (const auto& item : order) out[item.second] = item.first / total;
  return out;
}

// The paper's known answers (the kat_vectors of Random123).
TEST(Random, PhiloxKnownAnswers) {
  using A4 = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox({0, 0, 0, 0}, {0, 0}), (A4{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t f = 0xffffffff;
  EXPECT_EQ(Philox({f, f, f, f}, {f, f}), (A4{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (A4{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, UniformDependsOnEachCounter) {
  std::set<double> seen;
  double sum = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    for (int choice = 0; choice < 5; ++choice) {
      for (int index = 0; index < 100; ++index) {
        const double u = SampleUniform(seed << 31, choice, index);
        EXPECT_GE(u, 0.0);
        EXPECT_LT(u, 1.0);
        seen.insert(u);
        sum += u;
      }
    }
  }
  EXPECT_EQ(seen.size(), 10000u);
  EXPECT_NEAR(sum / 10000, 0.5, 0.012);  // four standard errors of 1/sqrt(12 n)
}

TEST(Sampler, GreedyTakesTheLowestOfEquals) {
  for (size_t vocab : {1u, 15u, 16u, 17u, 300u, 1000u}) {
    Sampler sampler(static_cast<int64_t>(vocab));
    SamplingParams greedy;
    greedy.temperature = 0;
    std::vector<float> logits = RandomLogits(vocab, vocab);
    for (size_t low = 0; low < vocab; low += vocab / 7 + 1) {
      std::vector<float> tied = logits;
      tied[low] = 50;
      tied[vocab - 1] = 50;
      EXPECT_EQ(Draw(sampler, tied, greedy).token, static_cast<TokenId>(low));
    }
    std::vector<float> negative(vocab, -7.0f);
    EXPECT_EQ(Draw(sampler, negative, greedy).token, 0);
  }
}

TEST(Sampler, NonFiniteLogitsFail) {
  for (float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    for (size_t at : {0u, 100u, 256u}) {
      Sampler sampler(257);
      std::vector<float> logits = RandomLogits(257, 1);
      logits[at] = bad;
      EXPECT_EQ(Draw(sampler, logits, {}).token, -1);
    }
  }
}

// Draws follow the distribution of each filter, and never leave its support.
TEST(Sampler, DistributionOfEveryFilter) {
  constexpr int kDraws = 20000;
  std::vector<SamplingParams> cases(9);
  cases[1].temperature = 0.5f;
  cases[2].temperature = 1.7f;
  cases[3].top_k = 5;
  cases[4].top_p = 0.7f;
  cases[5].min_p = 0.1f;
  cases[6].top_k = 20, cases[6].top_p = 0.9f, cases[6].temperature = 0.8f;
  cases[7].top_p = 0.3f, cases[7].min_p = 0.02f, cases[7].top_k = 300;
  cases[8].top_k = 1;
  for (size_t vocab : {40u, 777u}) {
    Sampler sampler(static_cast<int64_t>(vocab));
    std::vector<float> logits = RandomLogits(vocab, 5, 2.0f);
    logits[3] = logits[7] = logits[11] = *std::max_element(logits.begin(), logits.end());
    for (size_t c = 0; c < cases.size(); ++c) {
      SamplingParams params = cases[c];
      params.seed = 1234 + c;
      const std::map<TokenId, double> expected = Expected(logits, params);
      std::map<TokenId, int> counts;
      for (int i = 0; i < kDraws; ++i) ++counts[Draw(sampler, logits, params, i).token];
      double chi2 = 0;
      int cells = 0;
      for (const auto& [token, count] : counts) {
        ASSERT_TRUE(expected.contains(token)) << "case " << c << " drew " << token;
      }
      for (const auto& [token, probability] : expected) {
        const double mean = probability * kDraws;
        if (mean < 5) continue;
        chi2 += (counts[token] - mean) * (counts[token] - mean) / mean;
        ++cells;
      }
      // Mean and variance of chi-squared are n and 2n: six standard deviations, with a fixed seed.
      EXPECT_LE(chi2, cells + 6 * std::sqrt(2.0 * cells) + 6) << "vocab " << vocab << " case " << c;
    }
  }
}

// Each draw against the twin that sorts the vocabulary: the token whose share of the kept weight
// holds the draw's number, tokens in the order of their ids. Ties, and sizes about a block.
TEST(Sampler, DrawsAreThoseOfTheTwinThatSorts) {
  std::vector<SamplingParams> cases(8);
  cases[1].top_k = 1;
  cases[2].top_k = 40;
  cases[3].top_p = 0.9f;
  cases[4].top_p = 0.2f, cases[4].temperature = 0.3f;
  cases[5].min_p = 0.05f;
  cases[6].top_k = 50, cases[6].top_p = 0.95f, cases[6].min_p = 0.01f;
  cases[7].top_p = 0.999f, cases[7].temperature = 1.9f;
  int compared = 0, border = 0;
  for (kernels::IsaTier tier :
       {kernels::IsaTier::kScalar, kernels::IsaTier::kAvx2, kernels::IsaTier::kAvx512Vnni}) {
    if (tier > kernels::DetectIsaTier()) continue;
    for (size_t vocab : {2u, 17u, 255u, 256u, 257u, 1000u, 5003u}) {
      Sampler sampler(static_cast<int64_t>(vocab), tier);
      for (uint64_t row = 0; row < 12; ++row) {
        // Sharp and flat rows; each third with ties. Distinct weights differ by more than rounding.
        std::vector<float> logits = RandomLogits(vocab, row, row % 2 == 0 ? 4.0f : 0.7f);
        const float step = row % 3 == 0 ? 2.0f : 4096.0f;
        for (float& x : logits) x = std::nearbyint(x * step) / step;
        for (SamplingParams params : cases) {
          params.seed = 77 + row;
          const std::map<TokenId, double> kept = Expected(logits, params);
          const TokenId got = Draw(sampler, logits, params, 5).token;
          const double uniform = SampleUniform(params.seed, 0, 5);
          double sum = 0;
          for (const auto& [token, share] : kept) {
            if (token == got) break;
            sum += share;
          }
          ++compared;
          // On the border of top_p or min_p, rounding may keep one token more or less.
          const bool inside =
              kept.count(got) > 0 && uniform > sum - 1e-6 && uniform < sum + kept.at(got) + 1e-6;
          border += inside ? 0 : 1;
          if (params.top_p == 1.0f && params.min_p == 0.0f) {
            ASSERT_TRUE(inside) << vocab << " row " << row << " token " << got;
          }
        }
      }
    }
  }
  EXPECT_GE(compared, 600);
  EXPECT_LE(border, compared / 100);
}

TEST(Sampler, TopKAndTopPOnFlatLogitsKeepTheLowestIds) {
  Sampler sampler(1000);
  const std::vector<float> flat(1000, 1.5f);
  SamplingParams params;
  params.top_k = 10;
  std::set<TokenId> seen;
  for (int i = 0; i < 500; ++i) seen.insert(Draw(sampler, flat, params, i).token);
  EXPECT_EQ(seen.size(), 10u);
  EXPECT_EQ(*seen.rbegin(), 9);
  params.top_k = 0;
  params.top_p = 0.02f;
  seen.clear();
  for (int i = 0; i < 1000; ++i) seen.insert(Draw(sampler, flat, params, i).token);
  EXPECT_EQ(*seen.rbegin(), 19);
}

TEST(Sampler, TemperaturesAtTheEdge) {
  Sampler sampler(100);
  const std::vector<float> logits = RandomLogits(100, 2, 30.0f);
  const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
  SamplingParams params;
  params.temperature = 1e-4f;  // weights of all others underflow
  for (int i = 0; i < 50; ++i) EXPECT_EQ(Draw(sampler, logits, params, i).token, best);
  params.temperature = 2.0f;
  params.top_p = 1e-6f;
  EXPECT_EQ(Draw(sampler, logits, params).token, best);
}

TEST(Sampler, BiasBanAndMask) {
  Sampler sampler(100);
  const std::vector<float> logits(100, 0.0f);
  SamplingParams greedy;
  greedy.temperature = 0;
  greedy.logit_bias = {{42, 3.0f}, {17, 2.0f}};
  EXPECT_EQ(Draw(sampler, logits, greedy).token, 42);
  SampleArgs args;
  args.logits = logits.data();
  args.params = &greedy;
  const TokenId banned[] = {42};
  args.banned = banned;
  EXPECT_EQ(sampler.Draw(args).token, 17);
  std::vector<uint32_t> mask(4, 0);
  mask[2] = 1u << 6;  // token 70 alone
  args.mask = mask;
  EXPECT_EQ(sampler.Draw(args).token, 70);
  mask[2] = 0;
  EXPECT_EQ(sampler.Draw(args).token, -1);  // nothing is allowed
  greedy.temperature = 1;
  EXPECT_EQ(sampler.Draw(args).token, -1);
}

TEST(Sampler, PenaltiesCountPromptAndOutput) {
  PenaltyCounts counts;
  counts.Reset(std::vector<TokenId>{1, 1, 2, 3, 3, 2}, 3);  // prompt 1 1 2, output 3 3 2
  counts.AddOutput(4);
  SamplingParams params;
  params.repetition_penalty = 2.0f;
  params.presence_penalty = 0.5f;
  params.frequency_penalty = 0.25f;
  std::vector<float> logits = {1, 4, -4, 8, 1, 1};
  counts.Apply(params, logits.data());
  EXPECT_THAT(logits, ::testing::ElementsAre(1,                    // never seen
                                             2,                    // prompt only: 4 / 2
                                             -8 - 0.25f - 0.5f,    // once in the output
                                             4 - 0.5f - 0.5f,      // twice
                                             0.5f - 0.25f - 0.5f,  // added
                                             1));
  // What was counted step by step is what a new install with the history counts.
  PenaltyCounts again;
  again.Reset(std::vector<TokenId>{1, 1, 2, 3, 3, 2, 4}, 3);
  std::vector<float> same = {1, 4, -4, 8, 1, 1};
  again.Apply(params, same.data());
  EXPECT_EQ(same, logits);
}

TEST(Sampler, LogprobsAreOfTheRawRow) {
  const size_t vocab = 500;
  Sampler sampler(vocab);
  std::vector<float> logits = RandomLogits(vocab, 9);
  logits[10] = logits[20];
  double sum = 0;
  for (float x : logits) sum += std::exp(static_cast<double>(x));
  std::vector<TokenId> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  for (TokenId target : {order[0], order[1], order[250], TokenId{10}, TokenId{20}, order[499]}) {
    const TokenLogprobs score = sampler.Score(logits.data(), target, 20);
    EXPECT_NEAR(score.logprob, logits[static_cast<size_t>(target)] - std::log(sum), 2e-6);
    EXPECT_EQ(order[static_cast<size_t>(score.rank - 1)], target);
    ASSERT_EQ(score.top.size(), 20u);
    for (size_t i = 0; i < 20; ++i) EXPECT_EQ(score.top[i].token, order[i]);
  }
  SamplingParams params;
  params.temperature = 0;
  params.logprobs = 2;
  params.logit_bias = {{order[300], 100.0f}};  // forces a token; its raw logprob is reported
  const Sample sample = Draw(sampler, logits, params);
  EXPECT_EQ(sample.token, order[300]);
  EXPECT_EQ(sample.logprobs.rank, 301);
  EXPECT_EQ(sample.logprobs.top.size(), 2u);
  EXPECT_TRUE(sampler.Score(logits.data(), 0, 0).top.empty());
  EXPECT_EQ(sampler.Score(logits.data(), 0, 1000).top.size(), vocab);  // more than there are
}

TEST(Sampler, ADrawIsAFunctionOfItsArguments) {
  const std::vector<float> logits = RandomLogits(2000, 4, 1.0f);
  SamplingParams params;
  params.seed = 77;
  params.top_p = 0.95f;
  Sampler used(2000);
  for (int i = 0; i < 20; ++i) Draw(used, RandomLogits(2000, 100 + uint64_t(i)), params, i);
  for (int i = 0; i < 50; ++i) {
    Sampler fresh(2000);
    EXPECT_EQ(Draw(fresh, logits, params, i).token, Draw(used, logits, params, i).token);
  }
}

}  // namespace
}  // namespace millrace::executor
