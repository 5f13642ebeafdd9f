// The rules of a configuration, the rope scalings against their definitions, and what each family
// adds to what a file says.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>

#include "model/architectures.h"
#include "model/config.h"

namespace millrace::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelConfig Good() {
  ModelConfig config;
  config.architecture = "llama";
  config.vocab_size = 100;
  config.hidden = 64;
  config.layers = 6;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 16;
  config.feed_forward = 32;
  config.context_length = 512;
  config.norm_eps = 1e-5;
  config.rope.rotary_dim = 16;
  return config;
}

TEST(ModelConfig, EachRuleIsKept) {
  EXPECT_TRUE(ValidateConfig(Good()).ok());
  struct Row {
    const char* says;
    std::function<void(ModelConfig&)> change;
  };
  const Row rows[] = {
      {"the head count 3 is no multiple", [](ModelConfig& c) { c.heads = 3; }},
      {"norm epsilon", [](ModelConfig& c) { c.norm_eps = 0.2; }},
      {"frequency base", [](ModelConfig& c) { c.rope.freq_base = 0.5; }},
      {"must be even", [](ModelConfig& c) { c.rope.rotary_dim = 15; }},
      {"exceeds the head size", [](ModelConfig& c) { c.rope.rotary_dim = 18; }},
      {"rope factor", [](ModelConfig& c) { c.rope.factor = 0; }},
      {"attention factor", [](ModelConfig& c) { c.rope.attention_factor = -1; }},
      {"attention factor", [](ModelConfig& c) { c.rope.attention_factor = NAN; }},
      {"half the rotary size of them", [](ModelConfig& c) { c.rope.freq_factors = {1}; }},
      {"llama3 rope: the original context",
       [](ModelConfig& c) { c.rope.scaling = RopeScaling::kLlama3; }},
      {"yarn rope: beta_fast",
       [](ModelConfig& c) {
         c.rope.scaling = RopeScaling::kYarn;
         c.rope.original_context = 64;
         c.rope.beta_slow = 0;
       }},
      {"yarn rope: the frequency base",
       [](ModelConfig& c) {
         c.rope.scaling = RopeScaling::kYarn;
         c.rope.freq_base = 1;
       }},
      {"yarn rope: the original context",
       [](ModelConfig& c) { c.rope.scaling = RopeScaling::kYarn; }},
      {"yarn rope: mscale",
       [](ModelConfig& c) {
         c.rope.scaling = RopeScaling::kYarn;
         c.rope.mscale = INFINITY;
       }},
      {"longrope: short and long factors",
       [](ModelConfig& c) {
         c.rope.scaling = RopeScaling::kLongRope;
         c.rope.short_factors.assign(8, 1);
         c.rope.long_factors.assign(7, 1);
       }},
      {"longrope: the original context",
       [](ModelConfig& c) {
         c.rope.scaling = RopeScaling::kLongRope;
         c.rope.short_factors.assign(8, 1);
         c.rope.long_factors.assign(8, 2);
         c.rope.original_context = 1;
       }},
      {"exceeds the head size",
       [](ModelConfig& c) {
         c.local_rope.emplace();
         c.local_rope->rotary_dim = 32;
       }},
      {"window is out of range", [](ModelConfig& c) { c.window = -1; }},
      {"not one entry a layer",
       [](ModelConfig& c) {
         c.window = 8;
         c.local_layers = {1, 0};
       }},
      {"there is no window", [](ModelConfig& c) { c.local_layers = EveryNthGlobal(6, 2); }},
      {"soft caps", [](ModelConfig& c) { c.attention_cap = -1; }},
      {"soft caps", [](ModelConfig& c) { c.logit_cap = NAN; }},
      {"query scale", [](ModelConfig& c) { c.query_scale = INFINITY; }},
      {"embedding scale", [](ModelConfig& c) { c.embedding_scale = -2; }},
      {"norm offset", [](ModelConfig& c) { c.norm_offset = 0.5; }},
      {"end token",
       [](ModelConfig& c) {
         c.end_tokens = {5, 100};
       }},
  };
  for (const Row& row : rows) {
    ModelConfig config = Good();
    row.change(config);
    const absl::Status status = ValidateConfig(config);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << row.says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.says));
  }
}

TEST(ModelConfig, LayersFallIntoGroups) {
  ModelConfig config = Good();
  std::vector<LayerGroup> groups = LayerGroups(config);
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0].window, 0);
  EXPECT_EQ(groups[0].layers.size(), 6u);
  config.window = 8;  // without a list all are local
  groups = LayerGroups(config);
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0].window, 8);
  config.local_layers = EveryNthGlobal(6, 3);
  EXPECT_THAT(config.local_layers, ElementsAre(1, 1, 0, 1, 1, 0));
  groups = LayerGroups(config);
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_THAT(groups[0].layers, ElementsAre(2, 5));
  EXPECT_EQ(groups[0].window, 0);
  EXPECT_THAT(groups[1].layers, ElementsAre(0, 1, 3, 4));
  EXPECT_EQ(groups[1].window, 8);
}

// What Qwen2.5's card says of 131,072 tokens: factor 4 over 32,768.
TEST(Rope, YarnKeepsFastPairsAndDividesSlowOnes) {
  RopeConfig rope;
  rope.freq_base = 1e6, rope.rotary_dim = 128, rope.scaling = RopeScaling::kYarn;
  rope.factor = 4, rope.original_context = 32768;
  const std::vector<float> scaled = RopeInverseFrequencies(rope);
  RopeConfig none = rope;
  none.scaling = RopeScaling::kNone;
  const std::vector<float> plain = RopeInverseFrequencies(none);
  // 128 ln(32768 / (2 pi t)) / (2 ln 1e6): 23.6 at t = 32 turns, 39.7 at t = 1.
  for (size_t i = 0; i < 64; ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - 23) / (40 - 23), 0.0, 1.0);
    const double want = plain[i] * (1 - ramp) + plain[i] / 4 * ramp;
    EXPECT_NEAR(scaled[i], want, 1e-6 * want) << i;
  }
  EXPECT_EQ(scaled[23], plain[23]);
  EXPECT_EQ(scaled[40], plain[40] / 4);
  EXPECT_NEAR(RopeAttentionFactor(rope), 0.1 * std::log(4) + 1, 1e-6);
  rope.truncate = false;
  const double low = 64 * std::log(32768 / (2 * M_PI * 32)) / std::log(1e6);
  const double high = 64 * std::log(32768 / (2 * M_PI)) / std::log(1e6);
  const double ramp = (30 - low) / (high - low);
  EXPECT_NEAR(RopeInverseFrequencies(rope)[30], plain[30] * (1 - 0.75 * ramp), 1e-6 * plain[30]);
  rope.mscale = 0.707, rope.mscale_all_dim = 1.0;
  EXPECT_NEAR(RopeAttentionFactor(rope), (0.0707 * std::log(4) + 1) / (0.1 * std::log(4) + 1),
              1e-6);
  rope.attention_factor = 1.25;
  EXPECT_EQ(RopeAttentionFactor(rope), 1.25f);
}

TEST(Rope, LongRopeHasTwoLists) {
  RopeConfig rope;
  rope.rotary_dim = 8, rope.scaling = RopeScaling::kLongRope, rope.factor = 32;
  rope.original_context = 4096;
  rope.short_factors = {1, 1, 2, 2};
  rope.long_factors = {1, 4, 8, 16};
  for (int i = 0; i < 4; ++i) {
    const double plain = std::pow(10000.0, -i / 4.0);
    const auto at = static_cast<size_t>(i);
    EXPECT_NEAR(RopeInverseFrequencies(rope)[at], plain / rope.short_factors[at], 1e-6 * plain);
    EXPECT_NEAR(RopeInverseFrequencies(rope, true)[at], plain / rope.long_factors[at],
                1e-6 * plain);
  }
  EXPECT_NEAR(RopeAttentionFactor(rope), std::sqrt(1 + std::log(32) / std::log(4096)), 1e-6);
  rope.factor = 1;
  EXPECT_EQ(RopeAttentionFactor(rope), 1.0f);
}

TEST(Architectures, AddWhatOnlyTheyKnow) {
  const auto complete = [](const char* name, const std::function<void(ModelConfig&)>& change = {}) {
    ModelConfig config = Good();
    config.architecture = name;
    if (change) change(config);
    EXPECT_TRUE(FindArchitecture(name)->complete(&config).ok()) << name;
    EXPECT_TRUE(ValidateConfig(config).ok()) << name;
    return config;
  };
  EXPECT_FALSE(complete("llama").qkv_bias);
  EXPECT_TRUE(complete("qwen2").qkv_bias);
  EXPECT_TRUE(complete("qwen3").qk_norm);
  const auto windowed = [](ModelConfig& c) { c.window = 16; };
  EXPECT_TRUE(complete("mistral", windowed).IsLocal(3));
  const ModelConfig gemma2 = complete("gemma2", windowed);
  EXPECT_THAT(gemma2.local_layers, ElementsAre(1, 0, 1, 0, 1, 0));
  EXPECT_EQ(gemma2.embedding_scale, 8);
  EXPECT_TRUE(gemma2.post_norms);
  EXPECT_FALSE(gemma2.qk_norm);
  const ModelConfig gemma3 = complete("gemma3", windowed);
  EXPECT_THAT(gemma3.local_layers, ElementsAre(1, 1, 1, 1, 1, 0));
  ASSERT_TRUE(gemma3.local_rope.has_value());
  EXPECT_EQ(gemma3.local_rope->freq_base, 10000);
  EXPECT_TRUE(gemma3.qk_norm);
  EXPECT_TRUE(FindArchitecture("gemma3")->layer(gemma3, 0).local_rope);
  EXPECT_EQ(FindArchitecture("gemma3")->layer(gemma3, 0).window, 16);
  EXPECT_FALSE(FindArchitecture("gemma3")->layer(gemma3, 5).local_rope);
  EXPECT_EQ(FindArchitecture("gemma3")->layer(gemma3, 5).window, 0);
  // 27B: 4,608 wide, 32 heads: 1 / sqrt(144), with heads of 128.
  const ModelConfig large = complete("gemma2", [](ModelConfig& c) {
    c.layers = 46, c.hidden = 4608, c.heads = 32, c.kv_heads = 16, c.head_dim = 128;
  });
  EXPECT_NEAR(large.query_scale, 1.0 / 12, 1e-12);
  const ModelConfig phi = complete("phi3", [](ModelConfig& c) {
    c.rope.scaling = RopeScaling::kLongRope;
    c.rope.original_context = 64;
    c.rope.short_factors.assign(8, 1);
    c.rope.long_factors.assign(8, 1);
  });
  EXPECT_EQ(phi.rope.factor, 8);
  EXPECT_EQ(FindArchitecture("mamba"), nullptr);
}

}  // namespace
}  // namespace millrace::model
