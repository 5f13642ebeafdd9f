// The HTTP door over real sockets and a scripted engine.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/http_bench.h"

namespace millrace::server::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr std::string_view kChat = R"({"model":"m","messages":[{"role":"user","content":"Hello"}])";
std::string Chat(std::string_view more) {
  return std::string(kChat) + std::string(more) + "}";
}
std::string Completion(std::string_view more) {
  return R"({"model":"m","prompt":"Hello")" + std::string(more) + "}";
}

// The event with what differs from run to run taken out.
std::string Canonical(std::string event) {
  const size_t id = event.find("\"id\":\"") + 6;
  event.replace(id, event.find('"', id) - id, "chatcmpl-1");
  const size_t created = event.find("\"created\":") + 10;
  event.replace(created, event.find(',', created) - created, "1767225600");
  return event;
}

TEST(Http, ChatStreamIsTheGoldenByteForByte) {
  HttpBench bench(Says("Hi"));
  const ClientReply reply = bench.Ask(Post(
      "/v1/chat/completions", Chat(R"(,"stream":true,"stream_options":{"include_usage":true})")));
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.headers.at("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_EQ(reply.headers.at("cache-control"), "no-cache");
  std::vector<std::string> events = Events(reply.body);
  ASSERT_GE(events.size(), 5u);
  std::string text;
  for (size_t i = 1; i + 3 < events.size(); ++i) {
    const Json event = *Json::Parse(events[i]);
    text += event.Find("choices")->array()[0].Find("delta")->Find("content")->string_value();
  }
  EXPECT_EQ(text, "Hi");
  constexpr std::string_view kHead =
      R"({"id":"chatcmpl-1","object":"chat.completion.chunk","created":1767225600,"model":"m",)";
  EXPECT_EQ(Canonical(events[0]),
            std::string(kHead) +
                R"("choices":[{"index":0,"delta":{"role":"assistant","content":""},)"
                R"("logprobs":null,"finish_reason":null}],"usage":null})");
  EXPECT_THAT(Canonical(events[1]),
              StartsWith(std::string(kHead) + R"("choices":[{"index":0,"delta":{"content":"H)"));
  EXPECT_THAT(events[1],
              ::testing::EndsWith(R"(},"logprobs":null,"finish_reason":null}],"usage":null})"));
  EXPECT_EQ(Canonical(events[events.size() - 3]),
            std::string(kHead) + R"("choices":[{"index":0,"delta":{},"logprobs":null,)"
                                 R"("finish_reason":"stop"}],"usage":null})");
  const size_t prompt = bench.engine.submitted()[0].prompt.size();
  EXPECT_EQ(Canonical(events[events.size() - 2]),
            std::string(kHead) + R"("choices":[],"usage":{"prompt_tokens":)" +
                std::to_string(prompt) + R"(,"completion_tokens":3,"total_tokens":)" +
                std::to_string(prompt + 3) +
                R"(,"prompt_tokens_details":{"cached_tokens":0},)"
                R"("completion_tokens_details":{"reasoning_tokens":0}}})");
  EXPECT_EQ(events.back(), "[DONE]");
}

TEST(Http, ChatAnswerWhole) {
  HttpBench bench(Says("Hi there"));
  const ClientReply reply = bench.Ask(Post("/v1/chat/completions", Chat("")));
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.headers.at("content-type"), "application/json");
  const Json body = *Json::Parse(reply.body);
  const Json& choice = body.Find("choices")->array()[0];
  EXPECT_EQ(choice.Find("message")->Find("content")->string_value(), "Hi there");
  EXPECT_EQ(choice.Find("finish_reason")->string_value(), "stop");
  EXPECT_TRUE(choice.Find("logprobs")->is_null());
  EXPECT_EQ(body.Find("object")->string_value(), "chat.completion");
  EXPECT_EQ(body.Find("usage")->Find("completion_tokens")->number_text(), "9");
}

TEST(Http, CompletionEchoWithLogprobsIsTheGolden) {
  HttpBench bench([](const Request&, int32_t, int32_t) -> TokenId { return 261; });  // " C"
  const ClientReply reply =
      bench.Ask(Post("/v1/completions",
                     R"({"model":"m","prompt":"A B","echo":true,"max_tokens":1,"logprobs":1})"));
  EXPECT_THAT(reply.body,
              HasSubstr(R"({"text":"A B C","index":0,"finish_reason":"length","logprobs":)"
                        R"({"tokens":["A"," B"," C"],"token_logprobs":[null,-1.5,-0.2],)"
                        R"("top_logprobs":[null,{" B":-1.5},{" C":-0.2}],)"
                        R"("text_offset":[0,1,3]}})"));
}

TEST(Http, EchoWithMaxTokensZeroScoresThePromptOnly) {
  HttpBench bench(Says("never"));
  const ClientReply reply = bench.Ask(
      Post("/v1/completions",
           R"({"model":"m","prompt":[259,260],"echo":true,"max_tokens":0,"logprobs":5})"));
  EXPECT_EQ(reply.status, 200) << reply.body;
  EXPECT_THAT(reply.body, HasSubstr(R"("text":"A B")"));
  EXPECT_THAT(reply.body, HasSubstr(R"("token_logprobs":[null,-1.5])"));
  EXPECT_THAT(reply.body, HasSubstr(R"("completion_tokens":0)"));
}

TEST(Http, ContinuousUsageIsOnEveryEvent) {
  HttpBench bench(Says("abc"));
  const ClientReply reply = bench.Ask(Post(
      "/v1/completions",
      Completion(
          R"(,"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true})")));
  const std::vector<std::string> events = Events(reply.body);
  int64_t before = 0;
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    const Json event = *Json::Parse(events[i]);
    int64_t tokens = 0;
    ASSERT_TRUE(event.Find("usage")->Find("completion_tokens")->GetInt64(&tokens)) << events[i];
    EXPECT_GE(tokens, before);
    before = tokens;
  }
  EXPECT_EQ(before, 4);
}

TEST(Http, ErrorsHaveTheFourKeysAndTheRequestId) {
  HttpBench bench(Says("x"));
  struct Row {
    std::string request;
    int status;
    std::string code;
    std::string param;
  };
  const std::vector<Row> rows = {
      {Post("/v1/chat/completions", "{"), 400, "\"invalid_json\"", "null"},
      {Post("/v1/chat/completions", "[]"), 400, "\"invalid_json\"", "null"},
      {Post("/v1/chat/completions", R"({"model":"m"})"), 400, "\"invalid_value\"", "\"messages\""},
      {Post("/v1/chat/completions", R"({"model":"z","messages":[]})"), 404, "\"model_not_found\"",
       "\"model\""},
      {Post("/v1/chat/completions", Chat(R"(,"tools":[{}])")), 400, "\"unsupported_parameter\"",
       "\"tools\""},
      {Post("/v1/completions", Completion(R"(,"max_tokens":5000)")), 400,
       "\"context_length_exceeded\"", "\"prompt\""},
      {Get("/v1/nothing"), 404, "\"unknown_url\"", "null"},
      {Get("/v1/chat/completions"), 405, "\"method_not_supported\"", "null"},
      {Post("/v1/models", "{}"), 405, "\"method_not_supported\"", "null"},
      {Post("/v1/completions", "{}", "Content-Encoding: gzip\r\n"), 415, "null", "null"},
  };
  for (const Row& row : rows) {
    const ClientReply reply = bench.Ask(row.request);
    EXPECT_EQ(reply.status, row.status) << row.request << reply.body;
    EXPECT_THAT(reply.body, StartsWith("{\"error\":{\"message\":\""));
    EXPECT_THAT(reply.body, HasSubstr(",\"type\":\""));
    EXPECT_THAT(reply.body, HasSubstr(",\"param\":" + row.param + ","));
    EXPECT_THAT(reply.body, HasSubstr("\"code\":" + row.code + "}}"));
    EXPECT_EQ(reply.headers.count("x-request-id"), 1u);
  }
}

TEST(Http, RequestIdIsEchoedWhenItIsPlain) {
  HttpBench bench(Says("x"));
  EXPECT_EQ(bench.Ask(Get("/version", "X-Request-Id: abc-1\r\n")).headers.at("x-request-id"),
            "abc-1");
  const std::string made =
      bench.Ask(Get("/version", "X-Request-Id: a b\r\n")).headers.at("x-request-id");
  EXPECT_EQ(made.size(), 32u);
  EXPECT_EQ(bench.Ask(Get("/version", "X-Request-Id: " + std::string(513, 'a') + "\r\n"))
                .headers.at("x-request-id")
                .size(),
            32u);
}

TEST(Http, OverloadAndDrainSayWhenToRetry) {
  HttpBench bench(Says("x"));
  bench.engine.Refuse(absl::ResourceExhaustedError("full"));
  ClientReply reply = bench.Ask(Post("/v1/completions", Completion("")));
  EXPECT_EQ(reply.status, 503);
  EXPECT_EQ(reply.headers.at("retry-after"), "1");
  EXPECT_EQ(reply.headers.at("retry-after-ms"), "1000");
  bench.health.SetDraining();
  EXPECT_EQ(bench.Ask(Get("/readyz")).status, 503);
  EXPECT_EQ(bench.Ask(Get("/livez")).status, 200);
  reply = bench.Ask(Post("/v1/completions", Completion("")));
  EXPECT_EQ(reply.status, 503);
  EXPECT_THAT(reply.body, HasSubstr("\"draining\""));
}

TEST(Http, MidStreamErrorIsAnEventThenDone) {
  HttpBench bench(Says(std::string(100, 'x')), {}, "", false);
  RawClient client(bench.server->port());
  client.Send(Post("/v1/completions", Completion(R"(,"stream":true,"max_tokens":100)")));
  while (bench.engine.live() == 0) std::this_thread::yield();
  bench.engine.Step();
  std::string head;
  ASSERT_TRUE(client.ReadSome(head));
  EXPECT_THAT(head, StartsWith("HTTP/1.1 200 OK\r\n"));
  bench.engine.EndAll(FinishReason::kError);
  bench.engine.Step();
  while (head.find("\r\n0\r\n\r\n") == std::string::npos) ASSERT_TRUE(client.ReadSome(head));
  EXPECT_THAT(head, HasSubstr("data: {\"error\":{\"message\":\"engine fault\",\"type\":"
                              "\"server_error\",\"param\":null,\"code\":\"engine_fault\"}}\n\n"
                              "data: [DONE]\n\n"));
}

TEST(Http, ErrorBeforeTheFirstTokenHasItsStatusEvenOnAStream) {
  HttpBench bench(Says("x"), {}, "", false);
  RawClient client(bench.server->port());
  client.Send(Post("/v1/completions", Completion(R"(,"stream":true)")));
  while (bench.engine.live() == 0) std::this_thread::yield();
  bench.engine.EndAll(FinishReason::kDeadline);
  bench.engine.Step();
  const ClientReply reply = client.Read();
  EXPECT_EQ(reply.status, 504);
  EXPECT_THAT(reply.body, HasSubstr("\"timeout\""));
}

TEST(Http, TimeoutHeadersBecomeTheDeadline) {
  HttpBench bench(Says("x"));
  const auto deadline_of = [&](std::string_view headers) {
    const MonoNanos before = bench.clock.Now();
    EXPECT_EQ(bench.Ask(Post("/v1/completions", Completion(""), headers)).status, 200) << headers;
    return bench.engine.submitted().back().deadline - before;
  };
  const MonoNanos slack = 20 * kNanosPerSecond;
  const MonoNanos hour = 3600 * kNanosPerSecond;
  const MonoNanos two = deadline_of("X-Request-Timeout-Ms: 100000\r\n");
  EXPECT_GE(two, 100 * kNanosPerSecond);
  EXPECT_LE(two, 100 * kNanosPerSecond + slack);
  EXPECT_LE(deadline_of("x-envoy-expected-rq-timeout-ms: 100000\r\n"),
            100 * kNanosPerSecond + slack);
  // The earlier of the two; never later than the node's own.
  EXPECT_LE(deadline_of("X-Request-Timeout-Ms: 200000\r\n"
                        "x-envoy-expected-rq-timeout-ms: 100000\r\n"),
            100 * kNanosPerSecond + slack);
  EXPECT_GE(deadline_of("X-Request-Timeout-Ms: 999999999999\r\n"), hour);
  EXPECT_LE(deadline_of("X-Request-Timeout-Ms: 999999999999\r\n"), hour + slack);
  EXPECT_GE(deadline_of(""), hour);
}

TEST(Http, BadTimeoutHeadersAreNamed) {
  HttpBench bench(Says("x"));
  for (const char* value : {"", "-1", "+1", "1.5", "1s", "0x10", "1000000000000", "1e3", "nan"}) {
    const ClientReply reply = bench.Ask(Post(
        "/v1/completions", Completion(""), "X-Request-Timeout-Ms: " + std::string(value) + "\r\n"));
    EXPECT_EQ(reply.status, 400) << value;
    EXPECT_THAT(reply.body, HasSubstr(R"("param":"x-request-timeout-ms","code":"invalid_value")"));
  }
  EXPECT_EQ(bench
                .Ask(Post("/v1/completions", Completion(""),
                          "X-Request-Timeout-Ms: 1000\r\nX-Request-Timeout-Ms: 1000\r\n"))
                .status,
            400);
}

TEST(Http, DisconnectCancels) {
  for (const bool reset : {false, true}) {
    HttpBench bench(Says(std::string(4000, 'x')), {}, "", false);
    RawClient client(bench.server->port());
    client.Send(Post("/v1/completions", Completion(R"(,"stream":true,"max_tokens":4000)")));
    while (bench.engine.live() == 0) std::this_thread::yield();
    bench.engine.Step();
    std::string head;
    ASSERT_TRUE(client.ReadSome(head));
    reset ? client.Reset() : client.Close();
    for (int i = 0; i < 2000 && bench.engine.live() > 0; ++i) {
      bench.engine.Step();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(bench.engine.live(), 0);
    EXPECT_LT(bench.engine.Stats().steps, 3000);
  }
}

TEST(Http, DisconnectBeforeTheAnswerCancels) {
  HttpBench bench(Says(std::string(4000, 'x')), {}, "", false);
  RawClient client(bench.server->port());
  client.Send(Post("/v1/completions", Completion(R"(,"max_tokens":4000)")));
  while (bench.engine.live() == 0) std::this_thread::yield();
  client.Close();
  for (int i = 0; i < 2000 && bench.engine.live() > 0; ++i) {
    bench.engine.Step();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_LT(bench.engine.Stats().steps, 3000);
}

TEST(Http, SlowReaderPausesTheModelAndLosesNothing) {
  // 3 MB of text through a small socket: far more than all buffers together.
  HttpServerOptions options;
  options.send_buffer_bytes = 16 << 10;
  HttpBench bench(
      [](const Request&, int32_t, int32_t index) -> TokenId { return index < 4000 ? 257 : 263; },
      options);
  constexpr int kStreams = 4;
  std::vector<std::unique_ptr<RawClient>> clients;
  // Logprobs make each token about 1 kB.
  for (int i = 0; i < kStreams; ++i) {
    clients.push_back(std::make_unique<RawClient>(bench.server->port(), 4096));
    clients.back()->Send(
        Post("/v1/chat/completions", Chat(R"(,"stream":true,"logprobs":true,"top_logprobs":20,)"
                                          R"("max_tokens":4000,"return_token_ids":true)")));
  }
  while (bench.engine.pauses() < kStreams) std::this_thread::yield();
  for (auto& client : clients) {
    const ClientReply reply = client->Read();
    ASSERT_TRUE(reply.complete);
    size_t tokens = 0;
    for (const std::string& event : Events(reply.body)) {
      if (event == "[DONE]") continue;
      const Json json = *Json::Parse(event);
      const Json* ids = json.Find("choices")->array()[0].Find("token_ids");
      if (ids != nullptr) tokens += ids->array().size();
    }
    EXPECT_EQ(tokens, 4000u);
  }
}

TEST(Http, PipelinedRequestsAreAnsweredInOrder) {
  HttpBench bench(Says("x"));
  RawClient client(bench.server->port());
  std::string all;
  for (int i = 0; i < 200; ++i) {
    all += i % 3 == 0 ? Post("/v1/completions", Completion(""),
                             "X-Request-Id: r" + std::to_string(i) + "\r\n")
                      : Get("/version", "X-Request-Id: r" + std::to_string(i) + "\r\n");
  }
  client.Send(all);
  for (int i = 0; i < 200; ++i) {
    const ClientReply reply = client.Read();
    ASSERT_EQ(reply.status, 200);
    ASSERT_EQ(reply.headers.at("x-request-id"), "r" + std::to_string(i));
  }
}

TEST(Http, TenThousandKeepAliveRequestsOnOneSocket) {
  HttpBench bench(Says("x"));
  RawClient client(bench.server->port());
  for (int i = 0; i < 10'000; ++i) {
    client.Send(Get("/livez"));
    ASSERT_EQ(client.Read().status, 200);
  }
}

TEST(Http, SmallRoutes) {
  HttpBench bench(Says("x"));
  EXPECT_EQ(
      bench.Ask(Get("/v1/models")).body,
      R"({"object":"list","data":[{"id":"m","object":"model","created":1767225600,)"
      R"("owned_by":"millrace","root":"m.gguf","parent":null,"max_model_len":4096,"architecture":"llama",)"
      R"("format":"GGUF Q4_1","sampling_defaults":{"temperature":1,"top_p":1,"top_k":0,)"
      R"("min_p":0,"repetition_penalty":1,"chat_max_tokens":null,"from_model":false}}]})");
  EXPECT_EQ(bench.Ask(Get("/v1/models/m")).status, 200);
  EXPECT_EQ(bench.Ask(Get("/v1/models/%6d")).status, 200);
  EXPECT_EQ(bench.Ask(Get("/v1/models/other")).status, 404);
  EXPECT_EQ(bench.Ask(Get("/version")).body, R"({"version":"0.1.0"})");
  for (const char* path : {"/livez", "/readyz", "/health", "/ping"}) {
    EXPECT_EQ(bench.Ask(Get(path)).status, 200) << path;
  }
  EXPECT_EQ(bench.Ask(Post("/tokenize", R"({"prompt":"Hello world"})")).body,
            R"({"count":2,"max_model_len":4096,"tokens":[257,256]})");
  EXPECT_EQ(bench.Ask(Post("/tokenize", R"({"content":"A","with_pieces":true})")).body,
            R"({"count":1,"max_model_len":4096,"tokens":[259],"token_strs":["A"]})");
  EXPECT_EQ(bench.Ask(Post("/detokenize", R"({"tokens":[257,256]})")).body,
            R"({"prompt":"Hello world"})");
  EXPECT_EQ(bench.Ask(Post("/detokenize", R"({"tokens":[264]})")).status, 400);
  EXPECT_THAT(bench.Ask(Get("/metrics")).body, HasSubstr("vllm:num_requests_running"));
  RawClient client(bench.server->port());
  client.Send("HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(client.Read(true).headers.at("content-length"), "15");
}

TEST(Http, OpsPortHasHealthAndMetricsOnly) {
  HttpBench bench(Says("x"));
  for (const Route& route : Routes()) {
    RawClient client(bench.server->ops_port());
    client.Send(Get(route.path));
    EXPECT_EQ(client.Read().status, route.on_ops_port ? 200 : 404) << route.path;
  }
}

TEST(Http, TruncationIsSaidInTheAnswer) {
  HttpBench bench(Says("x"));
  const std::string body = R"({"model":"m","prompt":"abcdef","truncate_prompt_tokens":2})";
  EXPECT_THAT(bench.Ask(Post("/v1/completions", body)).body,
              HasSubstr("\"truncated_prompt_tokens\":4"));
  EXPECT_THAT(bench.Ask(Post("/v1/completions", Completion(""))).body,
              Not(HasSubstr("truncated_prompt_tokens")));
}

TEST(Http, StopEndsStreamsBeforeItReturns) {
  HttpBench bench(Says(std::string(500, 'x')));
  RawClient client(bench.server->port());
  client.Send(Post("/v1/completions", Completion(R"(,"stream":true,"max_tokens":500)")));
  std::string head;
  ASSERT_TRUE(client.ReadSome(head));
  bench.health.SetDraining();
  bench.server->Stop(bench.clock.Now() + 20 * kNanosPerSecond);
  while (client.ReadSome(head)) {
  }
  EXPECT_THAT(head, HasSubstr("data: [DONE]\n\n"));
}

}  // namespace
}  // namespace millrace::server::testing
