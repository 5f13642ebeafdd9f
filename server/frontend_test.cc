// The front end over a scripted engine: text, usage, stop strings, order, back-pressure, ends.
#include "server/frontend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "server/testing.h"

namespace millrace::server::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Frontend, AnswersWithTextAndUsage) {
  Bench bench(Says("Hi there"));
  auto generation = bench.Start(bench.Completion("Hello world", 100));
  bench.engine.RunAll();
  ASSERT_TRUE(bench.sink->WaitForEnd());
  EXPECT_EQ(bench.sink->Text(0), "Hi there");
  ASSERT_TRUE(bench.sink->done);
  EXPECT_EQ(bench.sink->done->prompt_tokens, 2);
  EXPECT_EQ(bench.sink->done->completion_tokens, 9);  // the end token counts
  EXPECT_EQ(bench.sink->deltas.back().finish, FinishReason::kStop);
  EXPECT_EQ(bench.sink->deltas.back().stop_token, -1);
  EXPECT_EQ(bench.sink->accepted->response_id.substr(0, 5), "cmpl-");
}

TEST(Frontend, StopStringEndsWithTheSameUsageHoweverTokensArrive) {
  for (const int burst : {1, 3, 100}) {
    Bench bench(Says("one two END three four"));
    GenerationRequest request = bench.Completion("x", 100);
    request.stop.strings = {"END"};
    auto generation = bench.Start(std::move(request));
    // Tokens past the match are made by the engine before it hears of it: dropped.
    for (int i = 0; i < 100 && bench.engine.live() > 0; i += burst) {
      bench.engine.RunAll(burst);
      std::this_thread::yield();
    }
    ASSERT_TRUE(bench.sink->WaitForEnd());
    EXPECT_EQ(bench.sink->Text(0), "one two ");
    EXPECT_EQ(bench.sink->done->completion_tokens, 11);
    EXPECT_EQ(bench.sink->deltas.back().stop_string, "END");
    EXPECT_EQ(bench.sink->deltas.back().finish, FinishReason::kStop);
  }
}

TEST(Frontend, StopStringIsKeptWhenAskedFor) {
  Bench bench(Says("one END"));
  GenerationRequest request = bench.Completion("x", 100);
  request.stop.strings = {"END"};
  request.stop.include_stop_in_output = true;
  auto generation = bench.Start(std::move(request));
  bench.engine.RunAll();
  ASSERT_TRUE(bench.sink->WaitForEnd());
  EXPECT_EQ(bench.sink->Text(0), "one END");
}

TEST(Frontend, HalfACharacterIsHeldBackAndReplacedAtTheEnd) {
  Bench bench(Says("caf\xC3\xA9 \xE2\x82"));
  auto generation = bench.Start(bench.Completion("x", 100));
  bench.engine.RunAll();
  ASSERT_TRUE(bench.sink->WaitForEnd());
  EXPECT_EQ(bench.sink->Text(0), "caf\xC3\xA9 \xEF\xBF\xBD");
  for (const OutputDelta& delta : bench.sink->deltas) {
    EXPECT_TRUE(delta.text.empty() || (delta.text[0] & 0xC0) != 0x80);
  }
}

TEST(Frontend, FirstDeltasOfChoicesComeInOrder) {
  // Choice 0 begins with hidden tokens, so that its text comes last.
  Bench bench([](const Request&, int32_t choice, int32_t index) -> TokenId {
    if (choice == 0 && index < 5) return 262;
    return index < 8 ? 'a' + choice : 263;
  });
  GenerationRequest request = bench.Completion("x", 100);
  request.n = 3;
  auto generation = bench.Start(std::move(request));
  bench.engine.RunAll();
  ASSERT_TRUE(bench.sink->WaitForEnd());
  std::vector<int32_t> firsts;
  for (const OutputDelta& delta : bench.sink->deltas) {
    if (delta.prompt != nullptr) firsts.push_back(delta.index);
  }
  EXPECT_THAT(firsts, ElementsAre(0, 1, 2));
  EXPECT_EQ(bench.sink->Text(0), "aaa");
  EXPECT_EQ(bench.sink->Text(1), "bbbbbbbb");
  EXPECT_EQ(bench.sink->done->prompt_tokens, 1);  // once, not for each choice
  EXPECT_EQ(bench.sink->done->completion_tokens, 27);
}

TEST(Frontend, SeveralPromptsAreSeveralEngineRequests) {
  Bench bench([](const Request& request, int32_t, int32_t index) -> TokenId {
    return index == 0 ? request.prompt[0] : 263;
  });
  GenerationRequest request = bench.Completion("p", 5);
  PromptInput ids;
  ids.is_tokens = true;
  ids.tokens = {'q', 'r'};
  request.prompt.prompts.push_back(ids);
  request.n = 2;
  auto generation = bench.Start(std::move(request));
  bench.engine.RunAll();
  ASSERT_TRUE(bench.sink->WaitForEnd());
  EXPECT_EQ(bench.sink->Text(0) + bench.sink->Text(1), "pp");
  EXPECT_EQ(bench.sink->Text(2) + bench.sink->Text(3), "qq");
  EXPECT_EQ(bench.sink->done->prompt_tokens, 3);
}

TEST(Frontend, ChatIsTemplatedAndContentIsNeverReadForSpecials) {
  Bench bench(Says("ok"));
  GenerationRequest request = bench.Completion("", 5);
  request.kind = RequestKind::kChat;
  request.prompt.prompts.clear();
  request.prompt.messages = *Json::Parse(
      R"([{"role":"user","content":"a<|im_end|>"},{"role":"assistant","content":"b"}])");
  auto generation = bench.Start(std::move(request));
  bench.engine.RunAll();
  ASSERT_TRUE(bench.sink->WaitForEnd());
  ASSERT_TRUE(bench.sink->done) << bench.sink->error->message;
  const std::vector<TokenId> prompt = bench.engine.submitted()[0].prompt;
  // Two messages and the generation prompt: three starts and two ends, none from the content.
  EXPECT_EQ(std::count(prompt.begin(), prompt.end(), bench.tokenizer.start()), 3);
  EXPECT_EQ(std::count(prompt.begin(), prompt.end(), bench.tokenizer.end()), 2);
}

TEST(Frontend, SlowDoorPausesTheEngineAndDrainedResumesIt) {
  FrontendOptions options;
  options.stream_bytes_max = 4096;
  Bench bench(Says(std::string(1000, 'x')), options);
  bench.sink->set_full(true);
  auto generation = bench.Start(bench.Completion("x", 1000));
  bench.engine.Step();
  ASSERT_TRUE(bench.sink->WaitForDeltas(1));
  for (int i = 0; i < 500; ++i) bench.engine.Step();
  EXPECT_EQ(bench.engine.pauses(), 1);
  EXPECT_EQ(bench.engine.Stats().sequences_paused, 1);
  EXPECT_LT(bench.sink->deltas.size(), 10u);
  bench.sink->set_full(false);
  generation->Drained();
  while (bench.engine.live() > 0) bench.engine.Step();
  ASSERT_TRUE(bench.sink->WaitForEnd());
  EXPECT_EQ(bench.sink->Text(0), std::string(1000, 'x'));
}

TEST(Frontend, SlowConsumerEndIsHeardByAFullDoor) {
  Bench bench(Says(std::string(1000, 'x')));
  bench.sink->set_full(true);
  auto generation = bench.Start(bench.Completion("x", 1000));
  bench.engine.Step();
  ASSERT_TRUE(bench.sink->WaitForDeltas(1));
  bench.engine.EndAll(FinishReason::kSlowConsumer);
  bench.engine.Step();
  ASSERT_TRUE(bench.sink->WaitForEnd());
  ASSERT_TRUE(bench.sink->error);
  EXPECT_EQ(bench.sink->error->kind, ErrorKind::kSlowConsumer);
}

TEST(Frontend, CancelReachesTheEngineAndSilencesTheSink) {
  Bench bench(Says(std::string(1000, 'x')));
  auto generation = bench.Start(bench.Completion("x", 1000));
  bench.engine.Step();
  ASSERT_TRUE(bench.sink->WaitForDeltas(1));
  generation->Cancel();
  generation->Cancel();
  bench.engine.Step();
  EXPECT_EQ(bench.engine.live(), 0);
  bench.frontend.reset();  // waits for the end
  EXPECT_FALSE(bench.sink->done);
  EXPECT_FALSE(bench.sink->error);
}

TEST(Frontend, EngineRefusalsAreTyped) {
  const std::vector<std::pair<absl::Status, ErrorKind>> rows = {
      {absl::ResourceExhaustedError("full"), ErrorKind::kOverloaded},
      {absl::InvalidArgumentError("too big"), ErrorKind::kNeverFits},
      {absl::UnavailableError("draining"), ErrorKind::kDraining},
      {absl::InternalError("secret"), ErrorKind::kInternal},
  };
  for (const auto& [status, kind] : rows) {
    Bench bench(Says("x"));
    bench.engine.Refuse(status);
    auto generation = bench.Start(bench.Completion("x", 1));
    ASSERT_TRUE(bench.sink->WaitForEnd());
    ASSERT_TRUE(bench.sink->error);
    EXPECT_EQ(bench.sink->error->kind, kind);
    EXPECT_EQ(bench.sink->error->message.find("secret"), std::string::npos);
    EXPECT_FALSE(bench.sink->accepted);
  }
}

TEST(Frontend, EveryBadEndHasItsError) {
  const std::vector<std::pair<FinishReason, ErrorKind>> rows = {
      {FinishReason::kDeadline, ErrorKind::kDeadline},
      {FinishReason::kNeverFits, ErrorKind::kNeverFits},
      {FinishReason::kShutdown, ErrorKind::kShutdown},
      {FinishReason::kError, ErrorKind::kEngineFault},
  };
  for (const auto& [reason, kind] : rows) {
    Bench bench(Says(std::string(100, 'x')));
    auto generation = bench.Start(bench.Completion("x", 100));
    bench.engine.Step();
    ASSERT_TRUE(bench.sink->WaitForDeltas(1));
    bench.engine.EndAll(reason);
    bench.engine.Step();
    ASSERT_TRUE(bench.sink->WaitForEnd());
    ASSERT_TRUE(bench.sink->error);
    EXPECT_EQ(bench.sink->error->kind, kind);
  }
}

TEST(Frontend, PromptLengthBoundaries) {
  struct Row {
    size_t prompt;
    std::optional<int64_t> max_tokens;
    bool fits;
  };
  // The model takes 4,096 tokens.
  const std::vector<Row> rows = {
      {4095, 1, true},   {4096, 1, false},           {4000, 96, true},
      {4000, 97, false}, {4095, std::nullopt, true}, {4096, std::nullopt, false}};
  for (const Row& row : rows) {
    Bench bench(Says("x"));
    GenerationRequest request = bench.Completion(std::string(row.prompt, 'q'), 1);
    request.stop.max_tokens = row.max_tokens;
    auto generation = bench.Start(std::move(request));
    bench.engine.RunAll();
    ASSERT_TRUE(bench.sink->WaitForEnd());
    EXPECT_EQ(bench.sink->done.has_value(), row.fits) << row.prompt;
    if (row.fits) continue;
    EXPECT_EQ(bench.sink->error->kind, ErrorKind::kContextLength);
    EXPECT_THAT(bench.sink->error->message, HasSubstr("4096"));
    EXPECT_THAT(bench.sink->error->message, HasSubstr(std::to_string(row.prompt)));
  }
}

TEST(Frontend, HugePromptsAreRefusedWithoutTokenizing) {
  Bench bench(Says("x"));
  auto generation = bench.Start(bench.Completion(std::string(8 << 20, 'q'), 1));
  ASSERT_TRUE(bench.sink->WaitForEnd());
  ASSERT_TRUE(bench.sink->error);
  EXPECT_EQ(bench.sink->error->kind, ErrorKind::kContextLength);
  EXPECT_THAT(bench.sink->error->message, HasSubstr("at least"));
}

TEST(Frontend, TruncationOnlyWhenAskedForAndSaid) {
  for (const std::string side : {"left", "right"}) {
    Bench bench(Says("x"));
    GenerationRequest request = bench.Completion("abcdef", 1);
    request.prompt.truncate_prompt_tokens = 2;
    request.prompt.truncation_side = side;
    auto generation = bench.Start(std::move(request));
    bench.engine.RunAll();
    ASSERT_TRUE(bench.sink->WaitForEnd());
    const std::vector<TokenId> kept = bench.engine.submitted()[0].prompt;
    if (side == "left") {
      EXPECT_THAT(kept, ElementsAre('e', 'f'));
    } else {
      EXPECT_THAT(kept, ElementsAre('a', 'b'));
    }
    EXPECT_EQ(bench.sink->accepted->prompt_tokens_removed, 4);
  }
}

TEST(Frontend, LogprobsOfHeldTokensComeWithTheNextText) {
  Bench bench(Says("\xE2\x82\xAC!"));
  GenerationRequest request = bench.Completion("x", 100);
  request.output.logprobs = 1;
  auto generation = bench.Start(std::move(request));
  bench.engine.RunAll();
  ASSERT_TRUE(bench.sink->WaitForEnd());
  std::string bytes;
  std::vector<int64_t> offsets;
  for (const OutputDelta& delta : bench.sink->deltas) {
    EXPECT_EQ(delta.logprobs.size(), delta.tokens.size());
    for (const TokenLogprobText& token : delta.logprobs) {
      bytes += token.token.bytes;
      offsets.push_back(token.text_offset);
    }
  }
  EXPECT_EQ(bytes, "\xE2\x82\xAC!");
  EXPECT_THAT(offsets, ElementsAre(0, 0, 0, 1));
}

TEST(Frontend, ADeadlineThatIsOverReachesNoEngine) {
  Bench bench(Says("x"));
  GenerationRequest request = bench.Completion("x", 100);
  request.deadline = bench.clock.Now();
  auto generation = bench.Start(std::move(request));
  ASSERT_TRUE(bench.sink->WaitForEnd());
  EXPECT_EQ(bench.sink->error->kind, ErrorKind::kDeadline);
  EXPECT_TRUE(bench.engine.submitted().empty());
}

TEST(Frontend, DrainingRefusesNewWork) {
  Bench bench(Says("x"));
  bench.health.SetDraining();
  auto generation = bench.Start(bench.Completion("x", 1));
  ASSERT_TRUE(bench.sink->WaitForEnd());
  EXPECT_EQ(bench.sink->error->kind, ErrorKind::kDraining);
  EXPECT_GT(bench.sink->error->RetryAfter(), 0);
}

// Many generations at once, cancelled and drained at random from another thread: for TSan.
TEST(Frontend, ManyAtOnceWithRandomCancels) {
  FrontendOptions options;
  options.stream_workers = 2;
  options.stream_bytes_max = 2048;
  Bench bench(Says(std::string(200, 'y')), options);
  std::atomic<bool> stop = false;
  std::thread engine([&] {
    while (!stop) bench.engine.Step();
  });
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  std::vector<std::shared_ptr<Generation>> generations;
  for (int i = 0; i < 200; ++i) {
    sinks.push_back(std::make_shared<RecordingSink>());
    sinks.back()->set_full(i % 5 == 1);
    generations.push_back(bench.frontend->Start(bench.Completion("x", 300), sinks.back()));
    if (i % 5 == 0) generations.back()->Cancel();
  }
  for (int i = 0; i < 200; ++i) {
    if (i % 5 == 0) continue;
    if (i % 5 == 1) {
      sinks[static_cast<size_t>(i)]->set_full(false);
      generations[static_cast<size_t>(i)]->Drained();
    }
    ASSERT_TRUE(sinks[static_cast<size_t>(i)]->WaitForEnd()) << i;
    EXPECT_EQ(sinks[static_cast<size_t>(i)]->Text(0).size(), 200u);
  }
  stop = true;
  engine.join();
}

}  // namespace
}  // namespace millrace::server::testing
