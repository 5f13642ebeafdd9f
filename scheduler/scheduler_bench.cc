// Plan, apply and taking the events of one step, with N sequences decoding. The aims are 25, 90 and
// 350 us at 256, 1,024 and 4,096 (issue 3).

#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "messages/step_plan.h"
#include "messages/step_result.h"
#include "scheduler/scheduler.h"

namespace millrace::scheduler {
namespace {

constexpr int32_t kPrompt = 128;
constexpr int32_t kOutput = 4096;

// Results for a plan, at no cost that grows with anything but its rows.
void Answer(const StepPlan& plan, StepResult& result) {
  result.step = plan.step;
  result.rows.clear();
  result.tokens.clear();
  for (const PlanRow& row : plan.rows) {
    RowResult& out = result.rows.emplace_back();
    out.sequence = row.sequence;
    out.slot = row.slot;
    if (row.output != RowOutput::kSample) continue;
    out.tokens = {static_cast<uint32_t>(result.tokens.size()), 1};
    // Not an end token; different for each sequence, so that nothing is shared.
    result.tokens.push_back(
        static_cast<TokenId>(100 + (row.sequence.value() * 31 + plan.step.value()) % 40000));
  }
}

SchedulerConfig Config(int32_t sequences) {
  SchedulerConfig config;
  config.block_tokens = 32;
  config.blocks = sequences * ((kPrompt + kOutput) / 32 + 1);
  config.slots = sequences;
  config.tokens_per_step = 8192;
  config.prefill_chunk_max = 512;
  config.max_model_len = kPrompt + kOutput;
  config.max_in_flight = 1;
  config.end_tokens = {2};
  return config;
}

void AddRequests(Scheduler& scheduler, int32_t count, uint64_t& next_id) {
  for (int32_t i = 0; i < count; ++i) {
    Request request;
    request.id = RequestId(next_id++);
    for (int32_t t = 0; t < kPrompt; ++t) {
      request.prompt.push_back(static_cast<TokenId>(
          (request.id.value() * 131 + static_cast<uint64_t>(t)) % 40000 + 100));
    }
    // Ends are spread over the steps, as they are in life.
    request.stop.max_tokens = kOutput - static_cast<int32_t>(request.id.value() % 64);
    scheduler.Add(request, 1);
  }
}

void BM_DecodeStep(benchmark::State& state) {
  const auto sequences = static_cast<int32_t>(state.range(0));
  uint64_t next_id = 1;
  auto scheduler = std::make_unique<Scheduler>(Config(sequences));
  AddRequests(*scheduler, sequences, next_id);
  StepPlan plan;
  StepResult result;
  std::vector<TokenEvent> events;
  int64_t rows = 0;
  int64_t steps = 0;
  // Until all decode.
  const auto step = [&] {
    scheduler->PlanInto(1, plan);
    Answer(plan, result);
    scheduler->Apply(result, 1);
    scheduler->TakeEventsInto(events);
  };
  while (scheduler->Stats().sequences_waiting > 0 ||
         scheduler->Stats().generation_tokens < sequences) {
    step();
  }
  for (int i = 0; i < 40; ++i) step();
  for (auto _ : state) {
    scheduler->PlanInto(1, plan);
    state.PauseTiming();
    Answer(plan, result);
    if (++steps % 3000 == 0) {  // before they end: a fresh start, outside the measurement
      scheduler = std::make_unique<Scheduler>(Config(sequences));
      AddRequests(*scheduler, sequences, next_id);
      while (scheduler->Stats().sequences_waiting > 0) step();
      scheduler->PlanInto(1, plan);
      Answer(plan, result);
    }
    state.ResumeTiming();
    scheduler->Apply(result, 1);
    scheduler->TakeEventsInto(events);
    benchmark::DoNotOptimize(events.data());
    rows += static_cast<int64_t>(plan.rows.size());
  }
  state.counters["rows/step"] =
      benchmark::Counter(static_cast<double>(rows) / static_cast<double>(state.iterations()));
  state.counters["time/row"] = benchmark::Counter(
      static_cast<double>(rows), benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}
BENCHMARK(BM_DecodeStep)->Arg(256)->Arg(1024)->Arg(4096)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace millrace::scheduler

BENCHMARK_MAIN();
