#include "server/otlp_exporter.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <random>
#include <string_view>
#include <thread>

#include "base/log.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "grpcpp/security/credentials.h"
#include "server/otlp_convert.h"

namespace millrace::server {
namespace {

using Steady = std::chrono::steady_clock;
using Stub = grpc::TemplatedGenericStub<otlp::v1::ExportTraceServiceRequest,
                                        otlp::v1::ExportTraceServiceResponse>;

constexpr char kMethod[] = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
constexpr MonoNanos kBackoffMax = 5 * kNanosPerSecond;

// As the OTLP specification lists them. ResourceExhausted only counts when the collector says when
// to come back; without that it is final.
bool MayRetry(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::ABORTED:
    case grpc::StatusCode::OUT_OF_RANGE:
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::DATA_LOSS:
      return true;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return status.error_details().find("google.rpc.RetryInfo") != std::string::npos;
    default:
      return false;
  }
}

struct Endpoint {
  std::string target;
  bool tls = false;
};

absl::StatusOr<Endpoint> ParseEndpoint(std::string_view text) {
  Endpoint endpoint;
  if (const size_t scheme = text.find("://"); scheme != std::string_view::npos) {
    const std::string_view name = text.substr(0, scheme);
    if (name != "http" && name != "https") {
      return absl::InvalidArgumentError("the OTLP endpoint must begin with http:// or https://");
    }
    endpoint.tls = name == "https";
    text.remove_prefix(scheme + 3);
  }
  while (!text.empty() && text.back() == '/') text.remove_suffix(1);
  if (text.empty() || text.find_first_of("/ ?#@") != std::string_view::npos) {
    return absl::InvalidArgumentError("the OTLP endpoint must be http(s)://host:port");
  }
  endpoint.target = std::string(text);
  // A bare host gets OTLP/gRPC's port; the colons of a bracketed IPv6 address are not a port's.
  const size_t colon = text.rfind(':');
  const size_t bracket = text.rfind(']');
  const bool has_port =
      colon != std::string_view::npos && (bracket == std::string_view::npos || colon > bracket);
  if (!has_port) endpoint.target += ":4317";
  return endpoint;
}

}  // namespace

// Thread: any for Push and Stop; the sending thread for the rest.
class OtlpExporter::State {
 public:
  State(OtlpExporterOptions options, const Endpoint& endpoint, MetricsRegistry& metrics)
      : options_(std::move(options)),
        stub_(grpc::CreateChannel(endpoint.target,
                                  endpoint.tls ? grpc::SslCredentials(grpc::SslCredentialsOptions())
                                               : grpc::InsecureChannelCredentials())),
        exported_metric_(metrics.AddCounter("millrace_otlp_exported_spans_total",
                                            "Spans that the OTLP collector took.")),
        dropped_metric_(metrics.AddCounter(
            "millrace_otlp_dropped_spans_total",
            "Spans that were lost: the queue was full, or the collector did not take them.")) {
    AddAttribute("service.name", options_.service_name, *resource_.mutable_attributes());
    if (!options_.service_version.empty()) {
      AddAttribute("service.version", options_.service_version, *resource_.mutable_attributes());
    }
    for (const auto& pair : options_.resource_attributes) {
      AddAttribute(pair.first, pair.second, *resource_.mutable_attributes());
    }
    thread_ = std::thread([this] { Work(); });
  }

  ~State() { Stop(); }

  void Push(Span&& span) {
    std::lock_guard lock(mutex_);
    if (stopping_ || queue_.size() >= options_.queue_max) {
      CountDropped(1);
      return;
    }
    queue_.push_back(std::move(span));
    // The thread wakes up for the first span (its delay begins) and for a full batch.
    if (queue_.size() == 1 || queue_.size() == options_.batch_max) changed_.notify_all();
  }

  void Stop() {
    std::unique_lock lock(mutex_);
    if (!stopping_) {
      stopping_ = true;
      give_up_at_ = Steady::now() + std::chrono::nanoseconds(options_.shutdown_max);
    }
    changed_.notify_all();
    // The call in flight has its own deadline, which may be later: it is cut at ours.
    ended_.wait_until(lock, give_up_at_, [this] { return ended_flag_; });
    if (call_ != nullptr) call_->TryCancel();
    lock.unlock();
    std::lock_guard joining(join_mutex_);
    if (thread_.joinable()) thread_.join();
  }

  OtlpCounts Counts() const {
    std::lock_guard lock(mutex_);
    return counts_;
  }

 private:
  bool TimeIsUp() const { return stopping_ && Steady::now() >= give_up_at_; }

  void CountDropped(int64_t spans) {
    counts_.dropped += spans;
    dropped_metric_.Add(static_cast<double>(spans));
  }

  void Work() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty() || TimeIsUp()) break;
      changed_.wait_for(lock, std::chrono::nanoseconds(options_.delay),
                        [this] { return stopping_ || queue_.size() >= options_.batch_max; });
      const size_t count = std::min(queue_.size(), options_.batch_max);
      std::vector<Span> batch(std::make_move_iterator(queue_.begin()),
                              std::make_move_iterator(queue_.begin() + static_cast<long>(count)));
      queue_.erase(queue_.begin(), queue_.begin() + static_cast<long>(count));
      lock.unlock();
      const auto request = ToOtlp(batch, resource_, options_.service_version);
      lock.lock();
      SendWithRetries(request, static_cast<int64_t>(count), lock);
    }
    CountDropped(static_cast<int64_t>(queue_.size()));
    queue_.clear();
    ended_flag_ = true;
    ended_.notify_all();
  }

  void SendWithRetries(const otlp::v1::ExportTraceServiceRequest& request, int64_t spans,
                       std::unique_lock<std::mutex>& lock) {
    MonoNanos backoff = options_.backoff;
    grpc::Status status;
    otlp::v1::ExportTraceServiceResponse response;
    for (int attempt = 1;; ++attempt) {
      status = Send(request, response, lock);
      if (status.ok() || !MayRetry(status) || attempt >= options_.attempts_max || TimeIsUp()) break;
      // Half to one and a half, so that nodes that lost one collector do not return as one.
      std::uniform_real_distribution<double> jitter(0.5, 1.5);
      const auto pause = static_cast<int64_t>(static_cast<double>(backoff) * jitter(random_));
      auto until = Steady::now() + std::chrono::nanoseconds(pause);
      if (stopping_) until = std::min(until, give_up_at_);
      const bool was_stopping = stopping_;
      changed_.wait_until(lock, until, [&] { return stopping_ && !was_stopping; });
      backoff = std::min(2 * backoff, kBackoffMax);
    }
    const int64_t rejected =
        status.ok() ? std::clamp<int64_t>(response.partial_success().rejected_spans(), 0, spans)
                    : spans;
    counts_.exported += spans - rejected;
    counts_.failed += rejected;
    exported_metric_.Add(static_cast<double>(spans - rejected));
    dropped_metric_.Add(static_cast<double>(rejected));
    if (rejected > 0) LogLoss(rejected, status);
  }

  grpc::Status Send(const otlp::v1::ExportTraceServiceRequest& request,
                    otlp::v1::ExportTraceServiceResponse& response,
                    std::unique_lock<std::mutex>& lock) {
    if (TimeIsUp()) return {grpc::StatusCode::ABORTED, "shut down"};
    grpc::ClientContext context;
    auto deadline = std::chrono::nanoseconds(options_.timeout);
    if (stopping_) {
      deadline = std::min<std::chrono::nanoseconds>(deadline, give_up_at_ - Steady::now());
    }
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::duration_cast<std::chrono::system_clock::duration>(deadline));
    for (const auto& header : options_.headers) context.AddMetadata(header.first, header.second);
    bool done = false;
    grpc::Status status;
    call_ = &context;
    lock.unlock();
    stub_.UnaryCall(&context, kMethod, grpc::StubOptions(), &request, &response,
                    [&](grpc::Status result) {
                      std::lock_guard guard(mutex_);
                      status = std::move(result);
                      done = true;
                      call_done_.notify_all();
                    });
    lock.lock();
    call_done_.wait(lock, [&] { return done; });
    call_ = nullptr;
    return status;
  }

  void LogLoss(int64_t spans, const grpc::Status& status) {
    // One line a minute: a collector that is gone must not fill the log.
    const auto now = Steady::now();
    if (logged_once_ && now - last_log_ < std::chrono::minutes(1)) return;
    logged_once_ = true;
    last_log_ = now;
    Log(LogLevel::kWarning, "otlp_spans_lost",
        {{"spans", spans}, {"grpc_code", static_cast<int64_t>(status.error_code())}});
  }

  const OtlpExporterOptions options_;
  otlp::v1::Resource resource_;
  Stub stub_;
  const Counter exported_metric_;
  const Counter dropped_metric_;
  std::mt19937_64 random_{std::random_device{}()};
  bool logged_once_ = false;
  Steady::time_point last_log_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::condition_variable call_done_;
  std::condition_variable ended_;
  std::deque<Span> queue_;
  OtlpCounts counts_;
  grpc::ClientContext* call_ = nullptr;
  bool stopping_ = false;
  bool ended_flag_ = false;
  Steady::time_point give_up_at_;
  std::mutex join_mutex_;
  std::thread thread_;
};

OtlpExporter::OtlpExporter(std::unique_ptr<State> state) : state_(std::move(state)) {}
OtlpExporter::~OtlpExporter() = default;

absl::StatusOr<std::unique_ptr<OtlpExporter>> OtlpExporter::Create(OtlpExporterOptions options,
                                                                   MetricsRegistry& metrics,
                                                                   const Clock& /*clock*/) {
  absl::StatusOr<Endpoint> endpoint = ParseEndpoint(options.endpoint);
  if (!endpoint.ok()) return endpoint.status();
  auto state = std::make_unique<State>(std::move(options), *endpoint, metrics);
  return std::unique_ptr<OtlpExporter>(new OtlpExporter(std::move(state)));
}

void OtlpExporter::Export(Span&& span) {
  // The caller's decision, or ours when there was none: not sampled means not sent.
  if (span.context.sampled()) state_->Push(std::move(span));
}

void OtlpExporter::Shutdown() {
  state_->Stop();
}
OtlpCounts OtlpExporter::Counts() const {
  return state_->Counts();
}

}  // namespace millrace::server
