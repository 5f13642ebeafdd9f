#pragma once
// For tests of the gRPC door: a node on a free port over the scripted engine, with clients.

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/grpcpp.h"
#include "millrace/v1/inference_service.grpc.pb.h"
#include "millrace/v1/model_service.grpc.pb.h"
#include "server/grpc_server.h"
#include "server/testing.h"

namespace millrace::server::testing {

// Polls `done`, which may do something each time, for ten seconds.
template <typename F>
bool Eventually(F done) {
  for (int i = 0; i < 10'000; ++i) {
    if (done()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

// A scripted node behind a gRPC port. Thread: the test's.
struct GrpcBench {
  explicit GrpcBench(ScriptedEngine::Script script = Says("hello world"),
                     GrpcServerOptions options = {}, std::string_view keys_text = {})
      : bench(std::move(script)) {
    if (!keys_text.empty()) loaded = keys.Load(keys_text);
    options.port = 0;
    server = std::make_unique<GrpcServer>(
        options,
        DoorDeps{bench.frontend.get(), &keys, &bench.health, &bench.metrics, &bench.clock});
    started = server->Start();
    channel = Connect({});
    inference = v1::InferenceService::NewStub(channel);
    models = v1::ModelService::NewStub(channel);
    health = grpc::health::v1::Health::NewStub(channel);
  }
  ~GrpcBench() {
    // Handlers that run are cut; the front end outlives the server.
    server.reset();
    StopStepping();
  }

  std::shared_ptr<grpc::Channel> Connect(grpc::ChannelArguments arguments) const {
    // A channel of its own, not a share of another test's connection.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(address(), grpc::InsecureChannelCredentials(), arguments);
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(server->port()); }

  // The engine runs by itself from now on.
  GrpcBench& Stepping() {
    stepping = true;
    stepper = std::thread([this] {
      while (stepping) {
        bench.engine.Step();
        std::this_thread::sleep_for(std::chrono::microseconds(200));
      }
    });
    return *this;
  }
  void StopStepping() {
    stepping = false;
    if (stepper.joinable()) stepper.join();
  }

  Bench bench;
  ApiKeys keys;
  absl::Status loaded;
  absl::Status started;
  std::unique_ptr<GrpcServer> server;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::InferenceService::Stub> inference;
  std::unique_ptr<v1::ModelService::Stub> models;
  std::unique_ptr<grpc::health::v1::Health::Stub> health;
  std::atomic<bool> stepping{false};
  std::thread stepper;
};

// A call's context, with a deadline so that a broken server fails a test instead of hanging it.
struct Context : grpc::ClientContext {
  explicit Context(std::chrono::milliseconds patience = std::chrono::seconds(20)) {
    set_deadline(std::chrono::system_clock::now() + patience);
  }
};

template <typename Detail>
bool FindDetail(const grpc::Status& status, Detail& detail) {
  google::rpc::Status rich;
  if (!rich.ParseFromString(status.error_details())) return false;
  for (const auto& any : rich.details()) {
    if (any.UnpackTo(&detail)) return true;
  }
  return false;
}

inline std::string ReasonOf(const grpc::Status& status) {
  google::rpc::ErrorInfo info;
  return FindDetail(status, info) ? info.reason() : "";
}

inline v1::GenerateRequest TextRequest(const std::string& prompt = "say it", int max_tokens = 64) {
  v1::GenerateRequest request;
  request.set_model("m");
  request.set_text(prompt);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  return request;
}

inline v1::ChatRequest UserRequest(const std::string& text = "say it") {
  v1::ChatRequest request;
  request.set_model("m");
  auto* message = request.add_messages();
  message->set_role(v1::CHAT_ROLE_USER);
  message->set_text(text);
  return request;
}

}  // namespace millrace::server::testing
