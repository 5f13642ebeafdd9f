// Bodies to requests: types, nulls, names; the ranges of Validate at their borders; the table of
// unsupported parameters; the bodies of load generators.
#include "server/openai_parse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "server/unsupported.h"
#include "server/validate.h"

namespace millrace::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

ModelCard Card() {
  ModelCard card;
  card.name = "m";
  card.vocab_size = 1000;
  card.max_model_len = 4096;
  card.has_chat_template = true;
  return card;
}

// "" when the body is good, else the parameter that the error names (or its code, without one).
std::string Judge(std::string_view body, bool chat, std::string* message = nullptr) {
  std::variant<GenerationRequest, ApiError> parsed = chat ? ParseChat(body) : ParseCompletion(body);
  std::optional<ApiError> error;
  if (auto* failed = std::get_if<ApiError>(&parsed)) {
    error = *failed;
  } else {
    error = Validate(Card(), Limits{}, std::get<GenerationRequest>(parsed));
  }
  if (!error) return "";
  if (message != nullptr) *message = error->message;
  EXPECT_EQ(error->shape().http / 100, 4);
  return error->param.empty() ? error->shape().code : error->param;
}
std::string Chat(const std::string& field) {
  return Judge(R"({"model":"m","messages":[{"role":"user","content":"x"}],)" + field + "}", true);
}
std::string Completion(const std::string& field) {
  return Judge(R"({"model":"m","prompt":"x",)" + field + "}", false);
}

// Each field with good and bad values: the limit, one below, one above, and every wrong type.
struct FieldRow {
  std::string name;
  std::vector<std::string> good;
  std::vector<std::string> bad;
};

const std::vector<std::string> kWrongTypes = {"\"1\"", "[]", "{}", "1e400", "true"};

std::vector<FieldRow> NumberRows() {
  const std::string int32_over = "2147483648", int64_over = "9223372036854775808";
  const std::string uint64_max = "18446744073709551615";
  const auto ints = [&](std::string name, std::vector<std::string> good,
                        std::vector<std::string> bad) {
    for (const std::string& value : {int64_over, uint64_max, std::string("1.5")}) {
      bad.push_back(value);
    }
    return FieldRow{std::move(name), std::move(good), std::move(bad)};
  };
  return {
      {"temperature", {"0", "1", "2", "1e-30", "2.0"}, {"-0.001", "2.001", "1e30"}},
      {"top_p", {"0", "0.5", "1", "1.0"}, {"-0.1", "1.0001"}},
      {"min_p", {"0", "1"}, {"-0.1", "1.01", "2"}},
      {"repetition_penalty", {"1", "0.5", "2"}, {"0", "-1", "2.01", "1e9"}},
      {"presence_penalty", {"-2", "0", "2"}, {"-2.01", "2.01", "1e9", "-1e9"}},
      {"frequency_penalty", {"-2", "0", "2"}, {"-2.01", "2.01"}},
      ints("top_k", {"-1", "0", "1", "1000", "1001", "2147483647", "1.0"}, {"-2", int32_over}),
      ints("n", {"1", "127", "128"}, {"0", "-1", "129", "5000000", int32_over}),
      ints("max_tokens", {"1", "4096", "2147483647"}, {"0", "-1", int32_over}),
      ints("min_tokens", {"0", "16", "4096"}, {"-1", "4097", int32_over}),
      ints("prompt_logprobs", {"0", "19", "20"}, {"-1", "21", "1000000000"}),
      ints("truncate_prompt_tokens", {"-1", "1", "4096"}, {"-2", "0", "4097"}),
      ints("seed", {"0", "-1", "-9223372036854775808", "9223372036854775807"}, {}),
      ints("priority", {"0"}, {"1", "-1"}),
  };
}

TEST(OpenAiParse, EveryNumberAtItsBorders) {
  for (const FieldRow& row : NumberRows()) {
    for (const bool chat : {true, false}) {
      const auto judge = [&](const std::string& value) {
        return (chat ? Chat : Completion)("\"" + row.name + "\":" + value);
      };
      for (const std::string& value : row.good) EXPECT_EQ(judge(value), "") << row.name << value;
      for (const std::string& value : row.bad) EXPECT_EQ(judge(value), row.name) << value;
      for (const std::string& value : kWrongTypes) EXPECT_EQ(judge(value), row.name) << value;
      EXPECT_EQ(judge("null"), "") << row.name;
      EXPECT_EQ(judge("NaN"), "invalid_json");
      EXPECT_EQ(judge("01"), "invalid_json");
      EXPECT_EQ(judge("0x10"), "invalid_json");
    }
  }
}

TEST(OpenAiParse, EveryFieldTakesNullAndNoOtherType) {
  struct Row {
    std::string name;
    std::string wrong;
  };
  const std::vector<Row> rows = {
      {"stream", "1"},
      {"stream", "\"true\""},
      {"ignore_eos", "0"},
      {"echo", "\"\""},
      {"stream_options", "[]"},
      {"stop", "1"},
      {"stop", "[1]"},
      {"stop_token_ids", "1"},
      {"stop_token_ids", "[\"1\"]"},
      {"logit_bias", "[]"},
      {"logit_bias", "{\"a\":1}"},
      {"logit_bias", "{\"1.5\":1}"},
      {"logit_bias", "{\"1\":\"2\"}"},
      {"logit_bias", "{\"1\":1e400}"},
      {"logit_bias", "{\"-1\":1}"},
      {"logit_bias", "{\"1000\":1}"},
      {"logit_bias", "{\"4294967296\":1}"},
      {"logit_bias", "{\"1\":101}"},
      {"logit_bias", "{\"1\":-100.5}"},
      {"logit_bias", "{\"1\":1,\"01\":2}"},
      {"include_stop_str_in_output", "1"},
      {"skip_special_tokens", "1"},
      {"return_token_ids", "1"},
      {"truncation_side", "\"up\""},
      {"truncation_side", "1"},
      {"cache_salt", "1"},
      {"cache_salt", "\"\""},
      {"cache_salt", "\"a@b\""},
      {"cache_salt", "\"a\\u0000b\""},
      {"cache_salt", "\"" + std::string(129, 'a') + "\""},
      {"best_of", "\"1\""},
      {"add_special_tokens", "1"},
      {"stop_token_ids", "[-1]"},
      {"stop_token_ids", "[1000]"},
      {"stop_token_ids", "[2147483648]"},
      {"stop", "\"\""},
      {"stop", "[\"a\",\"\"]"},
      {"stop", "[\"a\",\"b\",\"c\",\"d\",\"e\"]"},
      {"stop", "\"" + std::string(257, 'a') + "\""},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(Completion("\"" + row.name + "\":" + row.wrong), row.name) << row.wrong;
    EXPECT_EQ(Completion("\"" + row.name + "\":null"), "") << row.name;
  }
  for (const char* good :
       {R"("stop":["a","b","c","d"])", R"("stop":"x")", R"("logit_bias":{"5":100})",
        R"("cache_salt":"abc")", R"("best_of":1)", R"("stop_token_ids":[0,999])",
        R"("stream_options":{"include_usage":true})", R"("stop":[])"}) {
    EXPECT_EQ(Completion(good), "") << good;
  }
  EXPECT_EQ(Completion("\"stop\":\"" + std::string(256, 'a') + "\""), "");
}

std::string Repeat(const std::string& item, size_t count) {
  std::string out;
  for (size_t i = 0; i < count; ++i) out += (i > 0 ? "," : "") + item;
  return out;
}

TEST(OpenAiParse, CountsAtTheirBorders) {
  EXPECT_EQ(Completion("\"stop_token_ids\":[" + Repeat("1", 128) + "]"), "");
  EXPECT_EQ(Completion("\"stop_token_ids\":[" + Repeat("1", 129) + "]"), "stop_token_ids");
  const auto messages = [](size_t count) {
    return Judge(
        R"({"model":"m","messages":[)" + Repeat(R"({"role":"user","content":"x"})", count) + "]}",
        true);
  };
  EXPECT_EQ(messages(2048), "");
  EXPECT_EQ(messages(2049), "messages");
  EXPECT_EQ(messages(0), "messages");
  const auto parts = [](size_t count) {
    return Judge(R"({"model":"m","messages":[{"role":"user","content":[)" +
                     Repeat(R"({"type":"text","text":"x"})", count) + "]}]}",
                 true);
  };
  EXPECT_EQ(parts(4096), "");
  EXPECT_EQ(parts(4097), "messages");
  EXPECT_EQ(parts(0), "messages[0].content");
  const auto prompts = [](size_t count, const std::string& more) {
    return Judge(R"({"model":"m","prompt":[)" + Repeat("\"x\"", count) + "]" + more + "}", false);
  };
  EXPECT_EQ(prompts(128, ""), "");
  EXPECT_EQ(prompts(129, ""), "prompt");
  EXPECT_EQ(prompts(64, ",\"n\":2"), "");
  EXPECT_EQ(prompts(65, ",\"n\":2"), "n");
}

TEST(OpenAiParse, PromptForms) {
  const auto judge = [](const std::string& prompt) {
    return Judge(R"({"model":"m","prompt":)" + prompt + "}", false);
  };
  for (const char* good : {"\"x\"", "[\"x\",\"y\"]", "[0,999]", "[[1],[2,3]]", "\" \""}) {
    EXPECT_EQ(judge(good), "") << good;
  }
  for (const char* bad :
       {"\"\"", "[]", "[\"\"]", "[[]]", "null", "1", "{}", "[1,\"x\"]", "[\"x\",1]", "[[1],\"x\"]",
        "[[1],2]", "[-1]", "[1000]", "[2147483648]", "[1.5]", "[null]", "[[[1]]]", "[[1],[]]"}) {
    EXPECT_EQ(judge(bad), "prompt") << bad;
  }
  EXPECT_EQ(Judge(R"({"model":"m"})", false), "prompt");
  EXPECT_EQ(Judge(R"({"prompt":"x"})", false), "model");
  EXPECT_EQ(Judge(R"({"model":"other","prompt":"x"})", false), "model");
}

TEST(OpenAiParse, Messages) {
  const auto judge = [](const std::string& message) {
    return Judge(R"({"model":"m","messages":[)" + message + "]}", true);
  };
  for (const char* good :
       {R"({"role":"user","content":"x"})", R"({"role":"developer","content":"x"})",
        R"({"role":"system","content":""})", R"({"role":"user","content":"x","name":"bob"})",
        R"({"role":"user","content":[{"type":"text","text":"x"}],"name":null})",
        R"({"role":"assistant","content":[{"type":"refusal","refusal":"no"}],"tool_calls":null})",
        R"({"role":"assistant","content":"x","tool_calls":[],"refusal":null})"}) {
    EXPECT_EQ(judge(good), "") << good;
  }
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"1", "messages[0]"},
      {"{}", "messages[0].role"},
      {R"({"role":"wizard","content":"x"})", "messages[0].role"},
      {R"({"role":"tool","content":"x"})", "messages[0].role"},
      {R"({"role":"user"})", "messages[0].content"},
      {R"({"role":"user","content":null})", "messages[0].content"},
      {R"({"role":"user","content":5})", "messages[0].content"},
      {R"({"role":"user","content":["x"]})", "messages[0].content"},
      {R"({"role":"user","content":[{"type":"text"}]})", "messages[0].content"},
      {R"({"role":"user","content":[{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}]})",
       "messages[0].content"},
      {R"({"role":"assistant","content":"x","tool_calls":[{}]})", "messages[0].tool_calls"},
      {R"({"role":"user","content":"x","name":5})", "messages[0].name"},
  };
  for (const auto& [message, param] : bad) EXPECT_EQ(judge(message), param) << message;
}

TEST(OpenAiParse, PartsAreJoinedAndDeveloperIsSystem) {
  auto parsed = ParseChat(
      R"({"model":"m","messages":[{"role":"developer","content":[{"type":"text","text":"a"},)"
      R"({"type":"text","text":"b"}]}]})");
  auto& request = std::get<GenerationRequest>(parsed);
  ASSERT_FALSE(Validate(Card(), Limits{}, request));
  EXPECT_EQ(request.prompt.messages.Dump(), R"([{"role":"system","content":"a\nb"}])");
}

TEST(OpenAiParse, TemplateKwargsAreScalarsWithFreeNames) {
  EXPECT_EQ(Chat(R"("chat_template_kwargs":{"enable_thinking":false,"style":"x","k":1})"), "");
  for (const char* bad : {"[]", R"({"messages":[]})", R"({"tokenize":true})", R"({"a b":1})",
                          R"({"x":[]})", R"({"x":{}})", R"({"bos_token":"x"})", "1"}) {
    EXPECT_EQ(Chat(std::string("\"chat_template_kwargs\":") + bad), "chat_template_kwargs") << bad;
  }
}

TEST(OpenAiParse, TopLogprobsNeedLogprobs) {
  EXPECT_EQ(Chat(R"("logprobs":true,"top_logprobs":20)"), "");
  EXPECT_EQ(Chat(R"("logprobs":true,"top_logprobs":21)"), "top_logprobs");
  EXPECT_EQ(Chat(R"("logprobs":true,"top_logprobs":-1)"), "top_logprobs");
  EXPECT_EQ(Chat(R"("top_logprobs":3)"), "top_logprobs");
  EXPECT_EQ(Chat(R"("logprobs":false,"top_logprobs":0)"), "");
  EXPECT_EQ(Completion(R"("logprobs":20)"), "");
  EXPECT_EQ(Completion(R"("logprobs":21)"), "logprobs");
  EXPECT_EQ(Completion(R"("logprobs":true)"), "logprobs");
}

TEST(OpenAiParse, MaxTokensZeroOnlyWithTheScoresOfThePrompt) {
  EXPECT_EQ(Completion(R"("max_tokens":0,"echo":true,"logprobs":1)"), "");
  EXPECT_EQ(Completion(R"("max_tokens":0,"prompt_logprobs":1)"), "");
  EXPECT_EQ(Completion(R"("max_tokens":0)"), "max_tokens");
  EXPECT_EQ(Completion(R"("max_tokens":5,"min_tokens":6)"), "min_tokens");
  EXPECT_EQ(Completion(R"("max_tokens":5,"min_tokens":5)"), "");
  EXPECT_EQ(Completion(R"("n":2,"best_of":1)"), "best_of");
  EXPECT_EQ(Completion(R"("n":2,"best_of":3)"), "best_of");
  EXPECT_EQ(Completion(R"("n":2,"best_of":2)"), "");
}

TEST(OpenAiParse, MaxCompletionTokensWins) {
  auto parsed =
      ParseChat(R"({"model":"m","messages":[],"max_tokens":5,"max_completion_tokens":7})");
  EXPECT_EQ(std::get<GenerationRequest>(parsed).stop.max_tokens, 7);
  parsed = ParseChat(R"({"model":"m","messages":[],"max_tokens":5,"max_completion_tokens":null})");
  EXPECT_EQ(std::get<GenerationRequest>(parsed).stop.max_tokens, 5);
}

TEST(OpenAiParse, DuplicateKeysAreRefused) {
  EXPECT_EQ(Completion(R"("n":1,"n":2)"), "invalid_json");
  EXPECT_EQ(Completion(R"("model":"m")"), "invalid_json");
}

TEST(OpenAiParse, UnknownFieldsAreIgnoredAndCounted) {
  auto parsed = ParseCompletion(
      R"({"model":"m","prompt":"x","frobnicate":1,"other":{"a":[]},"user":"u","null_one":null})");
  EXPECT_EQ(std::get<GenerationRequest>(parsed).unknown_fields, 2);
}

// The list itself: a change here is a change of what clients may send.
TEST(Unsupported, TheTable) {
  const std::set<std::string> expected = {"tools",
                                          "tool_choice",
                                          "functions",
                                          "function_call",
                                          "response_format",
                                          "structured_outputs",
                                          "guided_json",
                                          "guided_regex",
                                          "guided_choice",
                                          "guided_grammar",
                                          "guided_decoding",
                                          "json_schema",
                                          "grammar",
                                          "allowed_token_ids",
                                          "bad_words",
                                          "logprob_token_ids",
                                          "use_beam_search",
                                          "length_penalty",
                                          "typical_p",
                                          "xtc_probability",
                                          "dry_multiplier",
                                          "mirostat",
                                          "repetition_detection",
                                          "thinking_token_budget",
                                          "n_predict",
                                          "repeat_penalty",
                                          "suffix",
                                          "prediction",
                                          "modalities",
                                          "audio",
                                          "images",
                                          "mm_processor_kwargs",
                                          "web_search_options",
                                          "documents",
                                          "chat_template",
                                          "logits_processors",
                                          "logit_processors",
                                          "lora",
                                          "lora_request",
                                          "prompt_embeds",
                                          "kv_transfer_params",
                                          "vllm_xargs"};
  std::set<std::string> names;
  for (const UnsupportedParameter& row : UnsupportedParameters()) {
    EXPECT_TRUE(names.insert(std::string(row.name)).second) << row.name;
    EXPECT_FALSE(row.why.empty());
    EXPECT_NE(row.harmless, nullptr);
    // A value that asks for something: refused by name on both kinds, as 400 and UNIMPLEMENTED.
    const std::string field = "\"" + std::string(row.name) + "\":";
    EXPECT_EQ(Chat(field + R"({"type":"json_object"})"), row.name);
    EXPECT_EQ(Completion(field + R"([{"x":1}])"), row.name);
    EXPECT_EQ(Chat(field + "null"), "");
    const ApiError error = UnsupportedError(row.name);
    EXPECT_EQ(error.shape().http, 400);
    EXPECT_EQ(error.shape().grpc, CanonicalCode::kUnimplemented);
    EXPECT_THAT(error.message, HasSubstr(std::string(row.name)));
  }
  EXPECT_EQ(names, expected);
}

TEST(Unsupported, ValuesThatAskForNothingPass) {
  for (const char* field : {R"("tools":[])", R"("tool_choice":"none")", R"("tool_choice":"auto")",
                            R"("response_format":{"type":"text"})", R"("use_beam_search":false)",
                            R"("modalities":["text"])", R"("suffix":"")", R"("length_penalty":1.0)",
                            R"("bad_words":[])", R"("logits_processors":[])", R"("mirostat":0)"}) {
    EXPECT_EQ(Chat(field), "") << field;
  }
  for (const char* field : {R"("tool_choice":"required")", R"("allowed_token_ids":[])",
                            R"("response_format":{"type":"json_object"})",
                            R"("modalities":["text","audio"])", R"("use_beam_search":true)"}) {
    EXPECT_NE(Chat(field), "") << field;
  }
}

TEST(ApiErrors, EveryKindHasOneShape) {
  for (int i = 0; i < kErrorKindCount; ++i) {
    const ErrorShape& shape = ShapeOf(static_cast<ErrorKind>(i));
    EXPECT_GE(shape.http, 400);
    EXPECT_NE(shape.grpc, CanonicalCode::kOk);
    const std::string reason = shape.reason;
    ASSERT_GE(reason.size(), 2u);
    EXPECT_LE(reason.size(), 63u);
    EXPECT_EQ(reason.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"), std::string::npos);
    ApiError error;
    error.kind = static_cast<ErrorKind>(i);
    EXPECT_EQ(error.RetryAfter() > 0, shape.http == 503) << reason;
  }
}

TEST(ApiErrors, NothingOfThePromptIsEchoed) {
  const std::string canary = "CANARY-7f3a";
  const std::vector<std::string> bodies = {
      R"({"model":")" + canary + R"(","prompt":"x"})",
      R"({"model":"m","prompt":")" + canary + R"(","n":0})",
      R"({"model":"m","prompt":")" + canary + R"(","n":")" + canary + "\"}",
      R"({"model":"m","prompt":")" + canary + "\"",
      R"({"model":"m","prompt":"x","truncation_side":")" + canary + "\"}",
      R"({"model":"m","prompt":"x","cache_salt":"@)" + canary + "\"}",
      R"({"model":"m","prompt":"x","logit_bias":{")" + canary + R"(":1}})",
  };
  for (const std::string& body : bodies) {
    std::string message;
    EXPECT_NE(Judge(body, false, &message), "");
    EXPECT_THAT(message, Not(HasSubstr(canary)));
    EXPECT_LT(message.size(), 400u);
  }
}

TEST(Fixtures, LoadGeneratorsAndHarnesses) {
  const std::vector<std::pair<std::string, bool>> files = {
      {"vllm_bench_completions.json", false},
      {"vllm_bench_chat.json", true},
      {"vllm_bench_tokens.json", false},
      {"guidellm_chat.json", true},
      {"guidellm_completions.json", false},
      {"inference_perf_chat.json", true},
      {"aiperf_chat.json", true},
      {"lm_eval_loglikelihood.json", false},
      {"lm_eval_generate.json", false},
      {"openai_python_chat.json", true},
  };
  for (const auto& [name, chat] : files) {
    std::ifstream file("tests/e2e/fixtures/" + name);
    ASSERT_TRUE(file) << name;
    const std::string body((std::istreambuf_iterator<char>(file)), {});
    std::string message;
    EXPECT_EQ(Judge(body, chat, &message), "") << name << ": " << message;
    // None of their fields is unknown to us.
    auto parsed = chat ? ParseChat(body) : ParseCompletion(body);
    EXPECT_EQ(std::get<GenerationRequest>(parsed).unknown_fields, 0) << name;
  }
}

}  // namespace
}  // namespace millrace::server
