#include "server/request_record.h"

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace millrace::server {
namespace {

double Millis(MonoNanos nanos) {
  return static_cast<double>(nanos) / 1e6;
}
double Seconds(MonoNanos nanos) {
  return static_cast<double>(nanos) / 1e9;
}

std::string Hex(const uint8_t* bytes, size_t count) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < count; ++i) {
    text += kDigits[bytes[i] >> 4];
    text += kDigits[bytes[i] & 15];
  }
  return text;
}

// Span ids only need to differ within a trace: derived from the parent's, so that no randomness is
// needed here. The constant is the odd part of 2^64 / golden ratio.
std::array<uint8_t, 8> ChildId(const std::array<uint8_t, 8>& parent, uint64_t child) {
  std::array<uint8_t, 8> id = parent;
  const uint64_t mix = child * 0x9E3779B97F4A7C15ull;
  for (size_t i = 0; i < id.size(); ++i) id[i] ^= static_cast<uint8_t>(mix >> (8 * i));
  return id;
}

void AddRequestAttributes(const RequestRecord& record, Span& span) {
  const auto add = [&](const char* name, AttributeValue value) {
    span.attributes.emplace_back(name, std::move(value));
  };
  const SamplingFields& sampling = record.sampling;
  add("gen_ai.operation.name",
      std::string(record.kind == RequestKind::kChat ? "chat" : "text_completion"));
  add("gen_ai.provider.name", std::string("millrace"));
  add("gen_ai.request.model", record.model);
  add("gen_ai.request.choice.count", record.n);
  add("gen_ai.request.stream", record.output.stream);
  add("gen_ai.output.type", std::string("text"));
  add("gen_ai.request.id", record.origin.request_id);
  if (record.max_tokens > 0) add("gen_ai.request.max_tokens", record.max_tokens);
  if (sampling.seed) add("gen_ai.request.seed", *sampling.seed);
  if (sampling.temperature) add("gen_ai.request.temperature", *sampling.temperature);
  if (sampling.top_p) add("gen_ai.request.top_p", *sampling.top_p);
  if (sampling.top_k) add("gen_ai.request.top_k", *sampling.top_k);
  if (sampling.frequency_penalty) {
    add("gen_ai.request.frequency_penalty", *sampling.frequency_penalty);
  }
  if (sampling.presence_penalty) {
    add("gen_ai.request.presence_penalty", *sampling.presence_penalty);
  }
  if (record.origin.door == DoorKind::kHttp) {
    add("http.request.method", std::string("POST"));
    add("http.route", record.origin.route);
  } else {
    add("rpc.system.name", std::string("grpc"));
    add("rpc.method", record.origin.route.substr(record.origin.route.empty() ? 0 : 1));
  }
}

void AddResponseAttributes(const RequestRecord& record, Span& span) {
  const auto add = [&](const char* name, AttributeValue value) {
    span.attributes.emplace_back(name, std::move(value));
  };
  add("gen_ai.response.id", record.response_id);
  add("gen_ai.response.model", record.model);
  std::vector<std::string> reasons;
  for (const ChoiceRecord& choice : record.choices) {
    reasons.push_back(FinishReasonName(choice.finish));
  }
  add("gen_ai.response.finish_reasons", std::move(reasons));
  const Usage usage = record.Total();
  add("gen_ai.usage.input_tokens", usage.prompt_tokens);
  add("gen_ai.usage.output_tokens", usage.completion_tokens);
  add("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens);
  add("gen_ai.latency.e2e", Seconds(record.end - record.arrival));
  if (const MonoNanos scheduled = record.FirstScheduled()) {
    add("gen_ai.latency.time_in_queue", Seconds(scheduled - record.arrival));
  }
  if (const MonoNanos first = record.FirstToken()) {
    add("gen_ai.response.time_to_first_chunk", Seconds(first - record.arrival));
    add("gen_ai.latency.time_to_first_token", Seconds(first - record.arrival));
  }
  const int64_t status = record.cancelled ? 499 : record.error ? record.error->shape().http : 200;
  if (record.origin.door == DoorKind::kHttp) add("http.response.status_code", status);
  if (record.error) {
    add("error.type", std::string(record.error->shape().reason));
    // As the conventions say: a client's mistake is no error of this span.
    span.error = status >= 500;
    if (span.error) span.status_message = record.error->shape().reason;
  } else if (record.cancelled) {
    add("error.type", std::string("CANCELLED"));
  }
}

}  // namespace

Usage RequestRecord::Total() const {
  Usage total;
  for (size_t i = 0; i < choices.size(); ++i) {
    const Usage& usage = choices[i].usage;
    total.completion_tokens += usage.completion_tokens;
    if (i % static_cast<size_t>(n) != 0) continue;
    total.prompt_tokens += usage.prompt_tokens;
    total.cached_tokens += usage.cached_tokens;
  }
  return total;
}

MonoNanos RequestRecord::FirstScheduled() const {
  MonoNanos first = 0;
  for (const ChoiceRecord& choice : choices) {
    const MonoNanos at = choice.times.first_scheduled;
    if (at != 0 && (first == 0 || at < first)) first = at;
  }
  return first;
}

MonoNanos RequestRecord::FirstToken() const {
  MonoNanos first = 0;
  for (const ChoiceRecord& choice : choices) {
    const MonoNanos at = choice.times.first_token;
    if (at != 0 && (first == 0 || at < first)) first = at;
  }
  return first;
}

const char* RequestRecord::FinishName() const {
  if (cancelled) return "cancelled";
  if (error) return error->shape().reason;
  return choices.empty() ? "none" : FinishReasonName(choices.front().finish);
}

void LogRequest(const RequestRecord& record) {
  const Usage usage = record.Total();
  const bool http = record.origin.door == DoorKind::kHttp;
  int64_t status = http ? 200 : 0;
  if (record.error) {
    const ErrorShape& shape = record.error->shape();
    status = http ? shape.http : static_cast<int64_t>(shape.grpc);
  }
  if (record.cancelled) status = http ? 499 : static_cast<int64_t>(CanonicalCode::kCancelled);
  const MonoNanos scheduled = record.FirstScheduled();
  const MonoNanos first = record.FirstToken();
  // Without tracing the ids are zero: said as empty.
  const bool traced = record.context.trace_id != std::array<uint8_t, 16>{};
  const std::string trace_id = traced ? Hex(record.context.trace_id.data(), 16) : "";
  const std::string span_id = traced ? Hex(record.context.span_id.data(), 8) : "";
  const bool bad = record.error && record.error->shape().http >= 500;
  Log(bad ? LogLevel::kWarning : LogLevel::kInfo, "request",
      {{"request_id", std::string_view(record.origin.request_id)},
       {"response_id", std::string_view(record.response_id)},
       {"trace_id", std::string_view(trace_id)},
       {"span_id", std::string_view(span_id)},
       {"route", std::string_view(record.origin.route)},
       {"key", std::string_view(record.origin.key_name)},
       {"model", std::string_view(record.model)},
       {http ? "status" : "grpc_code", status},
       {"finish_reason", std::string_view(record.FinishName())},
       {"stream", record.output.stream},
       {"n", record.n},
       {"prompt_tokens", usage.prompt_tokens},
       {"cached_tokens", usage.cached_tokens},
       {"completion_tokens", usage.completion_tokens},
       {"queue_ms", scheduled != 0 ? Millis(scheduled - record.arrival) : 0.0},
       {"ttft_ms", first != 0 ? Millis(first - record.arrival) : 0.0},
       {"e2e_ms", Millis(record.end - record.arrival)}});
}

void ExportSpans(const RequestRecord& record, const Clock& clock, SpanSink& sink) {
  if (!record.context.sampled()) return;
  const UnixNanos skew = clock.UnixNow() - clock.Now();
  Span root;
  root.context = record.context;
  root.parent_span_id = record.parent_span_id;
  root.name = record.origin.door == DoorKind::kHttp ? "POST " + record.origin.route
              : record.origin.route.empty()         ? std::string("grpc")
                                                    : record.origin.route.substr(1);
  root.kind = SpanKind::kServer;
  root.start = record.arrival + skew;
  root.end = record.end + skew;
  AddRequestAttributes(record, root);
  AddResponseAttributes(record, root);
  for (size_t i = 0; i < record.choices.size(); ++i) {
    for (const MonoNanos at : record.choices[i].times.preempted) {
      SpanEvent event;
      event.name = "preemption";
      event.time = at + skew;
      event.attributes.emplace_back("millrace.choice", static_cast<int64_t>(i));
      root.events.push_back(std::move(event));
    }
  }
  const MonoNanos scheduled = record.FirstScheduled();
  const MonoNanos first = record.FirstToken();
  uint64_t child = 0;
  const auto phase = [&](const char* name, MonoNanos begin, MonoNanos end) {
    Span span;
    span.context = record.context;
    span.context.span_id = ChildId(record.context.span_id, ++child);
    span.parent_span_id = record.context.span_id;
    span.name = name;
    span.start = begin + skew;
    span.end = std::max(begin, end) + skew;
    sink.Export(std::move(span));
  };
  if (!record.choices.empty()) phase("queue", record.arrival, scheduled ? scheduled : record.end);
  if (scheduled != 0) phase("prefill", scheduled, first ? first : record.end);
  if (first != 0) {
    MonoNanos last = first;
    for (const ChoiceRecord& choice : record.choices) {
      last = std::max(last, choice.times.last_token);
    }
    phase("decode", first, last);
  }
  sink.Export(std::move(root));
}

}  // namespace millrace::server
