#include "server/otlp_convert.h"

#include <algorithm>
#include <string>

#include "base/utf8.h"

namespace millrace::server {
namespace {

std::string Clean(std::string_view text) {
  return IsValidUtf8(text) ? std::string(text) : ReplaceInvalidUtf8(text);
}

template <size_t N>
std::string Bytes(const std::array<uint8_t, N>& id) {
  return {reinterpret_cast<const char*>(id.data()), N};
}

void SetValue(const AttributeValue& value, otlp::v1::AnyValue& out) {
  if (const auto* text = std::get_if<std::string>(&value)) {
    out.set_string_value(Clean(*text));
  } else if (const auto* whole = std::get_if<int64_t>(&value)) {
    out.set_int_value(*whole);
  } else if (const auto* real = std::get_if<double>(&value)) {
    out.set_double_value(*real);
  } else if (const auto* truth = std::get_if<bool>(&value)) {
    out.set_bool_value(*truth);
  } else {
    auto& list = *out.mutable_array_value();
    for (const std::string& item : std::get<std::vector<std::string>>(value)) {
      list.add_values()->set_string_value(Clean(item));
    }
  }
}

void FillSpan(const Span& span, otlp::v1::Span& out) {
  out.set_trace_id(Bytes(span.context.trace_id));
  out.set_span_id(Bytes(span.context.span_id));
  out.set_trace_state(Clean(span.context.trace_state));
  const bool has_parent = std::any_of(span.parent_span_id.begin(), span.parent_span_id.end(),
                                      [](uint8_t byte) { return byte != 0; });
  if (has_parent) out.set_parent_span_id(Bytes(span.parent_span_id));
  out.set_name(Clean(span.name));
  out.set_kind(static_cast<otlp::v1::Span::SpanKind>(span.kind));  // the numbers are OTLP's
  out.set_start_time_unix_nano(static_cast<uint64_t>(span.start));
  out.set_end_time_unix_nano(static_cast<uint64_t>(span.end));
  for (const Attribute& attribute : span.attributes) {
    AddAttribute(attribute.first, attribute.second, *out.mutable_attributes());
  }
  for (const SpanEvent& event : span.events) {
    auto& target = *out.add_events();
    target.set_time_unix_nano(static_cast<uint64_t>(event.time));
    target.set_name(Clean(event.name));
    for (const Attribute& attribute : event.attributes) {
      AddAttribute(attribute.first, attribute.second, *target.mutable_attributes());
    }
  }
  if (span.error) {
    out.mutable_status()->set_code(otlp::v1::Status::STATUS_CODE_ERROR);
    out.mutable_status()->set_message(Clean(span.status_message));
  }
  out.set_flags(span.context.flags);
}

}  // namespace

void AddAttribute(std::string_view key, const AttributeValue& value,
                  google::protobuf::RepeatedPtrField<otlp::v1::KeyValue>& out) {
  otlp::v1::KeyValue& pair = *out.Add();
  pair.set_key(Clean(key));
  SetValue(value, *pair.mutable_value());
}

otlp::v1::ExportTraceServiceRequest ToOtlp(const std::vector<Span>& spans,
                                           const otlp::v1::Resource& resource,
                                           std::string_view version) {
  otlp::v1::ExportTraceServiceRequest request;
  auto& of_process = *request.add_resource_spans();
  *of_process.mutable_resource() = resource;
  auto& of_scope = *of_process.add_scope_spans();
  of_scope.mutable_scope()->set_name("millrace");
  of_scope.mutable_scope()->set_version(std::string(version));
  for (const Span& span : spans) FillSpan(span, *of_scope.add_spans());
  return request;
}

}  // namespace millrace::server
