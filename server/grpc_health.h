#pragma once
// grpc.health.v1 over server/health.h. The library's own service calls "" SERVING as soon as the
// port is open; this one asks at every call, and so says NOT_SERVING until a real step has run.
//
//   "", "millrace.v1.InferenceService", "millrace.v1.ModelService", "readiness"   Ready()
//   "liveness"                                                                    Alive()

#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "grpc/health/v1/health.grpc.pb.h"
#include "server/health.h"

namespace millrace::server {

// Thread: any.
class GrpcHealth final : public grpc::health::v1::Health::CallbackService {
 public:
  explicit GrpcHealth(const Health& health);
  ~GrpcHealth() override;

  // Tells every Watch now what it would learn at the next poll.
  void Refresh();
  // Ends every Watch, so that the server can shut down; later ones end at once.
  void Shutdown();

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context,
                                 const grpc::health::v1::HealthListRequest* request,
                                 grpc::health::v1::HealthListResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext* context,
      const grpc::health::v1::HealthCheckRequest* request) override;

 private:
  class Watcher;
  grpc::health::v1::HealthCheckResponse::ServingStatus StatusOf(const std::string& service) const;
  void Poll();
  void Remove(Watcher* watcher);

  const Health& health_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::set<std::shared_ptr<Watcher>> watchers_;
  bool closing_ = false;
  std::thread poller_;  // runs from construction on; sleeps while nobody watches
};

}  // namespace millrace::server
