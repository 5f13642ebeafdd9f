// Trace context, metrics and log lines.
#include <gtest/gtest.h>

#include "base/json.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/trace.h"

namespace millrace {
namespace {

constexpr char kParent[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(TraceContext, ReadsAndWrites) {
  const auto context = ParseTraceContext(kParent, "a=1,b=2");
  ASSERT_TRUE(context.has_value());
  EXPECT_TRUE(context->sampled());
  EXPECT_EQ(context->trace_state, "a=1,b=2");
  EXPECT_EQ(context->ToTraceparent(), kParent);
}

TEST(TraceContext, LaterVersionsMayHaveMore) {
  std::string text = kParent;
  text[1] = '1';
  EXPECT_TRUE(ParseTraceContext(text, "").has_value());
  EXPECT_TRUE(ParseTraceContext(text + "-more", "").has_value());
  EXPECT_FALSE(ParseTraceContext(text + "more", "").has_value());
  EXPECT_FALSE(ParseTraceContext(std::string(kParent) + "-more", "").has_value());
}

TEST(TraceContext, RefusesTheMalformed) {
  for (const std::string text :
       {"", "00", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
        "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}) {
    EXPECT_FALSE(ParseTraceContext(text, "").has_value()) << text;
  }
}

TEST(TraceContext, DropsABadTraceStateAlone) {
  std::string many = "a=1";
  for (int i = 0; i < 32; ++i) many += ",a" + std::to_string(i) + "=1";
  for (const std::string& state : std::vector<std::string>{many, std::string(513, 'a'), "a=\n", "a",
                                                           "A=1", "a=1,a=2", "1a=1"}) {
    const auto context = ParseTraceContext(kParent, state);
    ASSERT_TRUE(context.has_value());
    EXPECT_EQ(context->trace_state, "");
  }
}

TEST(Metrics, ExposesVllmNamesAndKeepsSeriesApart) {
  MetricsRegistry registry;
  registry.AddGauge("vllm:num_requests_running", "Running.", {{"model_name", "m"}}).Set(3);
  registry.AddCounter("vllm:prompt_tokens_total", "Tokens.").Add(5);
  registry.AddCounter("vllm:prompt_tokens_total", "Tokens.").Add(2);  // the same series
  registry.AddHistogram("a_seconds", "Time.", {0.1, 1}).Observe(0.5);
  const std::string text = registry.Expose();
  EXPECT_NE(text.find("vllm:num_requests_running{model_name=\"m\"} 3"), std::string::npos) << text;
  EXPECT_NE(text.find("vllm:prompt_tokens_total 7"), std::string::npos) << text;
  EXPECT_NE(text.find("a_seconds_bucket{le=\"1\"} 1"), std::string::npos) << text;
  EXPECT_NE(text.find("a_seconds_count 1"), std::string::npos) << text;
  EXPECT_LT(text.find("a_seconds"), text.find("vllm:")) << "sorted by name";
}

TEST(Metrics, DefaultHandlesDoNothing) {
  Counter().Add();
  Gauge().Set(1);
  Histogram().Observe(1);
  EXPECT_EQ(Counter().Value(), 0);
}

TEST(Log, JsonLinesAreWholeAndEscaped) {
  testing::internal::CaptureStderr();
  InitLogging({.json = true, .level = LogLevel::kInfo});
  Log(LogLevel::kInfo, "event",
      {{"text", "a\n\x1b[31m\"\xff"}, {"n", int64_t{-3}}, {"r", 0.5}, {"b", true}});
  Log(LogLevel::kDebug, "hidden");
  Log(LogLevel::kError, "long", {{"text", std::string(5000, 'x')}});
  FlushLogs();
  const std::string out = testing::internal::GetCapturedStderr();
  const size_t end = out.find('\n');
  const auto line = Json::Parse(out.substr(0, end));
  ASSERT_TRUE(line.ok()) << out;
  EXPECT_EQ(line->Find("msg")->string_value(), "event");
  EXPECT_EQ(line->Find("level")->string_value(), "info");
  EXPECT_EQ(line->Find("text")->string_value(), "a\n\x1b[31m\"\xEF\xBF\xBD");
  EXPECT_EQ(line->Find("n")->number_text(), "-3");
  EXPECT_EQ(out.find("hidden"), std::string::npos);
  const auto second = Json::Parse(out.substr(end + 1, out.size() - end - 2));
  ASSERT_TRUE(second.ok()) << out;
  EXPECT_EQ(second->Find("text")->string_value().size(), 1024u);
  EXPECT_EQ(LogLinesDropped(), 0u);
}

}  // namespace
}  // namespace millrace
