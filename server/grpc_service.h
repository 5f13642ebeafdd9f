#pragma once
// The methods of millrace.v1. They take raw bytes, so that a caller is known before his message is
// parsed, what a message would cost is known before it is built, and a message that is none gets
// INVALID_ARGUMENT with details (the library's own parser would answer UNIMPLEMENTED).

#include <memory>
#include <vector>

#include "millrace/v1/inference_service.grpc.pb.h"
#include "millrace/v1/model_service.grpc.pb.h"
#include "server/grpc_call.h"
#include "server/grpc_generation.h"

namespace millrace::server {

using RawInferenceService = v1::InferenceService::WithRawCallbackMethod_Generate<
    v1::InferenceService::WithRawMethod_GenerateStream<
        v1::InferenceService::WithRawCallbackMethod_Chat<
            v1::InferenceService::WithRawMethod_ChatStream<
                v1::InferenceService::WithRawCallbackMethod_Tokenize<
                    v1::InferenceService::WithRawCallbackMethod_Detokenize<
                        v1::InferenceService::Service>>>>>>;

using RawModelService = v1::ModelService::WithRawCallbackMethod_ListModels<
    v1::ModelService::WithRawCallbackMethod_GetModel<v1::ModelService::Service>>;

// Thread: any.
class GrpcInference final : public RawInferenceService {
 public:
  GrpcInference(const DoorDeps& deps, const GrpcStreamLimits& limits);

  using Context = grpc::CallbackServerContext;
  using Buffer = grpc::ByteBuffer;
  grpc::ServerUnaryReactor* Generate(Context* context, const Buffer* wire, Buffer* out) override;
  grpc::ServerUnaryReactor* Chat(Context* context, const Buffer* wire, Buffer* out) override;
  grpc::ServerUnaryReactor* Tokenize(Context* context, const Buffer* wire, Buffer* out) override;
  grpc::ServerUnaryReactor* Detokenize(Context* context, const Buffer* wire, Buffer* out) override;
  // For StreamQueue::Open.
  std::vector<StreamMethod> StreamMethods();

 private:
  const DoorDeps deps_;
  const GrpcStreamLimits limits_;
  CallReader reader_;
};

// Thread: any.
class GrpcModels final : public RawModelService {
 public:
  explicit GrpcModels(const DoorDeps& deps) : deps_(deps), reader_(deps) {}

  using Context = grpc::CallbackServerContext;
  using Buffer = grpc::ByteBuffer;
  grpc::ServerUnaryReactor* ListModels(Context* context, const Buffer* wire, Buffer* out) override;
  grpc::ServerUnaryReactor* GetModel(Context* context, const Buffer* wire, Buffer* out) override;

 private:
  const DoorDeps deps_;
  CallReader reader_;
};

}  // namespace millrace::server
