#pragma once
// grpc.reflection.v1 and v1alpha: which services there are, and their types. The library has a
// service for the older one, but it gives each caller a thread of his own for as long as he likes,
// and cannot refuse one without a key with a status (its caller saw CANCELLED). This one is a
// reactor, asks for the key first, and needs no interceptor on everybody else's calls.

#include <string>
#include <vector>

#include "grpc/reflection/v1/reflection.grpc.pb.h"
#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "server/auth.h"

namespace millrace::server {

// What both versions answer from. Immutable.
struct ReflectionSource {
  const ApiKeys* keys = nullptr;
  std::vector<std::string> services;  // full names
};

// Thread: any.
class GrpcReflection final : public grpc::reflection::v1::ServerReflection::CallbackService {
 public:
  // `source` outlives it.
  explicit GrpcReflection(const ReflectionSource& source) : source_(source) {}
  grpc::ServerBidiReactor<grpc::reflection::v1::ServerReflectionRequest,
                          grpc::reflection::v1::ServerReflectionResponse>*
  ServerReflectionInfo(grpc::CallbackServerContext* context) override;

 private:
  const ReflectionSource& source_;
};

// What most tools of today still ask first. Thread: any.
class GrpcReflectionAlpha final
    : public grpc::reflection::v1alpha::ServerReflection::CallbackService {
 public:
  explicit GrpcReflectionAlpha(const ReflectionSource& source) : source_(source) {}
  grpc::ServerBidiReactor<grpc::reflection::v1alpha::ServerReflectionRequest,
                          grpc::reflection::v1alpha::ServerReflectionResponse>*
  ServerReflectionInfo(grpc::CallbackServerContext* context) override;

 private:
  const ReflectionSource& source_;
};

}  // namespace millrace::server
