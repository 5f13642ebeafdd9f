#include "server/grpc_call.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "base/trace.h"
#include "grpcpp/support/slice.h"
#include "server/proto_scan.h"

namespace millrace::server {
namespace {

using Metadata = std::multimap<grpc::string_ref, grpc::string_ref>;

std::string_view View(grpc::string_ref text) {
  return {text.data(), text.size()};
}

// The only value of `key`, or "" when there is none or more than one.
std::string_view Single(const Metadata& metadata, const char* key) {
  const auto range = metadata.equal_range(key);
  if (range.first == range.second || std::next(range.first) != range.second) return {};
  return View(range.first->second);
}

// As HTTP/2 counts a header list (RFC 9113, 6.5.2). The library has this limit too, but a client
// that never acknowledges its SETTINGS is held to none, and to refuse there costs the whole
// connection.
std::optional<ApiError> CheckMetadata(const Metadata& metadata, const Limits& limits) {
  size_t bytes = 0;
  for (const auto& [key, value] : metadata) bytes += key.size() + value.size() + 32;
  if (bytes <= limits.metadata_bytes_max && metadata.size() <= limits.metadata_entries_max) {
    return std::nullopt;
  }
  ApiError error;
  error.kind = ErrorKind::kHeadersTooLarge;
  error.message = "The call's metadata is larger than " +
                  std::to_string(limits.metadata_bytes_max) + " bytes or has more than " +
                  std::to_string(limits.metadata_entries_max) + " entries";
  return error;
}

// How much of a request id a client may choose; it is a label in logs, not a key of anything.
constexpr size_t kRequestIdMax = 128;

}  // namespace

CallReader::CallReader(const DoorDeps& deps)
    : deps_(deps), random_((uint64_t{std::random_device{}()} << 32) ^ std::random_device{}()) {}

std::variant<std::string, ApiError> CheckKey(const ApiKeys& keys,
                                             const grpc::ServerContextBase& context) {
  ApiError error;
  error.kind = ErrorKind::kUnauthenticated;
  const auto range = context.client_metadata().equal_range("authorization");
  if (std::distance(range.first, range.second) > 1) {
    // Which one counts would be our guess, and a proxy's guess may differ.
    error.message = "More than one 'authorization' was given.";
    return error;
  }
  const bool given = range.first != range.second;
  if (auto name = keys.Authenticate(given ? View(range.first->second) : std::string_view())) {
    return *std::move(name);
  }
  error.message = "Missing or incorrect API key";  // as the HTTP door says it
  return error;
}

std::optional<ApiError> CallReader::Read(const grpc::ServerContextBase& context,
                                         std::string_view method, CallFacts& facts) {
  const Metadata& metadata = context.client_metadata();
  RequestOrigin& origin = facts.origin;
  origin.door = DoorKind::kGrpc;
  origin.route = std::string(method);
  origin.arrival = deps_.clock->Now();
  facts.deadline = DeadlineOf(context);
  const std::string_view id = Single(metadata, "x-request-id");
  origin.request_id = CheckRequestId(id, kRequestIdMax) ? MakeRequestId() : std::string(id);
  origin.trace = ParseTraceContext(Single(metadata, "traceparent"), Single(metadata, "tracestate"));
  if (std::optional<ApiError> error = CheckMetadata(metadata, deps_.frontend->limits())) {
    return error;
  }
  std::variant<std::string, ApiError> name = CheckKey(*deps_.keys, context);
  if (auto* error = std::get_if<ApiError>(&name)) return std::move(*error);
  origin.key_name = std::get<std::string>(std::move(name));
  return std::nullopt;
}

std::string CallReader::MakeRequestId() {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string id = "req-";
  std::lock_guard lock(mutex_);
  for (int word = 0; word < 2; ++word) {
    uint64_t bits = random_();
    for (int i = 0; i < 16; ++i, bits >>= 4) id += kDigits[bits & 15];
  }
  return id;
}

// gRPC tells a point of the wall clock; the engine counts monotonic time.
MonoNanos CallReader::DeadlineOf(const grpc::ServerContextBase& context) const {
  using std::chrono::system_clock;
  const system_clock::time_point at = context.deadline();
  if (at == system_clock::time_point::max()) return kNever;
  const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(at - system_clock::now());
  // A deadline of centuries must not overflow.
  constexpr int64_t kYear = 365LL * 24 * 3600 * kNanosPerSecond;
  return deps_.clock->Now() + std::clamp<int64_t>(left.count(), -kYear, kYear);
}

std::optional<ApiError> CheckRequestId(std::string_view id, size_t limit) {
  const bool printable =
      std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c <= '~'; });
  if (!id.empty() && id.size() <= limit && printable) return std::nullopt;
  return InvalidField("request_id", "'request_id' must be 1 to " + std::to_string(limit) +
                                        " printable ASCII characters without spaces.");
}

std::optional<ApiError> ParseProto(const grpc::ByteBuffer& wire,
                                   google::protobuf::Message& message) {
  const std::string name = message.GetDescriptor()->full_name();
  // One slice of it all: a copy only when the message came in several frames.
  grpc::Slice slice;
  if (wire.Valid() && !wire.DumpToSingleSlice(&slice).ok()) {
    return InvalidField("", "The request could not be read.");
  }
  const std::string_view bytes(reinterpret_cast<const char*>(slice.begin()), slice.size());
  const std::string problem = ScanProto(bytes, *message.GetDescriptor());
  if (!problem.empty()) return InvalidField("", "The request is too large: " + problem + ".");
  if (message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return std::nullopt;
  return InvalidField("",
                      "The request is not a valid " + name + " message (strings must be UTF-8).");
}

}  // namespace millrace::server
