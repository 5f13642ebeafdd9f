#pragma once
// The wire messages of millrace.v1 to and from the one request type behind both doors. Nothing is
// judged here that Validate judges; what only this door can see (parameters that exist to be
// refused, enum values out of range, a message of millions of empty parts) is.

#include <variant>

#include "messages/model_card.h"
#include "millrace/v1/inference_service.pb.h"
#include "millrace/v1/model_service.pb.h"
#include "server/api_error.h"
#include "server/frontend.h"
#include "server/generation.h"
#include "server/limits.h"

namespace millrace::server {

// The origin and the deadline are left for the caller to fill. Thread: any.
std::variant<GenerationRequest, ApiError> FromProto(const v1::GenerateRequest& proto,
                                                    const Limits& limits);
std::variant<GenerationRequest, ApiError> FromProto(const v1::ChatRequest& proto,
                                                    const Limits& limits);
std::variant<TokenizeInput, ApiError> FromProto(const v1::TokenizeRequest& proto,
                                                const Limits& limits);

v1::Model ToProto(const ModelCard& card);

// Fields that the sender knows and we do not, at the top level: ignored, and counted.
int32_t CountUnknownFields(const google::protobuf::Message& message);

}  // namespace millrace::server
