#pragma once
// Spans as plain values, W3C trace context, and where finished spans go. The exporter is in
// server/.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"

namespace millrace {

struct TraceContext {
  std::array<uint8_t, 16> trace_id{};
  std::array<uint8_t, 8> span_id{};
  uint8_t flags = 0;        // bit 0: sampled
  std::string trace_state;  // forwarded as it came, at most 512 bytes and 32 entries

  bool sampled() const { return flags & 1; }
  // "00-<32 hex>-<16 hex>-<2 hex>"
  std::string ToTraceparent() const;
};

// nullopt when `traceparent` is malformed (then a new trace is begun and the bad one ignored); a
// malformed `tracestate` is dropped on its own. https://www.w3.org/TR/trace-context/
std::optional<TraceContext> ParseTraceContext(std::string_view traceparent,
                                              std::string_view tracestate);

using AttributeValue = std::variant<std::string, int64_t, double, bool, std::vector<std::string>>;
using Attribute = std::pair<std::string, AttributeValue>;

struct SpanEvent {
  std::string name;
  UnixNanos time = 0;
  std::vector<Attribute> attributes;
};

enum class SpanKind { kInternal = 1, kServer = 2, kClient = 3 };

struct Span {
  TraceContext context;
  std::array<uint8_t, 8> parent_span_id{};  // all zero: a root
  std::string name;
  SpanKind kind = SpanKind::kInternal;
  UnixNanos start = 0;
  UnixNanos end = 0;
  std::vector<Attribute> attributes;
  std::vector<SpanEvent> events;
  bool error = false;
  std::string status_message;
};

// Where finished spans go. Thread: any. Never blocks; drops and counts when full.
class SpanSink {
 public:
  virtual ~SpanSink() = default;
  virtual void Export(Span&& span) = 0;
};

}  // namespace millrace
