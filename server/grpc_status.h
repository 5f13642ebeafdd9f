#pragma once
// An ApiError as a gRPC status: the code and the reason come from the same row as HTTP's
// (server/api_error.h), and the details travel in grpc-status-details-bin as google.rpc.Status.

#include <string_view>

#include "grpcpp/support/status.h"
#include "server/api_error.h"

namespace millrace::server {

// The domain of our ErrorInfo.
inline constexpr std::string_view kErrorDomain = "millrace";

// ErrorInfo always; BadRequest where a field is at fault; ResourceInfo for an unknown model;
// RetryInfo where a retry may help; RequestInfo when `request_id` is known. Trailers stay below
// 8 KiB whatever the error's texts are. Thread: any.
grpc::Status ToGrpcStatus(const ApiError& error, std::string_view request_id);

}  // namespace millrace::server
