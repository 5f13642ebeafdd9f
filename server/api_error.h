#pragma once
// What went wrong, once, for both doors. A kind decides everything that a machine reads: the HTTP
// status, the gRPC code, OpenAI's `type` and `code`, and the stable `reason` of
// google.rpc.ErrorInfo. Messages are for people, name the field and the limit, and never echo a
// prompt or a key.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"

namespace millrace::server {

enum class ErrorKind : uint8_t {
  kInvalidField,  // wrong type or out of range; `param` names it
  kInvalidJson,
  kUnsupportedParameter,  // known, would change the answer, not implemented
  kContextLength,         // metadata: limit, requested
  kNeverFits,             // needs more KV memory than the node has
  kUnauthenticated,
  kModelNotFound,
  kUnknownUrl,
  kMethodNotAllowed,
  kBodyTooLarge,
  kUnsupportedMediaType,
  kHeadersTooLarge,
  kBadHttp,         // malformed HTTP/1.1: answered, then the connection closes
  kRequestTimeout,  // the request itself arrived too slowly
  kOverloaded,      // the node's queue is full; retry elsewhere or later
  kDraining,
  kLoading,
  kDeadline,
  kCancelled,
  kSlowConsumer,
  kShutdown,  // cut at --shutdown-timeout
  kEngineFault,
  kInternal,
};
inline constexpr int kErrorKindCount = 23;

// Canonical codes of google.rpc.Code, without gRPC's headers.
enum class CanonicalCode : int {
  kOk = 0,
  kCancelled = 1,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kUnauthenticated = 16,
};

struct ErrorShape {
  int http = 500;
  CanonicalCode grpc = CanonicalCode::kInternal;
  const char* type = "";    // OpenAI's error.type
  const char* code = "";    // OpenAI's error.code; "" is null on the wire
  const char* reason = "";  // ErrorInfo.reason: [A-Z][A-Z0-9_]+
  bool retryable = false;   // carries Retry-After / RetryInfo
};

// The one mapping of both doors.
const ErrorShape& ShapeOf(ErrorKind kind);

struct ApiError {
  ErrorKind kind = ErrorKind::kInternal;
  std::string message;
  std::string param;  // "" is null on the wire
  // Every dynamic value of the message (AIP-193); keys [a-z][a-z_]*.
  std::vector<std::pair<std::string, std::string>> metadata;
  MonoNanos retry_after = 0;  // 0: the kind's default when it is retryable

  const ErrorShape& shape() const { return ShapeOf(kind); }
  // Nanoseconds a client should wait; 0 when it should not retry. At most 120 s.
  MonoNanos RetryAfter() const;
};

ApiError InvalidField(std::string_view param, std::string message);
// Engine::Submit's refusals: ResourceExhausted, InvalidArgument, Unavailable.
ApiError FromEngineStatus(const absl::Status& status);

}  // namespace millrace::server
