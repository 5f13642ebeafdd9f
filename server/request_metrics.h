#pragma once
// The Prometheus series of the front end: vLLM's names that gateways and dashboards read, with
// vLLM's meaning, and ours beside them. Every series is made at start-up or when the engine's size
// becomes known; no label holds anything a client sent.

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "messages/engine_stats.h"
#include "server/frontend.h"
#include "server/process_metrics.h"
#include "server/request_record.h"

namespace millrace::server {

// Thread: any.
class RequestMetrics {
 public:
  RequestMetrics(MetricsRegistry& registry, const ServedModel& model);

  // Tokens of one event as they come. `step_time` tells steps apart: events of one step have the
  // same. `gap` is the time since the choice's token before (0 with the first).
  struct Tokens {
    int64_t prompt = 0;  // with the first token of a prompt
    int64_t cached = 0;
    int64_t generated = 0;
    bool first_of_choice = false;
    MonoNanos step_time = 0;
    MonoNanos gap = 0;
  };
  void OnTokens(const Tokens& tokens);

  // Once per request, when its outcome is known.
  void OnEnd(const RequestRecord& record);
  void OnIgnoredFields(int32_t count) { ignored_fields_.Add(count); }

  // Brings gauges and engine counters up to date; closes the current step. Called by a scrape.
  void Refresh(const EngineStats& stats);

 private:
  void AddHistograms(MetricsRegistry& registry, const ServedModel& model);
  void AddEngineSeries(MetricsRegistry& registry, const ServedModel& model);
  void OnChoiceEnd(const RequestRecord& record, const ChoiceRecord& choice);
  void CloseStep();  // REQUIRES: mutex_ held

  MetricLabels labels_;
  MetricsRegistry& registry_;
  const ServedModel model_;

  Counter prompt_tokens_, prompt_tokens_cached_, generation_tokens_, ignored_fields_;
  std::array<Counter, 4> success_;                    // stop, length, abort, error
  std::array<Counter, kErrorKindCount> rejected_;     // by ErrorKind
  std::array<Counter, kFinishReasonCount> finished_;  // by FinishReason

  Histogram ttft_, itl_, tpot_, e2e_, queue_, inference_, prefill_, decode_;
  Histogram iteration_tokens_, request_prompt_tokens_, request_generation_tokens_;
  Histogram max_generation_tokens_, params_n_, params_max_tokens_, preemptions_, kv_computed_;

  Gauge running_, waiting_, waiting_capacity_, waiting_deferred_, kv_usage_;
  std::map<std::string, Gauge> kv_blocks_;  // by state
  Gauge sequences_paused_, step_seconds_, step_tokens_, engine_healthy_;
  Counter prefix_queries_, prefix_hits_, engine_preemptions_, engine_steps_, recomputed_, pauses_;
  Counter drafts_, draft_tokens_, accepted_tokens_;
  std::vector<Counter> accepted_at_;  // by place in the row, as far as any was

  ProcessMetrics process_;

  std::mutex mutex_;  // guards what follows
  MonoNanos step_time_ = 0;
  int64_t step_sum_ = 0;
  bool sized_ = false;
};

}  // namespace millrace::server
