#pragma once
// Spans to OTLP's messages.

#include <string_view>
#include <vector>

#include "base/trace.h"
#include "millrace/otlp/v1/trace.pb.h"

namespace millrace::server {

// `resource` is copied in front of the spans. Strings that are not UTF-8 are mended.
otlp::v1::ExportTraceServiceRequest ToOtlp(const std::vector<Span>& spans,
                                           const otlp::v1::Resource& resource,
                                           std::string_view version);

void AddAttribute(std::string_view key, const AttributeValue& value,
                  google::protobuf::RepeatedPtrField<otlp::v1::KeyValue>& out);

}  // namespace millrace::server
