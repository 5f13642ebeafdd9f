#pragma once
// Sends finished spans to an OTLP collector over gRPC, in batches, from one thread of its own. It
// costs a request one push into a bounded queue: when the collector is slow or gone, spans are
// dropped and counted, and nothing waits.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/trace.h"

namespace millrace::server {

// Defaults are those of the OpenTelemetry SDK's batch processor, but for the shorter delay.
struct OtlpExporterOptions {
  // "http://host:4317" or "host:4317" in the clear, "https://host:4317" with TLS.
  std::string endpoint;
  std::string service_name = "millrace";
  std::string service_version;
  // More of the resource, as in OTEL_RESOURCE_ATTRIBUTES.
  std::vector<std::pair<std::string, std::string>> resource_attributes;
  // Sent with each call, as in OTEL_EXPORTER_OTLP_HEADERS. Keys in lower case.
  std::vector<std::pair<std::string, std::string>> headers;
  size_t queue_max = 2048;
  size_t batch_max = 512;
  MonoNanos delay = kNanosPerSecond;         // a span waits at most this long for company
  MonoNanos timeout = 10 * kNanosPerSecond;  // of one call
  MonoNanos backoff = kNanosPerSecond / 2;   // before the first retry; doubles, with jitter
  int attempts_max = 5;
  MonoNanos shutdown_max = 2 * kNanosPerSecond;
};

struct OtlpCounts {
  int64_t exported = 0;  // spans that the collector took
  int64_t dropped = 0;   // the queue was full, or the exporter had shut down
  int64_t failed = 0;    // given up after retries, or refused by the collector
};

// Thread: any.
class OtlpExporter final : public SpanSink {
 public:
  // InvalidArgument: the endpoint is none. Does not connect yet. `metrics` and `clock` outlive it.
  static absl::StatusOr<std::unique_ptr<OtlpExporter>> Create(OtlpExporterOptions options,
                                                              MetricsRegistry& metrics,
                                                              const Clock& clock);
  ~OtlpExporter() override;

  void Export(Span&& span) override;
  // Sends what waits, for at most shutdown_max; drops the rest. Later spans are dropped.
  // Idempotent.
  void Shutdown();
  OtlpCounts Counts() const;

 private:
  class State;
  explicit OtlpExporter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace millrace::server
