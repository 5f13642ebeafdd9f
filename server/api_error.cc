#include "server/api_error.h"

#include <algorithm>
#include <array>

#include "absl/strings/string_view.h"
#include "base/check.h"

namespace millrace::server {
namespace {

using Code = CanonicalCode;
constexpr const char* kInvalidType = "invalid_request_error";
constexpr const char* kServerType = "server_error";
// Longer waits make OpenAI's client give up instead of retrying.
constexpr MonoNanos kRetryAfterMax = 120 * kNanosPerSecond;

// In the order of ErrorKind.
constexpr std::array<ErrorShape, kErrorKindCount> kShapes = {{
    {400, Code::kInvalidArgument, kInvalidType, "invalid_value", "INVALID_FIELD", false},
    {400, Code::kInvalidArgument, kInvalidType, "invalid_json", "INVALID_JSON", false},
    {400, Code::kUnimplemented, kInvalidType, "unsupported_parameter", "UNSUPPORTED_FEATURE",
     false},
    {400, Code::kInvalidArgument, kInvalidType, "context_length_exceeded",
     "CONTEXT_LENGTH_EXCEEDED", false},
    {400, Code::kInvalidArgument, kInvalidType, "request_too_large", "REQUEST_TOO_LARGE", false},
    {401, Code::kUnauthenticated, kInvalidType, "invalid_api_key", "API_KEY_INVALID", false},
    {404, Code::kNotFound, kInvalidType, "model_not_found", "MODEL_NOT_FOUND", false},
    {404, Code::kUnimplemented, kInvalidType, "unknown_url", "UNKNOWN_URL", false},
    {405, Code::kUnimplemented, kInvalidType, "method_not_supported", "METHOD_NOT_SUPPORTED",
     false},
    {413, Code::kResourceExhausted, kInvalidType, "", "MESSAGE_TOO_LARGE", false},
    {415, Code::kInvalidArgument, kInvalidType, "", "UNSUPPORTED_MEDIA_TYPE", false},
    {431, Code::kResourceExhausted, kInvalidType, "", "HEADERS_TOO_LARGE", false},
    {400, Code::kInvalidArgument, kInvalidType, "", "BAD_HTTP", false},
    {408, Code::kDeadlineExceeded, kInvalidType, "request_timeout", "REQUEST_TIMEOUT", false},
    {503, Code::kUnavailable, kServerType, "overloaded", "QUEUE_FULL", true},
    {503, Code::kUnavailable, kServerType, "draining", "DRAINING", true},
    {503, Code::kUnavailable, kServerType, "loading", "MODEL_LOADING", true},
    {504, Code::kDeadlineExceeded, kServerType, "timeout", "DEADLINE_EXCEEDED", false},
    {499, Code::kCancelled, kInvalidType, "cancelled", "CANCELLED", false},
    {408, Code::kResourceExhausted, kInvalidType, "slow_consumer", "SLOW_CONSUMER", false},
    {503, Code::kUnavailable, kServerType, "shutdown", "SHUTDOWN", true},
    {500, Code::kInternal, kServerType, "engine_fault", "ENGINE_FAULT", false},
    {500, Code::kInternal, kServerType, "", "INTERNAL", false},
}};

}  // namespace

const ErrorShape& ShapeOf(ErrorKind kind) {
  const auto index = static_cast<size_t>(kind);
  CHECK(index < kShapes.size());
  return kShapes[index];
}

MonoNanos ApiError::RetryAfter() const {
  if (!shape().retryable) return 0;
  return std::clamp(retry_after == 0 ? kNanosPerSecond : retry_after, MonoNanos{1}, kRetryAfterMax);
}

ApiError InvalidField(std::string_view param, std::string message) {
  ApiError error;
  error.kind = ErrorKind::kInvalidField;
  error.message = std::move(message);
  error.param = std::string(param);
  return error;
}

ApiError FromEngineStatus(const absl::Status& status) {
  ApiError error;
  error.message.assign(status.message().data(), status.message().size());
  switch (status.code()) {
    case absl::StatusCode::kResourceExhausted:
      error.kind = ErrorKind::kOverloaded;
      break;
    case absl::StatusCode::kInvalidArgument:
      error.kind = ErrorKind::kNeverFits;
      break;
    case absl::StatusCode::kUnavailable:
      error.kind = ErrorKind::kDraining;
      break;
    default:
      // What else the engine may say is for the log, not for a client.
      error.kind = ErrorKind::kInternal;
      error.message = "The request could not be started";
  }
  return error;
}

}  // namespace millrace::server
