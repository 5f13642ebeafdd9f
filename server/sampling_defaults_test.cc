// What generation_config.json recommends, from its numbers to what the engine is given.
#include "server/sampling_defaults.h"

#include <gtest/gtest.h>

#include "server/testing.h"

namespace millrace::server::testing {
namespace {

text::GenerationConfig Parse(const std::string& json) {
  absl::StatusOr<text::GenerationConfig> config = text::ParseGenerationConfig(json, "g.json");
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : text::GenerationConfig{};
}

SamplingDefaults From(const std::string& json) {
  absl::StatusOr<SamplingDefaults> defaults = SamplingDefaultsFrom(Parse(json), "g.json");
  EXPECT_TRUE(defaults.ok()) << defaults.status();
  return defaults.ok() ? *defaults : SamplingDefaults{};
}

// What the engine is given for a request, on a model with these defaults.
struct Given {
  SamplingParams sampling;
  StopParams stop;
};
Given Ask(const SamplingDefaults& defaults, const std::function<void(GenerationRequest&)>& change) {
  Bench bench(Says("x"), {}, defaults);
  GenerationRequest request = bench.Completion("hello", 4);
  request.stop.max_tokens.reset();
  change(request);
  auto generation = bench.Start(std::move(request));
  EXPECT_FALSE(bench.sink->error) << bench.sink->error->message;
  if (bench.engine.submitted().empty()) return {};
  const Request given = bench.engine.submitted()[0];
  return {given.sampling, given.stop};
}

void MakeChat(GenerationRequest& request) {
  request.kind = RequestKind::kChat;
  request.prompt.prompts.clear();
  request.prompt.messages = *Json::Parse(R"([{"role":"user","content":"a"}])");
}

TEST(SamplingDefaults, FilesThatRecommendNothingAreNeutral) {
  EXPECT_EQ(From(R"({"eos_token_id":[1,2],"bos_token_id":3,"transformers_version":"4.51.0"})"),
            SamplingDefaults{});
  EXPECT_EQ(From(R"({"temperature":null,"top_k":null})"), SamplingDefaults{});
}

TEST(SamplingDefaults, NumbersHoldWithAndWithoutDoSample) {
  for (const char* sample : {R"("do_sample":true,)", ""}) {
    const SamplingDefaults defaults =
        From(std::string("{") + sample +
             R"("temperature":0.6,"top_p":0.95,"top_k":20,"min_p":0.05,)"
             R"("repetition_penalty":1.05,"max_new_tokens":2048})");
    EXPECT_EQ(defaults.temperature, 0.6);
    EXPECT_EQ(defaults.top_p, 0.95);
    EXPECT_EQ(defaults.top_k, 20);
    EXPECT_EQ(defaults.min_p, 0.05);
    EXPECT_EQ(defaults.repetition_penalty, 1.05);
    EXPECT_EQ(defaults.chat_max_tokens, 2048);
    EXPECT_TRUE(defaults.from_model);
  }
}

TEST(SamplingDefaults, DoSampleAloneIsNeutral) {
  SamplingDefaults wanted;
  wanted.from_model = true;
  EXPECT_EQ(From(R"({"do_sample":true})"), wanted);  // not transformers' top_k of 50
}

TEST(SamplingDefaults, DoSampleFalseIsGreedyWithoutFilters) {
  SamplingDefaults wanted;
  wanted.temperature = 0;
  wanted.repetition_penalty = 1.1;
  wanted.from_model = true;
  EXPECT_EQ(From(R"({"do_sample":false,"temperature":0.6,"top_p":0.9,"top_k":20,"min_p":0.1,)"
                 R"("repetition_penalty":1.1})"),
            wanted);
}

TEST(SamplingDefaults, TopKOffHasTwoSpellings) {
  EXPECT_EQ(From(R"({"top_k":-1})").top_k, 0);
  EXPECT_EQ(From(R"({"top_k":0})").top_k, 0);
}

TEST(SamplingDefaults, WhatNoRequestMayHaveIsRefusedByName) {
  const std::pair<const char*, const char*> rows[] = {
      {R"({"temperature":2.5})", "'temperature' must be between 0 and 2, but is 2.5."},
      {R"({"repetition_penalty":3})", "'repetition_penalty' must be between"},
      {R"({"repetition_penalty":0})", "'repetition_penalty' must be between"}};
  for (const auto& row : rows) {
    const absl::Status status = SamplingDefaultsFrom(Parse(row.first), "g.json").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    const std::string message(status.message());
    EXPECT_EQ(message.find(std::string("g.json: ") + row.second), 0u) << message;
    EXPECT_NE(message.find("--generation-config none"), std::string::npos) << message;
  }
  // Greedy does not look at it.
  EXPECT_EQ(From(R"({"do_sample":false,"temperature":2.5})").temperature, 0);
}

TEST(SamplingDefaults, FillInWhatARequestLeavesOut) {
  const SamplingDefaults defaults =
      From(R"({"temperature":0.6,"top_p":0.95,"top_k":20,"min_p":0.05,"repetition_penalty":1.05})");
  const SamplingParams given = Ask(defaults, [](GenerationRequest&) {}).sampling;
  EXPECT_EQ(given.temperature, 0.6f);
  EXPECT_EQ(given.top_p, 0.95f);
  EXPECT_EQ(given.top_k, 20);
  EXPECT_EQ(given.min_p, 0.05f);
  EXPECT_EQ(given.repetition_penalty, 1.05f);
}

TEST(SamplingDefaults, WhatARequestGivesWinsEvenAtZero) {
  const SamplingDefaults defaults =
      From(R"({"temperature":0.6,"top_p":0.95,"top_k":20,"min_p":0.05,"repetition_penalty":1.05})");
  const SamplingParams given = Ask(defaults, [](GenerationRequest& request) {
                                 request.sampling.temperature = 0;
                                 request.sampling.top_p = 1;
                                 request.sampling.top_k = 0;
                                 request.sampling.min_p = 0;
                                 request.sampling.repetition_penalty = 1;
                               }).sampling;
  SamplingParams neutral;
  neutral.temperature = 0;
  neutral.seed = given.seed;
  EXPECT_EQ(given, neutral);
}

TEST(SamplingDefaults, WithoutAnyTheNeutralOnesHold) {
  const Given given = Ask({}, [](GenerationRequest&) {});
  SamplingParams neutral;
  neutral.seed = given.sampling.seed;
  EXPECT_EQ(given.sampling, neutral);
  EXPECT_EQ(given.stop.max_tokens, 16);
  EXPECT_GT(Ask({}, MakeChat).stop.max_tokens, 4000);  // what is left of 4,096
}

TEST(SamplingDefaults, ChatsGetMaxNewTokensWithinTheContext) {
  const SamplingDefaults defaults = From(R"({"max_new_tokens":100})");
  EXPECT_EQ(Ask(defaults, MakeChat).stop.max_tokens, 100);
  EXPECT_EQ(Ask(defaults, [](GenerationRequest&) {}).stop.max_tokens, 16);  // OpenAI's
  const auto with = [](std::optional<int64_t> most, int64_t least) {
    return [most, least](GenerationRequest& request) {
      MakeChat(request);
      request.stop.max_tokens = most;
      request.stop.min_tokens = least;
    };
  };
  EXPECT_EQ(Ask(defaults, with(7, 0)).stop.max_tokens, 7);
  EXPECT_EQ(Ask(defaults, with(200, 0)).stop.max_tokens, 200);  // a default, no limit
  EXPECT_EQ(Ask(defaults, with(std::nullopt, 150)).stop.max_tokens, 150);
  // More than the context is no reason to refuse: nobody asked for it.
  EXPECT_LT(Ask(From(R"({"max_new_tokens":100000})"), MakeChat).stop.max_tokens, 4096);
}

}  // namespace
}  // namespace millrace::server::testing
