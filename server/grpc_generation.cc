#include "server/grpc_generation.h"

#include <utility>

#include "server/grpc_status.h"

namespace millrace::server {
namespace {

// A refused call sends its names as trailers: initial metadata of ours would make it two frames and
// commit the client to this node (gRFC A6). How long to wait is also said where gRPC's own retry
// reads it.
void AddRejectionMetadata(const ApiError& error, CallShared& shared) {
  shared.context->AddTrailingMetadata("x-request-id", shared.request_id);
  if (const MonoNanos wait = error.RetryAfter(); wait > 0) {
    shared.context->AddTrailingMetadata("grpc-retry-pushback-ms",
                                        std::to_string(wait / kNanosPerMilli));
  }
}

void AddAcceptedMetadata(const Accepted& accepted, CallShared& shared) {
  shared.context->AddInitialMetadata("x-request-id", shared.request_id);
  if (!accepted.traceparent.empty()) {
    shared.context->AddInitialMetadata("traceparent", accepted.traceparent);
  }
}

}  // namespace

StreamCall::StreamCall(StreamRpc& rpc, AnswerShape shape, const GrpcStreamLimits& limits)
    : limits_(limits), rpc_(rpc), answer_(shape) {
  shared_.context = &rpc.context();
  shared_.request_id = std::move(shape.request_id);
}

std::shared_ptr<StreamCall> StreamCall::Make(StreamRpc& rpc, AnswerShape shape,
                                             const GrpcStreamLimits& limits) {
  std::shared_ptr<StreamCall> call(new StreamCall(rpc, std::move(shape), limits));
  call->self_ = call;
  rpc.Attach(*call);
  return call;
}

void StreamCall::Start(Frontend& frontend, GenerationRequest request) {
  std::shared_ptr<Generation> generation = frontend.Start(std::move(request), shared_from_this());
  bool gone = false;
  {
    std::lock_guard lock(mutex_);
    gone = broken_;
    if (!shared_.finished) shared_.generation = generation;
  }
  if (gone) generation->Cancel();
  // A write may have emptied a full stream before the handle was there.
  generation->Drained();
}

void StreamCall::Reject(const ApiError& error) {
  OnError(error);
}

void StreamCall::OnAccepted(const Accepted& accepted) {
  std::lock_guard lock(mutex_);
  if (shared_.finished) return;
  answer_.Accept(accepted);
  AddAcceptedMetadata(accepted, shared_);
}

SinkState StreamCall::OnDeltas(std::vector<OutputDelta>&& deltas) {
  bool write = false;
  bool full = false;
  {
    std::lock_guard lock(mutex_);
    if (broken_ || shared_.finished) return SinkState::kReady;
    for (OutputDelta& delta : deltas) answer_.Add(std::move(delta));
    // The end follows at once and takes the last message with it.
    if (!write_in_flight_ && !answer_.all_finished()) {
      writing_ = answer_.Take();
      write = write_in_flight_ = started_ = true;
    }
    full = full_ = answer_.bytes() > limits_.stream_bytes_max;
  }
  if (write) rpc_.Write(writing_);
  return full ? SinkState::kFull : SinkState::kReady;
}

void StreamCall::OnDone(const Usage& total) {
  {
    std::lock_guard lock(mutex_);
    answer_.SetUsage(total);
  }
  End(grpc::Status::OK);
}

void StreamCall::OnError(const ApiError& error) {
  grpc::Status status = ToGrpcStatus(error, shared_.request_id);
  {
    std::lock_guard lock(mutex_);
    if (!broken_ && !shared_.finished && !started_ && answer_.empty()) {
      AddRejectionMetadata(error, shared_);
    }
  }
  End(std::move(status));
}

// Sends what waits and then the status, now or when the write in flight is done.
void StreamCall::End(grpc::Status status) {
  bool last = false;
  {
    std::lock_guard lock(mutex_);
    if (broken_ || shared_.finished) return;
    end_ = std::move(status);
    if (write_in_flight_) return;
    shared_.finished = true;
    last = !answer_.empty();
    if (last) writing_ = answer_.Take();
  }
  if (last) {
    rpc_.WriteAndFinish(writing_, *end_);
  } else {
    rpc_.Finish(*end_);
  }
}

void StreamCall::OnWriteDone(bool ok) {
  enum class Next { kNothing, kWrite, kWriteLast, kFinish } next = Next::kNothing;
  grpc::Status status = grpc::Status::OK;
  std::shared_ptr<Generation> drained;
  {
    std::lock_guard lock(mutex_);
    write_in_flight_ = false;
    broken_ = broken_ || !ok;
    const bool waits = !answer_.empty() && !broken_;
    if (waits) writing_ = answer_.Take();
    if (full_) drained = shared_.generation;
    full_ = false;
    if (broken_ || end_) {
      status = broken_ ? grpc::Status::CANCELLED : *end_;
      next = waits ? Next::kWriteLast : Next::kFinish;
      shared_.finished = true;
    } else if (waits) {
      next = Next::kWrite;
      write_in_flight_ = true;
    }
  }
  if (drained != nullptr) drained->Drained();
  // After Finish this object may be gone.
  if (next == Next::kWrite) rpc_.Write(writing_);
  if (next == Next::kWriteLast) rpc_.WriteAndFinish(writing_, status);
  if (next == Next::kFinish) rpc_.Finish(status);
}

void StreamCall::OnCancel() {
  std::shared_ptr<Generation> generation;
  bool finish = false;
  {
    std::lock_guard lock(mutex_);
    broken_ = true;
    generation = shared_.generation;
    finish = !write_in_flight_ && !shared_.finished;
    shared_.finished = shared_.finished || finish;
  }
  if (generation != nullptr) generation->Cancel();
  if (finish) rpc_.Finish(grpc::Status::CANCELLED);
}

void StreamCall::OnDone() {
  std::shared_ptr<StreamCall> kept;  // dies after the lock
  std::shared_ptr<Generation> generation;
  {
    std::lock_guard lock(mutex_);
    kept = std::move(self_);
    generation = std::move(shared_.generation);
  }
}

UnaryCall::UnaryCall(grpc::CallbackServerContext& context, AnswerShape shape,
                     const GrpcStreamLimits& limits, grpc::ByteBuffer* response)
    : limits_(limits), response_(response), answer_(shape) {
  shared_.context = &context;
  shared_.request_id = std::move(shape.request_id);
}

std::shared_ptr<UnaryCall> UnaryCall::Make(grpc::CallbackServerContext& context, AnswerShape shape,
                                           const GrpcStreamLimits& limits,
                                           grpc::ByteBuffer* response) {
  std::shared_ptr<UnaryCall> call(new UnaryCall(context, std::move(shape), limits, response));
  call->self_ = call;
  return call;
}

void UnaryCall::Start(Frontend& frontend, GenerationRequest request) {
  std::shared_ptr<Generation> generation = frontend.Start(std::move(request), self_);
  bool gone = false;
  {
    std::lock_guard lock(mutex_);
    gone = shared_.finished;
    if (!gone) shared_.generation = generation;
  }
  // Ended well or by a cancel: the front end takes both.
  if (gone) generation->Cancel();
}

void UnaryCall::Reject(const ApiError& error) {
  OnError(error);
}

void UnaryCall::OnAccepted(const Accepted& accepted) {
  std::lock_guard lock(mutex_);
  if (shared_.finished) return;
  answer_.Accept(accepted);
  AddAcceptedMetadata(accepted, shared_);
}

SinkState UnaryCall::OnDeltas(std::vector<OutputDelta>&& deltas) {
  {
    std::lock_guard lock(mutex_);
    if (shared_.finished) return SinkState::kReady;
    for (OutputDelta& delta : deltas) answer_.Add(std::move(delta));
    if (answer_.bytes() <= limits_.answer_bytes_max) return SinkState::kReady;
  }
  ApiError error;
  error.kind = ErrorKind::kBodyTooLarge;
  error.message = "The answer has more than " + std::to_string(limits_.answer_bytes_max) +
                  " bytes: use the streaming method.";
  if (auto generation = End(ToGrpcStatus(error, shared_.request_id))) generation->Cancel();
  return SinkState::kReady;
}

void UnaryCall::OnDone(const Usage& total) {
  {
    std::lock_guard lock(mutex_);
    if (shared_.finished) return;
    answer_.SetUsage(total);
    *response_ = answer_.Take();
  }
  End(grpc::Status::OK);
}

void UnaryCall::OnError(const ApiError& error) {
  {
    std::lock_guard lock(mutex_);
    if (shared_.finished) return;
    AddRejectionMetadata(error, shared_);
  }
  End(ToGrpcStatus(error, shared_.request_id));
}

std::shared_ptr<Generation> UnaryCall::End(grpc::Status status) {
  std::shared_ptr<Generation> generation;
  {
    std::lock_guard lock(mutex_);
    if (shared_.finished) return nullptr;
    shared_.finished = true;
    generation = std::move(shared_.generation);
  }
  Finish(std::move(status));
  return generation;
}

void UnaryCall::OnCancel() {
  if (auto generation = End(grpc::Status::CANCELLED)) generation->Cancel();
}

void UnaryCall::OnDone() {
  std::shared_ptr<UnaryCall> kept;  // dies after the lock
  std::lock_guard lock(mutex_);
  kept = self_;
  self_.reset();
}

}  // namespace millrace::server
