#include "server/grpc_status.h"

#include <string>

#include "base/utf8.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace millrace::server {
namespace {

constexpr size_t kMessageBytesMax = 1024;
constexpr size_t kValueBytesMax = 128;
constexpr size_t kMetadataMax = 8;

// Whole characters of the first `most` bytes; protobuf strings must be valid UTF-8.
std::string Cut(std::string_view text, size_t most) {
  const std::string_view kept = text.substr(0, most);
  return ReplaceInvalidUtf8(kept.substr(0, CompleteUtf8Prefix(kept)));
}

void Pack(const google::protobuf::Message& detail, google::rpc::Status& status) {
  status.add_details()->PackFrom(detail);
}

bool BlamesField(const ApiError& error) {
  const CanonicalCode code = error.shape().grpc;
  return !error.param.empty() &&
         (code == CanonicalCode::kInvalidArgument || code == CanonicalCode::kUnimplemented);
}

void AddDetails(const ApiError& error, std::string_view request_id, google::rpc::Status& status) {
  google::rpc::ErrorInfo info;
  info.set_reason(error.shape().reason);
  info.set_domain(std::string(kErrorDomain));
  for (size_t i = 0; i < error.metadata.size() && i < kMetadataMax; ++i) {
    (*info.mutable_metadata())[Cut(error.metadata[i].first, 64)] =
        Cut(error.metadata[i].second, kValueBytesMax);
  }
  Pack(info, status);
  if (BlamesField(error)) {
    google::rpc::BadRequest bad;
    auto* violation = bad.add_field_violations();
    violation->set_field(Cut(error.param, kValueBytesMax));
    violation->set_description(status.message());
    violation->set_reason(error.shape().reason);
    Pack(bad, status);
  }
  if (error.kind == ErrorKind::kModelNotFound) {
    google::rpc::ResourceInfo resource;
    resource.set_resource_type("model");
    Pack(resource, status);
  }
  if (const MonoNanos wait = error.RetryAfter(); wait > 0) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(wait / kNanosPerSecond);
    retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(wait % kNanosPerSecond));
    Pack(retry, status);
  }
  if (!request_id.empty()) {
    google::rpc::RequestInfo request;
    request.set_request_id(Cut(request_id, kValueBytesMax));
    Pack(request, status);
  }
}

}  // namespace

grpc::Status ToGrpcStatus(const ApiError& error, std::string_view request_id) {
  google::rpc::Status status;
  status.set_code(static_cast<int>(error.shape().grpc));
  status.set_message(Cut(error.message, kMessageBytesMax));
  AddDetails(error, request_id, status);
  return {static_cast<grpc::StatusCode>(status.code()), status.message(),
          status.SerializeAsString()};
}

}  // namespace millrace::server
