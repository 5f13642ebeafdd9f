#include "server/grpc_health.h"

#include <array>
#include <chrono>
#include <string_view>
#include <utility>
#include <vector>

namespace millrace::server {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using grpc::health::v1::HealthListRequest;
using grpc::health::v1::HealthListResponse;

// How late a Watch may learn of a change.
constexpr std::chrono::milliseconds kPollInterval{100};
// Watches cost a reactor each; kubelets and balancers need a few.
constexpr size_t kWatchersMax = 1024;

constexpr std::array<std::string_view, 4> kReadyNames = {"", "millrace.v1.InferenceService",
                                                         "millrace.v1.ModelService", "readiness"};
constexpr std::string_view kAliveName = "liveness";

}  // namespace

// One Watch call. Sends a status when it differs from the last one sent; one write at a time, so a
// slow reader gets the newest status and no history. Thread: any.
class GrpcHealth::Watcher final : public grpc::ServerWriteReactor<HealthCheckResponse>,
                                  public std::enable_shared_from_this<Watcher> {
 public:
  Watcher(GrpcHealth& owner, std::string service) : owner_(owner), service_(std::move(service)) {}

  const std::string& service() const { return service_; }

  void Tell(HealthCheckResponse::ServingStatus status) {
    {
      std::lock_guard lock(mutex_);
      newest_ = status;
      if (writing_ || finished_ || sent_ == status) return;
      writing_ = true;
      sent_ = status;
      message_.set_status(status);
    }
    StartWrite(&message_);
  }

  void End(grpc::Status status) {
    {
      std::lock_guard lock(mutex_);
      if (finished_) return;
      end_ = std::move(status);
      ending_ = true;
      if (writing_) return;
      finished_ = true;
    }
    Finish(end_);
  }

  void OnWriteDone(bool ok) override {
    bool finish = false;
    HealthCheckResponse::ServingStatus newest;
    {
      std::lock_guard lock(mutex_);
      writing_ = false;
      newest = newest_;
      finish = (!ok || ending_) && !finished_;
      finished_ = finished_ || finish;
    }
    if (finish) {
      Finish(ending_ ? end_ : grpc::Status::CANCELLED);
    } else {
      Tell(newest);
    }
  }

  void OnCancel() override { End(grpc::Status::CANCELLED); }
  void OnDone() override { owner_.Remove(this); }

 private:
  GrpcHealth& owner_;
  const std::string service_;
  std::mutex mutex_;
  HealthCheckResponse message_;
  HealthCheckResponse::ServingStatus newest_ = HealthCheckResponse::UNKNOWN;
  HealthCheckResponse::ServingStatus sent_ = HealthCheckResponse::UNKNOWN;
  grpc::Status end_;
  bool writing_ = false;
  bool ending_ = false;
  bool finished_ = false;
};

GrpcHealth::GrpcHealth(const Health& health) : health_(health), poller_([this] { Poll(); }) {}

GrpcHealth::~GrpcHealth() {
  Shutdown();
  poller_.join();
}

void GrpcHealth::Shutdown() {
  std::set<std::shared_ptr<Watcher>> watchers;
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    watchers = watchers_;
  }
  changed_.notify_all();
  for (const auto& watcher : watchers) {
    watcher->End({grpc::StatusCode::UNAVAILABLE, "The node is shutting down"});
  }
}

void GrpcHealth::Refresh() {
  std::vector<std::shared_ptr<Watcher>> watchers;
  {
    std::lock_guard lock(mutex_);
    watchers.assign(watchers_.begin(), watchers_.end());
  }
  for (const auto& watcher : watchers) watcher->Tell(StatusOf(watcher->service()));
}

HealthCheckResponse::ServingStatus GrpcHealth::StatusOf(const std::string& service) const {
  const auto as = [](bool serving) {
    return serving ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
  };
  if (service == kAliveName) return as(health_.Alive());
  for (const std::string_view name : kReadyNames) {
    if (service == name) return as(health_.Ready() == Readiness::kReady);
  }
  return HealthCheckResponse::SERVICE_UNKNOWN;
}

grpc::ServerUnaryReactor* GrpcHealth::Check(grpc::CallbackServerContext* context,
                                            const HealthCheckRequest* request,
                                            HealthCheckResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const HealthCheckResponse::ServingStatus status = StatusOf(request->service());
  if (status == HealthCheckResponse::SERVICE_UNKNOWN) {
    reactor->Finish({grpc::StatusCode::NOT_FOUND, "unknown service"});
    return reactor;
  }
  response->set_status(status);
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* GrpcHealth::List(grpc::CallbackServerContext* context,
                                           const HealthListRequest* /*request*/,
                                           HealthListResponse* response) {
  auto& statuses = *response->mutable_statuses();
  for (const std::string_view name : kReadyNames) {
    statuses[std::string(name)].set_status(StatusOf(std::string(name)));
  }
  statuses[std::string(kAliveName)].set_status(StatusOf(std::string(kAliveName)));
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<HealthCheckResponse>* GrpcHealth::Watch(
    grpc::CallbackServerContext* /*context*/, const HealthCheckRequest* request) {
  auto watcher = std::make_shared<Watcher>(*this, request->service());
  bool refused = false;
  {
    std::lock_guard lock(mutex_);
    refused = closing_ || watchers_.size() >= kWatchersMax;
    watchers_.insert(watcher);  // keeps it alive until OnDone, refused or not
  }
  if (refused) {
    watcher->End({grpc::StatusCode::UNAVAILABLE, "no further watch now"});
  } else {
    watcher->Tell(StatusOf(request->service()));
    changed_.notify_all();
  }
  return watcher.get();
}

void GrpcHealth::Remove(Watcher* watcher) {
  std::shared_ptr<Watcher> kept = watcher->shared_from_this();  // dies after the lock
  std::lock_guard lock(mutex_);
  watchers_.erase(kept);
}

void GrpcHealth::Poll() {
  std::unique_lock lock(mutex_);
  while (!closing_) {
    if (watchers_.empty()) {
      changed_.wait(lock, [this] { return closing_ || !watchers_.empty(); });
    } else {
      changed_.wait_for(lock, kPollInterval, [this] { return closing_; });
    }
    if (closing_) return;
    lock.unlock();
    Refresh();
    lock.lock();
  }
}

}  // namespace millrace::server
