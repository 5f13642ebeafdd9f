// Many concurrent GenerateStream calls against a Millrace node.
//
//   load_client_grpc --target 127.0.0.1:8001 --streams 256 --seconds 10 [--connections 4]
//       [--model NAME] [--max-tokens 128] [--prompt TEXT] [--disconnect 0.2] [--slow 8] [--seed 1]
//       [--threads 1] [--think-ms 0]
//
// Each stream makes one call after the other, and thinks half to one and a half times `--think-ms`
// before each. `--disconnect F`: that share of calls is cancelled by
// us at a random message. `--slow N`: the first N streams have a connection each with the smallest
// HTTP/2 window, and read a message only every 100 ms. Prints one JSON line: messages/s, tokens a
// message, time to the first message and gaps between messages (p50, p99; fast streams only), and
// how calls ended. Exit code 1 when a call of a fast stream that we did not cut ended badly.
//
// Messages are counted as bytes; only the last of a call, which has the usage, is parsed: the
// client's share of the machine is to be small. So is the number of thread switches: each of
// `--threads` reads the sockets itself, through a completion queue of its own (the callback API
// hands every message to another thread).

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "grpcpp/alarm.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "millrace/v1/inference_service.pb.h"

namespace {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;
using grpc::ByteBuffer;

struct Options {
  std::string target = "127.0.0.1:8001", model = "smollm2", prompt = "Hi";
  int streams = 64, slow = 0, max_tokens = 128, connections = 4, threads = 1;
  double seconds = 5, disconnect = 0, think_ms = 0;
  uint64_t seed = 1;
};

struct Totals {
  long long messages = 0, tokens = 0, whole_messages = 0, bytes = 0;
  long long done = 0, cut = 0, failed = 0, refused = 0, slow_ended = 0;
  std::vector<float> first_ms, gap_ms;
  std::string failure;
};

class Call;
class Load;

// What a completion queue hands back when an operation is done.
struct Tag {
  void* owner;
  void (*done)(void* owner, bool ok);
};
template <auto member, typename Owner>
Tag MakeTag(Owner* owner) {
  return {owner, [](void* self, bool ok) { (static_cast<Owner*>(self)->*member)(ok); }};
}

// One stream: a call after the other. Thread: that of its queue; Pump and Cut from another.
class Stream {
 public:
  Stream(Load& load, std::shared_ptr<grpc::Channel> channel, bool slow, uint64_t seed)
      : load_(load), stub_(std::move(channel)), slow_(slow), random_(seed) {}

  void Begin(grpc::CompletionQueue& queue);
  // Lets a slow stream read its next message.
  void Pump();
  void Cut();
  const Totals& totals() const { return totals_; }

 private:
  friend class Call;
  void OnMessage(Call& call);
  void OnEnd(std::unique_ptr<Call> call, const grpc::Status& status);
  void CountEnd(const Call& call, const grpc::Status& status);
  void OnThought(bool ok);

  Load& load_;
  grpc::GenericStub stub_;
  const bool slow_;
  std::mt19937_64 random_;
  Totals totals_;
  grpc::Alarm thinking_;
  Tag thought_{MakeTag<&Stream::OnThought>(this)};
  grpc::CompletionQueue* queue_ = nullptr;
  std::mutex mutex_;  // guards call_ against Pump and Cut
  Call* call_ = nullptr;
};

class Load {
 public:
  explicit Load(const Options& options) : options_(options) {
    millrace::v1::GenerateStreamRequest request;
    auto& inner = *request.mutable_request();
    inner.set_model(options.model);
    inner.set_text(options.prompt);
    inner.mutable_stopping()->set_max_tokens(options.max_tokens);
    inner.mutable_stopping()->set_ignore_eos(true);
    request_ = request.SerializeAsString();
  }

  Totals Run();
  const Options& options() const { return options_; }
  const std::string& request() const { return request_; }
  bool stopping() const { return stopping_; }
  double seconds() const { return seconds_; }
  void StreamEnded() {
    std::lock_guard lock(mutex_);
    if (--running_ == 0) ended_.notify_all();
  }

 private:
  std::shared_ptr<grpc::Channel> Connect(bool slow) const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetMaxReceiveMessageSize(64 << 20);
    if (slow) {
      arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1);
      arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    }
    return grpc::CreateCustomChannel(options_.target, grpc::InsecureChannelCredentials(),
                                     arguments);
  }

  const Options options_;
  std::string request_;
  std::atomic<bool> stopping_{false};
  double seconds_ = 0;
  std::mutex mutex_;
  std::condition_variable ended_;
  int running_ = 0;
  std::vector<std::unique_ptr<Stream>> streams_;
};

double Ms(Time from, Time to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

// One call. Deletes itself through Stream::OnEnd.
class Call {
 public:
  Call(Stream& stream, const std::string& request, int cut_at)
      : cut_at(cut_at),
        stream_(stream),
        written_(MakeTag<&Call::OnWritten>(this)),
        read_(MakeTag<&Call::OnRead>(this)),
        finished_(MakeTag<&Call::OnFinished>(this)) {
    const grpc::Slice slice(request);
    request_ = ByteBuffer(&slice, 1);
  }

  void Start(grpc::CompletionQueue& queue) {
    queue_ = &queue;
    begin = last = Clock::now();
    context.set_wait_for_ready(true);  // while the node starts
    context.set_initial_metadata_corked(true);
    rpc_ =
        stream_.stub_.PrepareCall(&context, "/millrace.v1.InferenceService/GenerateStream", &queue);
    rpc_->StartCall(nullptr);
    rpc_->WriteLast(request_, {}, &written_);
    if (!stream_.slow_) rpc_->Read(&message_, &read_);
  }
  // REQUIRES: the stream's mutex.
  void ReadSlowly() {
    if (reading_ || over_) return;
    reading_ = true;
    rpc_->Read(&message_, &read_);
  }
  grpc::CompletionQueue& queue() { return *queue_; }

  grpc::ClientContext context;
  ByteBuffer newest;
  int messages = 0;
  bool was_cut = false;
  Time begin, last;
  const int cut_at;  // message; 0: never

 private:
  void OnWritten(bool) {
    write_done_ = true;
    if (finish_done_) stream_.OnEnd(std::unique_ptr<Call>(this), status_);
  }
  void OnRead(bool ok) {
    if (ok) {
      newest.Swap(&message_);
      stream_.OnMessage(*this);
      if (!stream_.slow_) return rpc_->Read(&message_, &read_);
    }
    {
      std::lock_guard lock(stream_.mutex_);
      reading_ = false;
      over_ = !ok;
    }
    if (!ok) rpc_->Finish(&status_, &finished_);
  }
  void OnFinished(bool) {
    finish_done_ = true;
    if (write_done_) stream_.OnEnd(std::unique_ptr<Call>(this), status_);
  }

  Stream& stream_;
  Tag written_, read_, finished_;
  grpc::CompletionQueue* queue_ = nullptr;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> rpc_;
  ByteBuffer request_, message_;
  grpc::Status status_;
  bool write_done_ = false, finish_done_ = false;
  bool reading_ = false, over_ = false;  // guarded by the stream's mutex; slow streams only
};

void Stream::Begin(grpc::CompletionQueue& queue) {
  std::uniform_real_distribution<double> draw(0, 1);
  std::uniform_int_distribution<int> message(1, std::max(1, load_.options().max_tokens / 2));
  const int cut_at = draw(random_) < load_.options().disconnect ? message(random_) : 0;
  auto call = std::make_unique<Call>(*this, load_.request(), cut_at);
  std::lock_guard lock(mutex_);
  call_ = call.get();
  call.release()->Start(queue);
}

void Stream::OnMessage(Call& call) {
  const Time now = Clock::now();
  if (!load_.stopping()) ++totals_.messages;
  totals_.bytes += static_cast<long long>(call.newest.Length());
  if (!slow_) {
    auto& times = call.messages == 0 ? totals_.first_ms : totals_.gap_ms;
    times.push_back(static_cast<float>(Ms(call.last, now)));
  }
  call.last = now;
  if (++call.messages == call.cut_at) {
    call.was_cut = true;
    call.context.TryCancel();
  }
}

void Stream::CountEnd(const Call& call, const grpc::Status& status) {
  if (status.ok()) {
    ++totals_.done;
    grpc::Slice slice;
    millrace::v1::GenerateStreamResponse last;
    if (call.newest.DumpToSingleSlice(&slice).ok() &&
        last.ParseFromArray(slice.begin(), static_cast<int>(slice.size()))) {
      totals_.tokens += last.usage().completion_tokens();
      totals_.whole_messages += call.messages;
    }
  } else if (call.was_cut || load_.stopping()) {
    ++totals_.cut;
  } else if (slow_) {
    ++totals_.slow_ended;
  } else if (status.error_code() == grpc::StatusCode::UNAVAILABLE && call.messages == 0) {
    ++totals_.refused;
  } else {
    ++totals_.failed;
    totals_.failure = std::to_string(status.error_code()) + " " + status.error_message();
  }
}

void Stream::OnEnd(std::unique_ptr<Call> call, const grpc::Status& status) {
  {
    std::lock_guard lock(mutex_);
    call_ = nullptr;
  }
  CountEnd(*call, status);
  queue_ = &call->queue();
  call.reset();
  const double think_ms = load_.options().think_ms;
  if (think_ms <= 0 || load_.stopping()) return OnThought(true);
  std::uniform_real_distribution<double> share(0.5, 1.5);
  const std::chrono::microseconds pause(static_cast<int64_t>(think_ms * share(random_) * 1000));
  thinking_.Set(queue_, std::chrono::system_clock::now() + pause, &thought_);
}

void Stream::OnThought(bool) {
  if (load_.stopping()) {
    load_.StreamEnded();
  } else {
    Begin(*queue_);
  }
}

void Stream::Pump() {
  std::lock_guard lock(mutex_);
  if (slow_ && call_ != nullptr) call_->ReadSlowly();
}

void Stream::Cut() {
  std::lock_guard lock(mutex_);
  if (call_ != nullptr) call_->context.TryCancel();
}

void Serve(grpc::CompletionQueue& queue) {
  void* done = nullptr;
  bool ok = false;
  while (queue.Next(&done, &ok)) {
    const auto* tag = static_cast<Tag*>(done);
    tag->done(tag->owner, ok);
  }
}

Totals Load::Run() {
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int i = 0; i < std::max(1, options_.connections); ++i) channels.push_back(Connect(false));
  for (int i = 0; i < options_.streams; ++i) {
    const bool slow = i < options_.slow;
    auto channel = slow ? Connect(true) : channels[static_cast<size_t>(i) % channels.size()];
    streams_.push_back(std::make_unique<Stream>(*this, std::move(channel), slow,
                                                options_.seed + static_cast<uint64_t>(i)));
  }
  running_ = options_.streams;
  std::vector<grpc::CompletionQueue> queues(static_cast<size_t>(std::max(1, options_.threads)));
  std::vector<std::thread> threads;
  for (grpc::CompletionQueue& queue : queues) threads.emplace_back([&queue] { Serve(queue); });
  const Time begin = Clock::now();
  for (size_t i = 0; i < streams_.size(); ++i) streams_[i]->Begin(queues[i % queues.size()]);
  while (Ms(begin, Clock::now()) < options_.seconds * 1000) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    for (auto& stream : streams_) stream->Pump();
  }
  stopping_ = true;
  seconds_ = Ms(begin, Clock::now()) / 1000;
  // A slow stream ends only when it reads the end.
  std::unique_lock lock(mutex_);
  while (running_ > 0) {
    lock.unlock();
    for (auto& stream : streams_) stream->Cut(), stream->Pump();
    lock.lock();
    ended_.wait_for(lock, std::chrono::milliseconds(20), [&] { return running_ == 0; });
  }
  for (grpc::CompletionQueue& queue : queues) queue.Shutdown();
  for (std::thread& thread : threads) thread.join();
  Totals sum;
  for (const auto& stream : streams_) {
    const Totals& t = stream->totals();
    sum.messages += t.messages, sum.tokens += t.tokens, sum.bytes += t.bytes;
    sum.whole_messages += t.whole_messages;
    sum.done += t.done, sum.cut += t.cut, sum.failed += t.failed;
    sum.refused += t.refused, sum.slow_ended += t.slow_ended;
    sum.first_ms.insert(sum.first_ms.end(), t.first_ms.begin(), t.first_ms.end());
    sum.gap_ms.insert(sum.gap_ms.end(), t.gap_ms.begin(), t.gap_ms.end());
    if (!t.failure.empty()) sum.failure = t.failure;
  }
  return sum;
}

float Percentile(std::vector<float>& values, double share) {
  if (values.empty()) return 0;
  const auto at =
      values.begin() + static_cast<long>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

bool ReadOptions(int argc, char** argv, Options& options) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    const char* value = argv[i + 1];
    if (name == "--target")
      options.target = value;
    else if (name == "--model")
      options.model = value;
    else if (name == "--prompt")
      options.prompt = value;
    else if (name == "--streams")
      options.streams = std::atoi(value);
    else if (name == "--slow")
      options.slow = std::atoi(value);
    else if (name == "--connections")
      options.connections = std::atoi(value);
    else if (name == "--threads")
      options.threads = std::atoi(value);
    else if (name == "--max-tokens")
      options.max_tokens = std::atoi(value);
    else if (name == "--seconds")
      options.seconds = std::atof(value);
    else if (name == "--think-ms")
      options.think_ms = std::atof(value);
    else if (name == "--disconnect")
      options.disconnect = std::atof(value);
    else if (name == "--seed")
      options.seed = std::strtoull(value, nullptr, 10);
    else
      return false;
  }
  return argc % 2 == 1 && options.streams > 0 && options.slow <= options.streams;
}

}  // namespace

int main(int argc, char** argv) {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  Options options;
  if (!ReadOptions(argc, argv, options)) {
    std::fprintf(stderr, "load_client_grpc: bad flags; see the top of bench/load_client_grpc.cc\n");
    return 2;
  }
  Load load(options);
  Totals t = load.Run();
  const double per_message =
      t.whole_messages == 0 ? 0
                            : static_cast<double>(t.tokens) / static_cast<double>(t.whole_messages);
  std::printf(
      "{\"streams\":%d,\"seconds\":%.2f,\"messages_per_s\":%.0f,\"messages\":%lld,"
      "\"usage_tokens\":%lld,\"tokens_per_message\":%.3f,\"first_ms_p50\":%.3f,"
      "\"first_ms_p99\":%.3f,\"gap_ms_p50\":%.3f,\"gap_ms_p99\":%.3f,\"gap_ms_max\":%.3f,"
      "\"done\":%lld,\"cut\":%lld,\"refused\":%lld,\"slow_ended\":%lld,\"failed\":%lld}\n",
      options.streams, load.seconds(), static_cast<double>(t.messages) / load.seconds(), t.messages,
      t.tokens, per_message, Percentile(t.first_ms, 0.5), Percentile(t.first_ms, 0.99),
      Percentile(t.gap_ms, 0.5), Percentile(t.gap_ms, 0.99), Percentile(t.gap_ms, 1), t.done, t.cut,
      t.refused, t.slow_ended, t.failed);
  if (t.failed > 0) std::fprintf(stderr, "first failure: %s\n", t.failure.c_str());
  return t.failed > 0 ? 1 : 0;
}
