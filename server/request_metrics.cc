#include "server/request_metrics.h"

#include <algorithm>
#include <vector>

namespace millrace::server {
namespace {

using Buckets = std::vector<double>;

// vLLM's, with finer ones below 10 ms: a superset keeps its queries valid.
const Buckets& FirstTokenBuckets() {
  static const Buckets buckets = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                  1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
  return buckets;
}
const Buckets& TokenGapBuckets() {
  static const Buckets buckets = {.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3,
                                  .4,   .5,    .75,  1,   2.5,  5,   7.5,  10, 20,  40, 80};
  return buckets;
}
const Buckets& RequestBuckets() {
  static const Buckets buckets = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                  30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
  return buckets;
}
const Buckets& StepBuckets() {
  static const Buckets buckets = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
  return buckets;
}
// 1, 2, 5, 10, 20, 50, … up to the model's length.
Buckets TokenCountBuckets(int32_t most) {
  Buckets buckets;
  for (int64_t decade = 1; decade <= most; decade *= 10) {
    for (const int64_t step : {1, 2, 5}) {
      if (decade * step <= most) buckets.push_back(static_cast<double>(decade * step));
    }
  }
  return buckets;
}

double Seconds(MonoNanos nanos) {
  return static_cast<double>(std::max<MonoNanos>(0, nanos)) / 1e9;
}

// Engine counters are totals; a scrape adds what came since the last one.
void RaiseTo(const Counter& counter, int64_t total) {
  const double missing = static_cast<double>(total) - counter.Value();
  if (missing > 0) counter.Add(missing);
}

}  // namespace

RequestMetrics::RequestMetrics(MetricsRegistry& registry, const ServedModel& model)
    : labels_({{"model_name", model.card.name}, {"engine", "0"}}),
      registry_(registry),
      model_(model),
      process_(registry) {
  const auto counter = [&](const char* name, const char* help) {
    return registry.AddCounter(name, help, labels_);
  };
  prompt_tokens_ = counter("vllm:prompt_tokens_total", "Prompt tokens, cached ones included.");
  prompt_tokens_cached_ =
      counter("vllm:prompt_tokens_cached_total", "Prompt tokens from the prefix cache.");
  generation_tokens_ = counter("vllm:generation_tokens_total", "Generated tokens.");
  constexpr std::array<const char*, 4> kReasons = {"stop", "length", "abort", "error"};
  for (size_t i = 0; i < kReasons.size(); ++i) {
    MetricLabels labels = labels_;
    labels.emplace_back("finished_reason", kReasons[i]);
    success_[i] =
        registry.AddCounter("vllm:request_success_total", "Finished requests by reason.", labels);
  }
  for (size_t i = 0; i < rejected_.size(); ++i) {
    rejected_[i] = registry.AddCounter("millrace_requests_failed_total",
                                       "Requests that ended in an error, by reason.",
                                       {{"reason", ShapeOf(static_cast<ErrorKind>(i)).reason}});
  }
  for (size_t i = 1; i < finished_.size(); ++i) {
    finished_[i] =
        registry.AddCounter("millrace_choices_finished_total", "Choices by finish reason.",
                            {{"reason", FinishReasonName(static_cast<FinishReason>(i))}});
  }
  ignored_fields_ = registry.AddCounter("millrace_ignored_fields_total",
                                        "Unknown request fields that were ignored.");
  AddHistograms(registry, model);
  AddEngineSeries(registry, model);
}

void RequestMetrics::AddHistograms(MetricsRegistry& registry, const ServedModel& model) {
  const auto add = [&](const char* name, const char* help, const Buckets& buckets) {
    return registry.AddHistogram(name, help, buckets, labels_);
  };
  ttft_ = add("vllm:time_to_first_token_seconds", "Arrival to first token.", FirstTokenBuckets());
  itl_ = add("vllm:inter_token_latency_seconds", "Time between tokens.", TokenGapBuckets());
  tpot_ = add("vllm:request_time_per_output_token_seconds",
              "Mean time per token after the first, of one request.", TokenGapBuckets());
  e2e_ = add("vllm:e2e_request_latency_seconds", "Arrival to last token.", RequestBuckets());
  queue_ = add("vllm:request_queue_time_seconds", "Arrival to first step.", RequestBuckets());
  inference_ =
      add("vllm:request_inference_time_seconds", "First step to last token.", RequestBuckets());
  prefill_ =
      add("vllm:request_prefill_time_seconds", "First step to first token.", RequestBuckets());
  decode_ = add("vllm:request_decode_time_seconds", "First to last token.", RequestBuckets());
  iteration_tokens_ = add("vllm:iteration_tokens_total",
                          "Prompt and generated tokens of one engine step.", StepBuckets());
  const Buckets counts = TokenCountBuckets(model.card.max_model_len);
  request_prompt_tokens_ = add("vllm:request_prompt_tokens", "Prompt tokens.", counts);
  request_generation_tokens_ = add("vllm:request_generation_tokens", "Generated tokens.", counts);
  max_generation_tokens_ = add("vllm:request_max_num_generation_tokens",
                               "The longest choice's tokens of a request.", counts);
  params_n_ = add("vllm:request_params_n", "n of requests.", {1, 2, 5, 10, 20});
  params_max_tokens_ = add("vllm:request_params_max_tokens", "max_tokens of requests.", counts);
  preemptions_ =
      add("vllm:request_num_preemptions", "Preemptions of one request.", {0, 1, 2, 5, 10, 20});
  kv_computed_ = add("vllm:request_prefill_kv_computed_tokens",
                     "Prompt tokens that the prefix cache did not have.", counts);
}

void RequestMetrics::AddEngineSeries(MetricsRegistry& registry, const ServedModel& model) {
  const auto gauge = [&](const char* name, const char* help) {
    return registry.AddGauge(name, help, labels_);
  };
  const auto counter = [&](const char* name, const char* help) {
    return registry.AddCounter(name, help, labels_);
  };
  running_ = gauge("vllm:num_requests_running", "Sequences in the running batch.");
  waiting_ = gauge("vllm:num_requests_waiting", "Sequences that wait for a step.");
  const auto reason = [&](const char* value) {
    MetricLabels labels = labels_;
    labels.emplace_back("reason", value);
    return registry.AddGauge("vllm:num_requests_waiting_by_reason", "Waiting sequences by reason.",
                             labels);
  };
  waiting_capacity_ = reason("capacity");
  waiting_deferred_ = reason("deferred");
  kv_usage_ = gauge("vllm:kv_cache_usage_perc", "KV blocks in use; 1 is full.");
  prefix_queries_ = counter("vllm:prefix_cache_queries_total", "Prompt tokens looked up.");
  prefix_hits_ = counter("vllm:prefix_cache_hits_total", "Prompt tokens found.");
  counter("vllm:external_prefix_cache_queries_total", "Always 0: there is no second tier.");
  counter("vllm:external_prefix_cache_hits_total", "Always 0: there is no second tier.");
  engine_preemptions_ = counter("vllm:num_preemptions_total", "Preemptions.");
  drafts_ = counter("vllm:spec_decode_num_drafts_total", "Steps of a sequence with guesses.");
  draft_tokens_ = counter("vllm:spec_decode_num_draft_tokens_total", "Guessed tokens.");
  accepted_tokens_ =
      counter("vllm:spec_decode_num_accepted_tokens_total", "Guessed tokens that were right.");
  for (const char* state : {"free", "active", "cached", "pending", "quarantined"}) {
    kv_blocks_[state] =
        registry.AddGauge("millrace_kv_blocks", "KV blocks by state.", {{"state", state}});
  }
  sequences_paused_ =
      registry.AddGauge("millrace_sequences_paused", "Sequences whose client does not read.");
  step_seconds_ = registry.AddGauge("millrace_last_step_seconds", "Time of the last engine step.");
  step_tokens_ = registry.AddGauge("millrace_last_step_tokens", "Tokens of the last engine step.");
  engine_healthy_ = registry.AddGauge("millrace_engine_healthy", "1 until the engine has failed.");
  engine_steps_ = registry.AddCounter("millrace_engine_steps_total", "Engine steps.");
  recomputed_ = registry.AddCounter("millrace_recomputed_tokens_total",
                                    "Tokens computed again after a preemption.");
  pauses_ = registry.AddCounter("millrace_stream_pauses_total",
                                "Pauses of requests whose client did not read.");
  registry
      .AddGauge("millrace_build_info", "1; labels say what runs.",
                {{"model", model.card.name},
                 {"architecture", model.card.architecture},
                 {"format", model.card.format},
                 {"fingerprint", model.card.fingerprint}})
      .Set(1);
}

void RequestMetrics::OnTokens(const Tokens& tokens) {
  if (tokens.prompt > 0) prompt_tokens_.Add(static_cast<double>(tokens.prompt));
  if (tokens.cached > 0) prompt_tokens_cached_.Add(static_cast<double>(tokens.cached));
  if (tokens.generated > 0) generation_tokens_.Add(static_cast<double>(tokens.generated));
  // One observation for each token after the first; tokens of one step share its time.
  const double gap =
      tokens.generated > 0 ? Seconds(tokens.gap) / static_cast<double>(tokens.generated) : 0;
  for (int64_t i = tokens.first_of_choice ? 1 : 0; i < tokens.generated; ++i) itl_.Observe(gap);
  std::lock_guard lock(mutex_);
  if (tokens.step_time != step_time_) CloseStep();
  step_time_ = tokens.step_time;
  step_sum_ += tokens.prompt + tokens.generated;
}

void RequestMetrics::CloseStep() {
  if (step_sum_ > 0) iteration_tokens_.Observe(static_cast<double>(step_sum_));
  step_sum_ = 0;
}

void RequestMetrics::OnEnd(const RequestRecord& record) {
  if (record.error) rejected_[static_cast<size_t>(record.error->kind)].Add();
  if (record.choices.empty()) return;
  int64_t longest = 0;
  for (const ChoiceRecord& choice : record.choices) {
    OnChoiceEnd(record, choice);
    longest = std::max(longest, choice.usage.completion_tokens);
  }
  params_n_.Observe(static_cast<double>(record.n));
  params_max_tokens_.Observe(static_cast<double>(record.max_tokens));
  max_generation_tokens_.Observe(static_cast<double>(longest));
}

void RequestMetrics::OnChoiceEnd(const RequestRecord& record, const ChoiceRecord& choice) {
  const size_t outcome = choice.finish == FinishReason::kStop     ? 0
                         : choice.finish == FinishReason::kLength ? 1
                         : record.error && !record.cancelled      ? 3
                                                                  : 2;
  success_[outcome].Add();
  finished_[static_cast<size_t>(choice.finish)].Add();
  const SequenceTimes& times = choice.times;
  const MonoNanos last = std::max(times.last_token, times.first_token);
  e2e_.Observe(Seconds((last != 0 ? last : record.end) - record.arrival));
  request_prompt_tokens_.Observe(static_cast<double>(choice.usage.prompt_tokens));
  request_generation_tokens_.Observe(static_cast<double>(choice.usage.completion_tokens));
  preemptions_.Observe(choice.preemptions);
  kv_computed_.Observe(
      static_cast<double>(choice.usage.prompt_tokens - choice.usage.cached_tokens));
  if (times.first_scheduled != 0) queue_.Observe(Seconds(times.first_scheduled - record.arrival));
  if (times.first_token == 0) return;
  ttft_.Observe(Seconds(times.first_token - record.arrival));
  inference_.Observe(Seconds(last - times.first_scheduled));
  prefill_.Observe(Seconds(times.first_token - times.first_scheduled));
  decode_.Observe(Seconds(last - times.first_token));
  if (choice.usage.completion_tokens > 1) {
    tpot_.Observe(Seconds(last - times.first_token) /
                  static_cast<double>(choice.usage.completion_tokens - 1));
  }
}

void RequestMetrics::Refresh(const EngineStats& stats) {
  process_.Refresh();
  std::lock_guard lock(mutex_);
  CloseStep();
  running_.Set(stats.sequences_running);
  waiting_.Set(stats.sequences_waiting);
  waiting_capacity_.Set(stats.sequences_waiting);
  waiting_deferred_.Set(0);
  kv_usage_.Set(stats.kv_usage);
  kv_blocks_["free"].Set(stats.blocks_free);
  kv_blocks_["active"].Set(stats.blocks_active);
  kv_blocks_["cached"].Set(stats.blocks_cached);
  kv_blocks_["pending"].Set(stats.blocks_pending);
  kv_blocks_["quarantined"].Set(stats.blocks_quarantined);
  sequences_paused_.Set(stats.sequences_paused);
  step_seconds_.Set(Seconds(stats.last_step_nanos));
  step_tokens_.Set(stats.last_step_tokens);
  engine_healthy_.Set(stats.healthy ? 1 : 0);
  RaiseTo(prefix_queries_, stats.prefix_queries);
  RaiseTo(prefix_hits_, stats.prefix_hits);
  RaiseTo(engine_preemptions_, stats.preemptions);
  RaiseTo(engine_steps_, stats.steps);
  RaiseTo(recomputed_, stats.recomputed_tokens);
  RaiseTo(pauses_, stats.pauses);
  RaiseTo(drafts_, stats.drafts);
  RaiseTo(draft_tokens_, stats.draft_tokens);
  RaiseTo(accepted_tokens_, stats.draft_tokens_accepted);
  for (size_t i = 0; i < stats.accepted_at.size() && stats.accepted_at[i] > 0; ++i) {
    if (i == accepted_at_.size()) {
      MetricLabels labels = labels_;
      labels.emplace_back("position", std::to_string(i));
      accepted_at_.push_back(registry_.AddCounter(
          "vllm:spec_decode_num_accepted_tokens_per_pos_total", "The same by place.", labels));
    }
    RaiseTo(accepted_at_[i], stats.accepted_at[i]);
  }
  if (sized_ || stats.blocks_total == 0) return;
  sized_ = true;
  const int64_t tokens = int64_t{stats.blocks_total} * model_.block_tokens;
  MetricLabels labels = labels_;
  labels.emplace_back("block_size", std::to_string(model_.block_tokens));
  labels.emplace_back("num_gpu_blocks", std::to_string(stats.blocks_total));
  labels.emplace_back("kv_cache_size_tokens", std::to_string(tokens));
  labels.emplace_back("kv_cache_max_concurrency",
                      std::to_string(tokens / std::max(1, model_.card.max_model_len)));
  registry_.AddGauge("vllm:cache_config_info", "1; labels say how the KV cache is made.", labels)
      .Set(1);
}

}  // namespace millrace::server
