#pragma once
// Counts what a protobuf message would become, before it is parsed: two bytes on the wire can be a
// hundred in memory, so the size limit of the door alone does not bound the memory of a request.

#include <cstdint>
#include <string>
#include <string_view>

#include "google/protobuf/message.h"

namespace millrace::server {

struct ProtoLimits {
  int64_t elements_max = 200'000;      // fields and list items, as JsonLimits::values_max
  int64_t packed_bytes_max = 4 << 20;  // of packed lists, in all
  int depth_max = 32;
};

// "" when `wire` may be parsed as `descriptor`; else why not. Wire errors are the parser's to find:
// here they only end the count. Thread: any.
std::string ScanProto(std::string_view wire, const google::protobuf::Descriptor& descriptor,
                      const ProtoLimits& limits = {});

}  // namespace millrace::server
