#include "server/proto_scan.h"

#include "google/protobuf/descriptor.h"

namespace millrace::server {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

// Thread: one call.
class Scan {
 public:
  explicit Scan(const ProtoLimits& limits) : limits_(limits) {}

  // False when the scan is over: a limit, or bytes that are no message.
  bool Message(std::string_view wire, const Descriptor& descriptor, int depth) {
    if (depth > limits_.depth_max) {
      problem_ = "messages are nested deeper than " + std::to_string(limits_.depth_max);
      return false;
    }
    while (!wire.empty()) {
      uint64_t key = 0;
      if (!Varint(wire, key)) return false;
      if (++elements_ > limits_.elements_max) {
        problem_ = "the message has more than " + std::to_string(limits_.elements_max) + " fields";
        return false;
      }
      if (!Value(wire, key, descriptor, depth)) return false;
    }
    return true;
  }

  const std::string& problem() const { return problem_; }

 private:
  bool Value(std::string_view& wire, uint64_t key, const Descriptor& descriptor, int depth) {
    uint64_t ignored = 0;
    switch (key & 7) {
      case 0:
        return Varint(wire, ignored);
      case 1:
        return Skip(wire, 8);
      case 2:
        return Bytes(wire, static_cast<int>(key >> 3), descriptor, depth);
      case 5:
        return Skip(wire, 4);
      default:
        return false;  // groups: nothing of ours has any, the parser decides
    }
  }

  bool Bytes(std::string_view& wire, int number, const Descriptor& descriptor, int depth) {
    uint64_t size = 0;
    if (!Varint(wire, size) || size > wire.size()) return false;
    const std::string_view body = wire.substr(0, size);
    wire.remove_prefix(size);
    const FieldDescriptor* field = descriptor.FindFieldByNumber(number);
    if (field == nullptr) return true;
    if (field->type() == FieldDescriptor::TYPE_MESSAGE) {
      return Message(body, *field->message_type(), depth + 1);
    }
    if (!field->is_packable()) return true;
    packed_bytes_ += static_cast<int64_t>(size);
    if (packed_bytes_ <= limits_.packed_bytes_max) return true;
    problem_ =
        "lists of numbers have more than " + std::to_string(limits_.packed_bytes_max) + " bytes";
    return false;
  }

  static bool Skip(std::string_view& wire, size_t count) {
    if (wire.size() < count) return false;
    wire.remove_prefix(count);
    return true;
  }

  static bool Varint(std::string_view& wire, uint64_t& value) {
    value = 0;
    for (size_t i = 0; i < 10 && i < wire.size(); ++i) {
      const auto byte = static_cast<uint8_t>(wire[i]);
      value |= uint64_t{byte & 127u} << (7 * i);
      if (byte < 128) return Skip(wire, i + 1);
    }
    return false;
  }

  const ProtoLimits& limits_;
  int64_t elements_ = 0;
  int64_t packed_bytes_ = 0;
  std::string problem_;
};

}  // namespace

std::string ScanProto(std::string_view wire, const Descriptor& descriptor,
                      const ProtoLimits& limits) {
  Scan scan(limits);
  scan.Message(wire, descriptor, 1);
  return scan.problem();
}

}  // namespace millrace::server
