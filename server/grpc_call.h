#pragma once
// What every method of ours does first: who calls, under which name, until when, in which trace.

#include <mutex>
#include <random>
#include <string>
#include <string_view>
#include <variant>

#include "google/protobuf/message.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/auth.h"
#include "server/door_deps.h"
#include "server/frontend.h"
#include "server/generation.h"

namespace millrace::server {

struct CallFacts {
  RequestOrigin origin;
  MonoNanos deadline = kNever;
};

// Thread: any.
class CallReader {
 public:
  explicit CallReader(const DoorDeps& deps);

  // Fills `facts` (its request id even when the caller is refused). `method` as in
  // "/millrace.v1.InferenceService/Chat". An error: too much metadata, no valid key, or two.
  std::optional<ApiError> Read(const grpc::ServerContextBase& context, std::string_view method,
                               CallFacts& facts);

 private:
  std::string MakeRequestId();
  MonoNanos DeadlineOf(const grpc::ServerContextBase& context) const;

  const DoorDeps deps_;
  std::mutex mutex_;
  std::mt19937_64 random_;
};

// Who may enter; for reflection, too.
std::variant<std::string, ApiError> CheckKey(const ApiKeys& keys,
                                             const grpc::ServerContextBase& context);

// nullopt, or why `id` is no request id: 1 .. limit printable ASCII characters.
std::optional<ApiError> CheckRequestId(std::string_view id, size_t limit);

// Scans and parses. The error names the message type and never echoes a byte.
std::optional<ApiError> ParseProto(const grpc::ByteBuffer& wire,
                                   google::protobuf::Message& message);

}  // namespace millrace::server
