// Metrics with vLLM's meaning, spans, health.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <map>
#include <thread>

#include "base/log.h"
#include "server/testing.h"

namespace millrace::server::testing {
namespace {

using ::testing::HasSubstr;

// The value of a series whose line begins with `start`, or -1.
double Value(const std::string& text, const std::string& start) {
  const size_t at = ("\n" + text).find("\n" + start);
  if (at == std::string::npos) return -1;
  const size_t end = text.find('\n', at);
  const std::string line = text.substr(at, end - at);
  return std::atof(line.c_str() + line.rfind(' ') + 1);
}
double Series(const std::string& text, const std::string& name, const std::string& more = "") {
  // Labels are printed in one order by the exposition; both are tried.
  for (const std::string& labels : {"{model_name=\"m\",engine=\"0\"" + more + "}",
                                    "{engine=\"0\"" + more + ",model_name=\"m\"}",
                                    "{engine=\"0\",model_name=\"m\"" + more + "}"}) {
    const double value = Value(text, name + labels);
    if (value >= 0) return value;
  }
  return -1;
}

void Finish(Bench& bench, GenerationRequest request) {
  bench.sink = std::make_shared<RecordingSink>();
  auto generation = bench.Start(std::move(request));
  bench.engine.RunAll();
  ASSERT_TRUE(bench.sink->WaitForEnd());
}

TEST(Metrics, CountsAreThoseOfVllmsTest) {
  Bench bench(Says("12345"));
  constexpr int kRequests = 10;
  for (int i = 0; i < kRequests; ++i) Finish(bench, bench.Completion("abc", 20));
  const std::string text = bench.frontend->MetricsText();
  const double prompt = 3 * kRequests, output = 6 * kRequests;  // five bytes and the end token
  EXPECT_EQ(Series(text, "vllm:prompt_tokens_total"), prompt);
  EXPECT_EQ(Series(text, "vllm:generation_tokens_total"), output);
  for (const char* name :
       {"time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds",
        "request_inference_time_seconds", "request_prefill_time_seconds",
        "request_decode_time_seconds", "request_time_per_output_token_seconds",
        "request_prompt_tokens", "request_generation_tokens", "request_max_num_generation_tokens",
        "request_params_n", "request_params_max_tokens", "request_num_preemptions",
        "request_prefill_kv_computed_tokens"}) {
    EXPECT_EQ(Series(text, std::string("vllm:") + name + "_count"), kRequests) << name;
  }
  EXPECT_EQ(Series(text, "vllm:inter_token_latency_seconds_count"), output - kRequests);
  EXPECT_EQ(Series(text, "vllm:iteration_tokens_total_sum"), prompt + output);
  EXPECT_EQ(Series(text, "vllm:request_prompt_tokens_sum"), prompt);
  EXPECT_EQ(Series(text, "vllm:request_generation_tokens_sum"), output);
  EXPECT_EQ(Series(text, "vllm:request_params_n_sum"), kRequests);
  EXPECT_EQ(Series(text, "vllm:request_params_max_tokens_sum"), 20 * kRequests);
  EXPECT_EQ(Series(text, "vllm:request_success_total", ",finished_reason=\"stop\""), kRequests);
  EXPECT_EQ(Series(text, "vllm:num_requests_running"), 0);
  EXPECT_THAT(text, HasSubstr("vllm:cache_config_info{"));
  EXPECT_THAT(text, HasSubstr("num_gpu_blocks=\"100\""));
}

TEST(Metrics, TheProcessIsToldUnderTheStandardNames) {
  Bench bench(Says("x"));
  const std::string before = bench.frontend->MetricsText();
  const auto now = static_cast<double>(std::time(nullptr));
  EXPECT_GT(Value(before, "process_resident_memory_bytes "), 1 << 20);
  EXPECT_GT(Value(before, "process_virtual_memory_bytes "),
            Value(before, "process_resident_memory_bytes "));
  EXPECT_NEAR(Value(before, "process_start_time_seconds "), now, 60);
  EXPECT_GT(Value(before, "process_max_fds "), Value(before, "process_open_fds "));
  const std::clock_t begin = std::clock();
  while (std::clock() - begin < CLOCKS_PER_SEC / 20) continue;  // 50 ms of CPU: 5 ticks
  std::FILE* file = std::fopen("/dev/null", "r");
  const std::string after = bench.frontend->MetricsText();
  std::fclose(file);
  EXPECT_EQ(Value(after, "process_open_fds "), Value(before, "process_open_fds ") + 1);
  EXPECT_GE(Value(after, "process_cpu_seconds_total "),
            Value(before, "process_cpu_seconds_total ") + 0.03);
}

// Lines into a pipe that nobody reads fill the queue; what it loses is counted.
TEST(Metrics, LostLogLinesAreCounted) {
  Bench bench(Says("x"));
  EXPECT_EQ(Value(bench.frontend->MetricsText(), "millrace_log_lines_dropped_total "), 0);
  InitLogging({.json = true, .level = LogLevel::kInfo});
  std::signal(SIGPIPE, SIG_IGN);
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const int kept = ::dup(STDERR_FILENO);
  ::dup2(ends[1], STDERR_FILENO);
  for (int i = 0; i < 100'000 && LogLinesDropped() == 0; ++i) {
    Log(LogLevel::kInfo, "line", {{"text", std::string_view("0123456789012345678901234567890")}});
  }
  ::dup2(kept, STDERR_FILENO);
  ::close(ends[0]);  // whoever writes goes on
  ::close(ends[1]);
  ::close(kept);
  FlushLogs();
  const auto lost = static_cast<double>(LogLinesDropped());
  EXPECT_GT(lost, 0);
  EXPECT_EQ(Value(bench.frontend->MetricsText(), "millrace_log_lines_dropped_total "), lost);
  EXPECT_EQ(Value(bench.frontend->MetricsText(), "millrace_log_lines_dropped_total "), lost);
}

TEST(Metrics, ADroppedTailIsNotCounted) {
  Bench bench(Says("12345END67890"));
  GenerationRequest request = bench.Completion("x", 50);
  request.stop.strings = {"END"};
  Finish(bench, std::move(request));
  const std::string text = bench.frontend->MetricsText();
  EXPECT_EQ(Series(text, "vllm:generation_tokens_total"), 8);
  EXPECT_EQ(Series(text, "vllm:request_generation_tokens_sum"), 8);
  EXPECT_EQ(Series(text, "vllm:inter_token_latency_seconds_count"), 7);
}

TEST(Metrics, AbortsCountAndGaugesFall) {
  Bench bench(Says(std::string(1000, 'x')));
  auto generation = bench.Start(bench.Completion("x", 1000));
  bench.engine.Step();
  ASSERT_TRUE(bench.sink->WaitForDeltas(1));
  EXPECT_EQ(Series(bench.frontend->MetricsText(), "vllm:num_requests_running"), 1);
  EXPECT_NEAR(Series(bench.frontend->MetricsText(), "vllm:kv_cache_usage_perc"), 0.01, 1e-9);
  generation->Cancel();
  bench.engine.Step();
  std::string text;
  for (int i = 0; i < 5000; ++i) {
    text = bench.frontend->MetricsText();
    if (Series(text, "vllm:request_success_total", ",finished_reason=\"abort\"") == 1) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(Series(text, "vllm:request_success_total", ",finished_reason=\"abort\""), 1);
  EXPECT_EQ(Series(text, "vllm:num_requests_running"), 0);
}

TEST(Metrics, SeriesDoNotGrowWithWhatClientsSend) {
  Bench bench(Says("x"));
  Finish(bench, bench.Completion("x", 5));
  const auto lines = [&] {
    const std::string text = bench.frontend->MetricsText();
    return std::count(text.begin(), text.end(), '\n');
  };
  const auto before = lines();
  for (int i = 0; i < 50; ++i) {
    GenerationRequest request = bench.Completion("x", 5);
    request.origin.request_id = "id" + std::to_string(i);
    request.origin.route = "/r" + std::to_string(i);
    request.model = i % 2 == 0 ? "m" : "model" + std::to_string(i);
    Finish(bench, std::move(request));
  }
  EXPECT_EQ(lines(), before);
}

class KeptSpans final : public SpanSink {
 public:
  void Export(Span&& span) override {
    std::lock_guard lock(mutex);
    spans.push_back(std::move(span));
  }
  std::mutex mutex;
  std::vector<Span> spans;
};

TEST(Spans, ARequestIsATreeOfFour) {
  Bench bench(Says("Hi"));
  KeptSpans kept;
  FrontendDeps deps;
  deps.engine = &bench.engine;
  deps.clock = &bench.clock;
  MetricsRegistry metrics;
  deps.metrics = &metrics;
  deps.spans = &kept;
  bench.frontend = std::make_unique<Frontend>(Bench::MakeModel(bench.tokenizer, bench.chat.get()),
                                              FrontendOptions{}, deps);
  GenerationRequest request = bench.Completion("secret prompt", 5);
  const std::string parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  request.origin.trace = ParseTraceContext(parent, "");
  ASSERT_TRUE(request.origin.trace);
  Finish(bench, request);
  ASSERT_EQ(kept.spans.size(), 4u);
  const Span& root = kept.spans.back();
  EXPECT_EQ(root.name, "POST /v1/completions");
  EXPECT_EQ(root.kind, SpanKind::kServer);
  EXPECT_EQ(root.context.trace_id, request.origin.trace->trace_id);
  EXPECT_EQ(root.parent_span_id, request.origin.trace->span_id);
  EXPECT_NE(root.context.span_id, request.origin.trace->span_id);
  EXPECT_EQ(bench.sink->accepted->traceparent, root.context.ToTraceparent());
  std::vector<std::string> names;
  for (size_t i = 0; i < 3; ++i) {
    names.push_back(kept.spans[i].name);
    EXPECT_EQ(kept.spans[i].parent_span_id, root.context.span_id);
    EXPECT_GE(kept.spans[i].start, root.start);
    EXPECT_GE(kept.spans[i].end, kept.spans[i].start);
  }
  EXPECT_THAT(names, ::testing::ElementsAre("queue", "prefill", "decode"));
  EXPECT_EQ(kept.spans[0].end, kept.spans[1].start);
  EXPECT_EQ(kept.spans[1].end, kept.spans[2].start);
  std::map<std::string, AttributeValue> attributes(root.attributes.begin(), root.attributes.end());
  EXPECT_EQ(std::get<std::string>(attributes.at("gen_ai.operation.name")), "text_completion");
  EXPECT_EQ(std::get<int64_t>(attributes.at("gen_ai.usage.output_tokens")), 3);
  EXPECT_EQ(std::get<std::vector<std::string>>(attributes.at("gen_ai.response.finish_reasons")),
            std::vector<std::string>{"stop"});
  for (const Span& span : kept.spans) {
    for (const Attribute& attribute : span.attributes) {
      const auto* text = std::get_if<std::string>(&attribute.second);
      EXPECT_TRUE(text == nullptr || text->find("secret") == std::string::npos);
    }
  }
  // The caller said: not sampled.
  request.origin.trace->flags = 0;
  Finish(bench, request);
  EXPECT_EQ(kept.spans.size(), 4u);
}

// Says what it is told to.
class FakeStats final : public EnginePort {
 public:
  absl::Status Submit(Request, TokenSink*) override { return absl::OkStatus(); }
  void Cancel(RequestId, FinishReason) override {}
  void Finish(RequestId, int32_t, FinishReason, int32_t) override {}
  void Resume(RequestId) override {}
  EngineStats Stats() const override { return stats; }
  EngineStats stats;
};

TEST(HealthStates, ReadyNeedsARealStepAndProgress) {
  FakeStats engine;
  FakeClock clock;
  HealthOptions options;
  options.wedged_after = 10 * kNanosPerSecond;
  options.dead_after = 100 * kNanosPerSecond;
  Health health(engine, clock, options);
  EXPECT_EQ(health.Ready(), Readiness::kLoading);
  health.SetServing();
  EXPECT_EQ(health.Ready(), Readiness::kLoading);  // no step yet
  engine.stats.steps = 1;
  EXPECT_EQ(health.Ready(), Readiness::kReady);
  // Idle for an hour, then work comes: not wedged.
  clock.Advance(3600 * kNanosPerSecond);
  EXPECT_EQ(health.Ready(), Readiness::kReady);
  engine.stats.sequences_waiting = 1;
  EXPECT_EQ(health.Ready(), Readiness::kReady);
  clock.Advance(9 * kNanosPerSecond);
  EXPECT_EQ(health.Ready(), Readiness::kReady);
  clock.Advance(2 * kNanosPerSecond);
  EXPECT_EQ(health.Ready(), Readiness::kWedged);
  EXPECT_TRUE(health.Alive());
  // Busy is not dead: a step ended.
  engine.stats.last_step_end = clock.Now();
  EXPECT_EQ(health.Ready(), Readiness::kReady);
  clock.Advance(101 * kNanosPerSecond);
  EXPECT_FALSE(health.Alive());
  // Paused work waits for its client.
  engine.stats.sequences_paused = 1;
  EXPECT_TRUE(health.Alive());
  engine.stats.healthy = false;
  EXPECT_EQ(health.Ready(), Readiness::kFailed);
  EXPECT_FALSE(health.Alive());
  health.SetDraining();
  EXPECT_EQ(health.Ready(), Readiness::kDraining);
}

}  // namespace
}  // namespace millrace::server::testing
