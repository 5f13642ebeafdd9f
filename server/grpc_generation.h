#pragma once
// One RPC that generates: its owner on gRPC's side, its sink on the front end's.
//
//   stream worker ─ OnDeltas ─► ProtoAnswer ─ at most one Write ─► StreamRpc
//   StreamRpc ─ OnWriteDone ─► the next joined message; room again: Generation::Drained
//   StreamRpc ─ OnCancel (cancel, deadline, lost connection) ─► Generation::Cancel
//
// Nothing is sent before the request was accepted and has its first token, so that a refusal is
// trailers-only and a client's retry policy may try another node. Finish is called exactly once;
// what calls into gRPC or the front end does so without holding the lock.

#include <memory>
#include <mutex>
#include <optional>

#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "server/frontend.h"
#include "server/grpc_stream_rpc.h"
#include "server/proto_answer.h"

namespace millrace::server {

struct GrpcStreamLimits {
  // Bytes that wait for a slow reader before the engine is told to pause the request.
  size_t stream_bytes_max = 256 << 10;
  // Of a unary answer. Longer ones are for the streaming methods.
  size_t answer_bytes_max = 32 << 20;
};

// What the two kinds of call share: the front end's handle, which comes after the first events may
// have come, and the names of the request. Thread: any, under the call's lock where said.
struct CallShared {
  grpc::ServerContextBase* context = nullptr;
  std::string request_id;
  std::shared_ptr<Generation> generation;
  bool finished = false;  // Finish was called or is about to be
};

// Thread: any.
class StreamCall final : public StreamEvents,
                         public DeltaSink,
                         public std::enable_shared_from_this<StreamCall> {
 public:
  static std::shared_ptr<StreamCall> Make(StreamRpc& rpc, AnswerShape shape,
                                          const GrpcStreamLimits& limits);
  void Start(Frontend& frontend, GenerationRequest request);
  void Reject(const ApiError& error);

  void OnAccepted(const Accepted& accepted) override;
  SinkState OnDeltas(std::vector<OutputDelta>&& deltas) override;
  void OnDone(const Usage& total) override;
  void OnError(const ApiError& error) override;

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  StreamCall(StreamRpc& rpc, AnswerShape shape, const GrpcStreamLimits& limits);
  void End(grpc::Status status);

  const GrpcStreamLimits limits_;
  StreamRpc& rpc_;  // REQUIRES: not touched once Finish was called

  std::mutex mutex_;                  // guards what follows
  std::shared_ptr<StreamCall> self_;  // until StreamRpc's OnDone
  CallShared shared_;
  ProtoAnswer answer_;
  grpc::ByteBuffer writing_;  // REQUIRES: untouched while write_in_flight_
  bool write_in_flight_ = false;
  bool started_ = false;             // something was sent: no longer trailers-only
  bool full_ = false;                // the front end waits for Drained
  bool broken_ = false;              // cancelled, or the connection is gone
  std::optional<grpc::Status> end_;  // what to finish with when all is written
};

// Thread: any.
class UnaryCall final : public grpc::ServerUnaryReactor, public DeltaSink {
 public:
  static std::shared_ptr<UnaryCall> Make(grpc::CallbackServerContext& context, AnswerShape shape,
                                         const GrpcStreamLimits& limits,
                                         grpc::ByteBuffer* response);
  void Start(Frontend& frontend, GenerationRequest request);
  void Reject(const ApiError& error);

  void OnAccepted(const Accepted& accepted) override;
  SinkState OnDeltas(std::vector<OutputDelta>&& deltas) override;
  void OnDone(const Usage& total) override;
  void OnError(const ApiError& error) override;

  void OnCancel() override;
  void OnDone() override;

 private:
  UnaryCall(grpc::CallbackServerContext& context, AnswerShape shape, const GrpcStreamLimits& limits,
            grpc::ByteBuffer* response);
  // The handle to cancel, when this call was the one to end the RPC.
  std::shared_ptr<Generation> End(grpc::Status status);

  const GrpcStreamLimits limits_;
  grpc::ByteBuffer* const response_;
  std::shared_ptr<UnaryCall> self_;

  std::mutex mutex_;  // guards what follows
  CallShared shared_;
  ProtoAnswer answer_;
};

}  // namespace millrace::server
