#include "server/grpc_stream_rpc.h"

#include <utility>

#include "grpc/support/time.h"

namespace millrace::server {
namespace {

// Then the worker looks at its own queue again.
constexpr int kCompletionsPerPoll = 64;

Completion* FromTag(void* tag) {
  return static_cast<Completion*>(tag);
}

// gRPC's tags are untyped: what goes in as a Completion* must come out as one.
void* ToTag(Completion& completion) {
  return &completion;
}

}  // namespace

StreamRpc::StreamRpc(StreamQueue& queue) : queue_(queue) {
  context_.AsyncNotifyWhenDone(ToTag(over_));
}

void StreamRpc::Attach(StreamEvents& events) {
  bool cancelled = false;
  {
    std::lock_guard lock(mutex_);
    events_ = &events;
    cancelled = cancelled_;
  }
  if (cancelled) events.OnCancel();
}

void StreamRpc::Write(const grpc::ByteBuffer& message) {
  queue_.under_way_.fetch_add(1, std::memory_order_relaxed);
  writer_.Write(message, ToTag(written_));
}

void StreamRpc::WriteAndFinish(const grpc::ByteBuffer& message, const grpc::Status& status) {
  queue_.under_way_.fetch_add(1, std::memory_order_relaxed);
  writer_.WriteAndFinish(message, grpc::WriteOptions(), status, ToTag(finished_));
}

void StreamRpc::Finish(const grpc::Status& status) {
  queue_.under_way_.fetch_add(1, std::memory_order_relaxed);
  writer_.Finish(status, ToTag(finished_));
}

void StreamRpc::OnWritten(bool ok) {
  queue_.under_way_.fetch_sub(1, std::memory_order_relaxed);
  events_->OnWriteDone(ok);
}

void StreamRpc::OnFinished(bool) {
  queue_.under_way_.fetch_sub(1, std::memory_order_relaxed);
  finish_done_ = true;
  MaybeEnd();
}

void StreamRpc::OnOver(bool) {
  over_done_ = true;
  StreamEvents* events = nullptr;
  if (context_.IsCancelled()) {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    events = events_;
  }
  // Without an owner yet: Attach will tell.
  if (events != nullptr) events->OnCancel();
  MaybeEnd();
}

void StreamRpc::MaybeEnd() {
  if (!finish_done_ || !over_done_) return;
  events_->OnDone();
  StreamQueue& queue = queue_;
  delete this;
  queue.OnEnd();
}

// Waits for one RPC of one method; then makes its own successor.
class StreamQueue::Arrival final : public Completion {
 public:
  Arrival(StreamQueue& queue, const StreamMethod& method)
      : queue_(queue), method_(method), rpc_(std::make_unique<StreamRpc>(queue)) {}

  void Request() {
    method_.request({&rpc_->context_, &rpc_->request_, &rpc_->writer_, queue_.calls_.get(),
                     queue_.arrivals_.get(), ToTag(*this)});
  }
  void Complete(bool ok) override {
    const std::unique_ptr<Arrival> kept(this);
    queue_.OnArrival(std::move(rpc_), method_, ok);
  }

 private:
  StreamQueue& queue_;
  const StreamMethod& method_;
  std::unique_ptr<StreamRpc> rpc_;
};

namespace {

// Who waits in such a queue never reads a socket for the library.
grpc_completion_queue* NewQueueThatDoesNotPoll() {
  const grpc_completion_queue_attributes attributes{GRPC_CQ_CURRENT_VERSION, GRPC_CQ_NEXT,
                                                    GRPC_CQ_NON_POLLING, nullptr};
  return grpc_completion_queue_create(grpc_completion_queue_factory_lookup(&attributes),
                                      &attributes, nullptr);
}

}  // namespace

StreamQueue::StreamQueue(grpc::ServerBuilder& builder)
    : calls_(std::make_unique<grpc::CompletionQueue>(NewQueueThatDoesNotPoll())),
      arrivals_(builder.AddCompletionQueue()) {}

StreamQueue::~StreamQueue() {
  // What is left is an alarm at most; gRPC wants a queue to be empty when it ends.
  arrivals_->Shutdown();
  calls_->Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (arrivals_->Next(&tag, &ok)) continue;
  while (calls_->Next(&tag, &ok)) continue;
}

void StreamQueue::Open(std::vector<StreamMethod> methods) {
  methods_ = std::move(methods);
  for (const StreamMethod& method : methods_) Request(method);
  accept_ = std::thread([this] { Accept(); });
}

void StreamQueue::Close() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    arrivals_->Shutdown();
  }
  if (accept_.joinable()) accept_.join();
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [&] { return live_ == 0; });
}

void StreamQueue::Accept() {
  void* tag = nullptr;
  bool ok = false;
  while (arrivals_->Next(&tag, &ok)) FromTag(tag)->Complete(ok);
}

void StreamQueue::Request(const StreamMethod& method) {
  // Under the lock: a queue that was shut down must not be asked.
  std::lock_guard lock(mutex_);
  if (closing_) return;
  auto* arrival = new Arrival(*this, method);  // its Complete deletes it
  arrival->Request();
}

void StreamQueue::OnArrival(std::unique_ptr<StreamRpc> rpc, const StreamMethod& method, bool ok) {
  if (!ok) return;  // the server shuts down
  {
    std::lock_guard lock(mutex_);
    ++live_;
  }
  Request(method);
  method.arrived(*rpc.release());
}

void StreamQueue::OnEnd() {
  std::lock_guard lock(mutex_);
  if (--live_ == 0) ended_.notify_all();
}

void StreamQueue::Poll(bool block) {
  void* tag = nullptr;
  bool ok = false;
  if (block) {
    if (!calls_->Next(&tag, &ok)) return;
    FromTag(tag)->Complete(ok);
  }
  // A poll that finds nothing costs system calls, so only while something is known to come.
  const gpr_timespec now = gpr_inf_past(GPR_CLOCK_MONOTONIC);
  for (int i = 0; i < kCompletionsPerPoll && under_way_.load(std::memory_order_relaxed) > 0; ++i) {
    if (calls_->AsyncNext(&tag, &ok, now) != grpc::CompletionQueue::GOT_EVENT) return;
    FromTag(tag)->Complete(ok);
  }
}

void StreamQueue::Wake() {
  // An alarm of the past is the way to put a tag into a queue.
  if (!alarm_set_.exchange(true)) {
    alarm_.Set(calls_.get(), gpr_inf_past(GPR_CLOCK_MONOTONIC), ToTag(*this));
  }
}

}  // namespace millrace::server
