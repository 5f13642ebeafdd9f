// Hostile clients on real sockets: each row ends in a typed answer, and a healthy client beside
// them notices nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/http_bench.h"

namespace millrace::server::testing {
namespace {

using ::testing::HasSubstr;

constexpr std::string_view kBody = R"({"model":"m","prompt":"Hello"})";

TEST(HttpHostile, MalformedRequestsGetAnAnswerAndTheConnectionCloses) {
  HttpBench bench(Says("x"));
  const std::vector<std::pair<std::string, int>> rows = {
      {"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
       "Transfer-Encoding: chunked\r\n\r\nabc",
       400},
      {"GET / HTTP/1.1\nHost: x\n\n", 400},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\n\r\n", 400},
      {"GET /" + std::string(20'000, 'a') + " HTTP/1.1\r\n", 431},
      {"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n" +
           std::string(100'000, 'x'),
       413},
      {std::string("\x16\x03\x01\x02\x00\x01\x00", 7), 400},
  };
  for (const auto& [bytes, status] : rows) {
    RawClient client(bench.server->port());
    client.Send(bytes);
    const ClientReply reply = client.Read();
    EXPECT_EQ(reply.status, status) << bytes.substr(0, 60);
    EXPECT_THAT(reply.body, HasSubstr("{\"error\":{\"message\":"));
    EXPECT_EQ(reply.headers.at("connection"), "close");
    EXPECT_EQ(reply.headers.count("x-request-id"), 1u);
    EXPECT_TRUE(client.AtEnd());
  }
}

TEST(HttpHostile, PathsHaveOneSpelling) {
  HttpBench bench(Says("x"));
  for (const char* path :
       {"//v1/models", "/v1//models", "/v1/../v1/models", "/v1/./models", "/%76%31/models",
        "/V1/models", "/v1/models;x", "/v1/models.", "/v1/models/../models", "/v1/models%2f",
        "http://localhost/v1/models", "*", "/", "/v1/models/", "/metrics/", "/livez%00"}) {
    EXPECT_EQ(bench.Ask(Get(path)).status, 404) << path;
  }
  EXPECT_EQ(bench.Ask(Get("/v1/models?x=y")).status, 200);
}

TEST(HttpHostile, GetWithABodyDoesNotBecomeTheNextRequest) {
  HttpBench bench(Says("x"));
  RawClient client(bench.server->port());
  const std::string inner = Get("/v1/nothing");
  client.Send("GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: " +
              std::to_string(inner.size()) + "\r\n\r\n" + inner + Get("/version"));
  EXPECT_EQ(client.Read().body, R"({"status":"ok"})");
  EXPECT_EQ(client.Read().body, R"({"version":"0.1.0"})");
}

TEST(HttpHostile, ExpectContinue) {
  HttpBench bench(Says("x"));
  RawClient client(bench.server->port());
  client.Send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: " +
              std::to_string(kBody.size()) + "\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.Read().status, 100);
  client.Send(kBody);
  EXPECT_EQ(client.Read().status, 200);
  // Too long: refused before a byte of it is sent.
  client.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n"
      "Expect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.Read().status, 413);
}

TEST(HttpHostile, RebindingHostsAreRefusedOnLoopbackWithoutKeys) {
  HttpBench bench(Says("x"));
  const auto ask = [&](std::string_view host, std::string_view path) {
    return bench
        .Ask("GET " + std::string(path) + " HTTP/1.1\r\nHost: " + std::string(host) + "\r\n\r\n")
        .status;
  };
  EXPECT_EQ(ask("evil.example", "/v1/models"), 400);
  EXPECT_EQ(ask("localhost.evil.example", "/v1/models"), 400);
  for (const char* host : {"localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"}) {
    EXPECT_EQ(ask(host, "/v1/models"), 200) << host;
  }
  EXPECT_EQ(ask("pod-ip", "/livez"), 200);
}

TEST(HttpHostile, SlowHeadersBodiesAndIdleSocketsTimeOut) {
  HttpServerOptions options;
  options.timeouts.header = 300 * kNanosPerMilli;
  options.timeouts.body = 300 * kNanosPerMilli;
  options.timeouts.idle = 300 * kNanosPerMilli;
  HttpBench bench(Says("x"), options);
  RawClient header(bench.server->port());
  header.Send("GET / HT");
  RawClient body(bench.server->port());
  body.Send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{");
  RawClient idle(bench.server->port());
  EXPECT_EQ(header.Read().status, 408);
  EXPECT_EQ(body.Read().status, 408);
  EXPECT_TRUE(idle.AtEnd());
}

TEST(HttpHostile, AClientThatNeverReadsIsClosed) {
  HttpServerOptions options;
  options.send_buffer_bytes = 4096;
  options.timeouts.write_stall = 300 * kNanosPerMilli;
  HttpBench bench([](const Request&, int32_t, int32_t) -> TokenId { return 257; }, options);
  RawClient client(bench.server->port(), 2048);
  client.Send(Post("/v1/chat/completions",
                   R"({"model":"m","messages":[{"role":"user","content":"x"}],"stream":true,)"
                   R"("logprobs":true,"top_logprobs":20,"max_tokens":4000})"));
  while (bench.engine.live() == 0) std::this_thread::yield();
  // The write stands still, the connection closes, the request is cancelled.
  while (bench.engine.live() > 0) std::this_thread::yield();
}

TEST(HttpHostile, ConnectionCapRefusesMoreAndTheHealthPortStillAnswers) {
  HttpServerOptions options;
  options.connections_max = 20;
  HttpBench bench(Says("x"), options);
  std::vector<std::unique_ptr<RawClient>> open;
  for (int i = 0; i < 20; ++i) {
    open.push_back(std::make_unique<RawClient>(bench.server->port()));
    open.back()->Send(Get("/livez"));
    ASSERT_EQ(open.back()->Read().status, 200);
  }
  RawClient extra(bench.server->port());
  EXPECT_TRUE(extra.AtEnd());
  RawClient ops(bench.server->ops_port());
  ops.Send(Get("/readyz"));
  EXPECT_EQ(ops.Read().status, 200);
  open.clear();
  for (int i = 0; i < 2000; ++i) {
    if (bench.Ask(Get("/livez")).status == 200) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  FAIL() << "the cap never opened again";
}

// A healthy stream goes on while others misbehave; in the end nothing is left.
TEST(HttpHostile, OthersAreUndisturbed) {
  HttpBench bench(Says(std::string(300, 'c')));
  std::atomic<bool> stop = false;
  std::thread hostile([&] {
    for (int i = 0; !stop; ++i) {
      RawClient client(bench.server->port());
      switch (i % 6) {
        case 0:
          client.Send(
              Post("/v1/completions", "{\"model\":\"m\",\"prompt\":\"x\",\"stream\":true}"));
          client.Reset();
          break;
        case 1:
          client.Send(Post("/v1/completions", std::string(5000, '[')));
          client.Read();
          break;
        case 2:
          client.Send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le");
          break;
        case 3:
          client.Send(Post("/v1/completions", kBody).substr(0, 130));
          client.Reset();
          break;
        case 4:
          client.Send(Get("/metrics") + Get("/metrics") + Get("/metrics"));
          client.Reset();
          break;
        default:
          client.Send(std::string(3000, '\0'));
          client.Read();
      }
    }
  });
  for (int i = 0; i < 30; ++i) {
    const ClientReply reply = bench.Ask(Post(
        "/v1/completions", R"({"model":"m","prompt":"canary","stream":true,"max_tokens":300})"));
    ASSERT_EQ(reply.status, 200);
    std::string text;
    for (const std::string& event : Events(reply.body)) {
      if (event == "[DONE]") continue;
      text += Json::Parse(event)->Find("choices")->array()[0].Find("text")->string_value();
    }
    EXPECT_EQ(text, std::string(300, 'c')) << reply.complete << reply.body;
  }
  stop = true;
  hostile.join();
  while (bench.engine.live() > 0) std::this_thread::yield();
}

TEST(HttpHostile, DeepJsonInAnIgnoredFieldIsRefused) {
  HttpBench bench(Says("x"));
  for (const size_t depth : {size_t{62}, size_t{65}, size_t{100'000}}) {
    const std::string body = R"({"model":"m","prompt":"x","ignored":)" + std::string(depth, '[') +
                             std::string(depth, ']') + "}";
    EXPECT_EQ(bench.Ask(Post("/v1/completions", body)).status, depth < 64 ? 200 : 400) << depth;
  }
}

}  // namespace
}  // namespace millrace::server::testing
