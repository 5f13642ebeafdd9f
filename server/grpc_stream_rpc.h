#pragma once
// Server-streaming RPCs on two completion queues of ours:
//
//   accept thread ─ arrivals ─► StreamMethod::arrived: who calls, parse, Frontend::Start
//   stream worker ─ OnDeltas ─► StreamRpc::Write ─► the socket, by the same thread
//   stream worker ─ completions, when it has nothing else to do ─► StreamEvents
//
// gRPC's callback API hands every completion to one of two threads of its own: with 256 streams
// that was one thread switch a message. It serves the unary methods, where that does not matter.

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "grpcpp/alarm.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/async_stream.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/worker_pool.h"

namespace millrace::server {

class StreamQueue;

// What a completion queue hands back. Thread: who polls the queue.
class Completion {
 public:
  virtual ~Completion() = default;
  virtual void Complete(bool ok) = 0;
};

// How an RPC tells its owner what happened. Thread: the first stream worker, one call at a time.
class StreamEvents {
 public:
  virtual ~StreamEvents() = default;
  virtual void OnWriteDone(bool ok) = 0;
  // Cancelled, past its deadline, or the connection is lost.
  virtual void OnCancel() = 0;
  // Finished, and the last call: the RPC is deleted after it.
  virtual void OnDone() = 0;
};

// One RPC, from before it arrives; deletes itself. Thread: any for Attach, Write and Finish.
class StreamRpc {
 public:
  explicit StreamRpc(StreamQueue& queue);

  grpc::ServerContext& context() { return context_; }
  const grpc::ByteBuffer& request() const { return request_; }

  // REQUIRES: once, by StreamMethod::arrived, before any write.
  void Attach(StreamEvents& events);
  // One at a time: the next after OnWriteDone. `message` stays untouched until then.
  void Write(const grpc::ByteBuffer& message);
  // One of these, once, with no write under way. The RPC may be gone when they return.
  void WriteAndFinish(const grpc::ByteBuffer& message, const grpc::Status& status);
  void Finish(const grpc::Status& status);

 private:
  friend class StreamQueue;
  template <void (StreamRpc::*done)(bool)>
  class Step final : public Completion {
   public:
    explicit Step(StreamRpc& rpc) : rpc_(rpc) {}
    void Complete(bool ok) override { (rpc_.*done)(ok); }

   private:
    StreamRpc& rpc_;
  };
  void OnWritten(bool ok);
  void OnFinished(bool ok);
  void OnOver(bool ok);
  void MaybeEnd();

  StreamQueue& queue_;
  grpc::ServerContext context_;
  grpc::ByteBuffer request_;
  grpc::ServerAsyncWriter<grpc::ByteBuffer> writer_{&context_};
  Step<&StreamRpc::OnWritten> written_{*this};
  Step<&StreamRpc::OnFinished> finished_{*this};
  Step<&StreamRpc::OnOver> over_{*this};
  bool finish_done_ = false;  // of the worker, as is over_done_
  bool over_done_ = false;
  std::mutex mutex_;  // guards what follows
  StreamEvents* events_ = nullptr;
  bool cancelled_ = false;
};

// What gRPC needs to deliver an RPC of one method.
struct StreamArrival {
  grpc::ServerContext* context;
  grpc::ByteBuffer* request;
  grpc::ServerAsyncWriter<grpc::ByteBuffer>* writer;
  grpc::CompletionQueue* calls;
  grpc::ServerCompletionQueue* arrivals;
  void* tag;
};

struct StreamMethod {
  // Asks gRPC for the next RPC: the service's Request... of the method.
  std::function<void(const StreamArrival&)> request;
  // An RPC came: to be attached, then written to and finished. On the accept thread.
  std::function<void(StreamRpc&)> arrived;
};

// The queues and the accept thread. Thread: the owner's; Poll: the first stream worker; Wake: any.
class StreamQueue final : public IdleWait, private Completion {
 public:
  explicit StreamQueue(grpc::ServerBuilder& builder);
  ~StreamQueue() override;  // REQUIRES: Close, once Open was called

  // REQUIRES: the server runs.
  void Open(std::vector<StreamMethod> methods);
  // No arrivals any more; returns when the last RPC is deleted. REQUIRES: the server was shut down
  // and somebody polls.
  void Close();

  void Poll(bool block) override;
  void Wake() override;

 private:
  friend class StreamRpc;
  class Arrival;
  // The alarm went off.
  void Complete(bool) override { alarm_set_ = false; }
  void Accept();
  void Request(const StreamMethod& method);
  void OnArrival(std::unique_ptr<StreamRpc> rpc, const StreamMethod& method, bool ok);
  void OnEnd();

  // Does not poll: no peer can keep the stream worker reading.
  const std::unique_ptr<grpc::CompletionQueue> calls_;
  const std::unique_ptr<grpc::ServerCompletionQueue> arrivals_;
  std::vector<StreamMethod> methods_;
  std::thread accept_;
  std::atomic<int> under_way_{0};  // writes and finishes whose completion was not seen
  std::atomic<bool> alarm_set_{false};
  grpc::Alarm alarm_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable ended_;
  int live_ = 0;
  bool closing_ = false;
};

}  // namespace millrace::server
