#include "server/grpc_server.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "base/status_macros.h"
#include "google/protobuf/stubs/logging.h"
#include "grpc/support/log.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "server/grpc_health.h"
#include "server/grpc_listener.h"
#include "server/grpc_reflection.h"
#include "server/grpc_service.h"

namespace millrace::server {
namespace {

// What cut calls have to tell their callers so, before the connections go.
constexpr MonoNanos kLastWords = 250 * kNanosPerMilli;
// How many connections may hold the thread that hands them over before others have to wait.
constexpr int kAcceptors = 8;

// What the libraries would print for a bad request is the client's to cause, so it must not fill
// our log; for a hunt it is there at the debug level.
void QuietLibraries() {
  gpr_set_log_function([](gpr_log_func_args* line) {
    Log(LogLevel::kDebug, "grpc", {{"text", std::string_view(line->message)}});
  });
  google::protobuf::SetLogHandler(nullptr);
}

void SetArguments(const GrpcServerOptions& options, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(options.message_bytes_max);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, options.metadata_bytes_max);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.streams_per_connection_max);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, options.keepalive_time_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, options.keepalive_timeout_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // The default of five minutes kills well-meaning clients.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 2);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, options.idle_ms);
  builder.AddChannelArgument(GRPC_ARG_TCP_MAX_READ_CHUNK_SIZE, options.read_bytes_max);
  // The listener reads its counters.
  builder.AddChannelArgument(GRPC_ARG_ENABLE_CHANNELZ, 1);
  // Token messages do not shrink, and a compressed request can be a bomb: refused.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  grpc::ResourceQuota quota("millrace");
  quota.Resize(options.memory_bytes_max);
  builder.SetResourceQuota(quota);
}

ReflectionSource Reflected(const ApiKeys& keys) {
  return {&keys,
          {v1::InferenceService::service_full_name(), v1::ModelService::service_full_name(),
           grpc::health::v1::Health::service_full_name(),
           grpc::reflection::v1::ServerReflection::service_full_name(),
           grpc::reflection::v1alpha::ServerReflection::service_full_name()}};
}

GrpcListenOptions ListenOptionsOf(const GrpcServerOptions& options) {
  GrpcListenOptions listen;
  listen.host = options.host;
  listen.port = options.port;
  listen.connections_max = options.connections_max;
  listen.user_timeout_ms = options.keepalive_timeout_ms;
  listen.budget = options.budget;
  return listen;
}

}  // namespace

// Thread: the owner's.
class GrpcServer::State {
 public:
  State(GrpcServerOptions chosen, const DoorDeps& wired)
      : options(std::move(chosen)),
        deps(wired),
        inference(deps, options.stream),
        models(deps),
        health(*deps.health),
        reflected(Reflected(*deps.keys)),
        reflection(reflected),
        reflection_alpha(reflected),
        listener(ListenOptionsOf(options), *deps.metrics, *deps.clock) {}

  const GrpcServerOptions options;
  const DoorDeps deps;
  GrpcInference inference;
  GrpcModels models;
  GrpcHealth health;
  const ReflectionSource reflected;
  GrpcReflection reflection;
  GrpcReflectionAlpha reflection_alpha;
  GrpcListener listener;
  std::unique_ptr<StreamQueue> streams;
  std::unique_ptr<grpc::Server> server;
};

GrpcServer::GrpcServer(GrpcServerOptions options, const DoorDeps& deps)
    : state_(std::make_unique<State>(std::move(options), deps)) {}

GrpcServer::~GrpcServer() {
  Stop(state_->deps.clock->Now());
}

absl::Status GrpcServer::Start() {
  const GrpcServerOptions& options = state_->options;
  if (absl::Status allowed = CheckBindAllowed(options.host, state_->deps.keys->required());
      !allowed.ok()) {
    return allowed;
  }
  // A setting of the whole process.
  static std::once_flag quiet_once;
  std::call_once(quiet_once, QuietLibraries);
  RETURN_IF_ERROR(state_->listener.Bind());
  grpc::ServerBuilder builder;
  std::vector<std::unique_ptr<GrpcListener::Acceptor>> acceptors;
  for (int i = 0; i < kAcceptors; ++i) {
    acceptors.push_back(builder.experimental().AddExternalConnectionAcceptor(
        grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
        grpc::InsecureServerCredentials()));
  }
  SetArguments(options, builder);
  builder.RegisterService(&state_->inference);
  builder.RegisterService(&state_->models);
  builder.RegisterService(&state_->health);
  if (options.reflection) {
    builder.RegisterService(&state_->reflection);
    builder.RegisterService(&state_->reflection_alpha);
  }
  state_->streams = std::make_unique<StreamQueue>(builder);
  state_->server = builder.BuildAndStart();
  if (state_->server == nullptr) {
    state_->streams.reset();
    return absl::InternalError("gRPC does not start");
  }
  state_->streams->Open(state_->inference.StreamMethods());
  state_->deps.frontend->SetStreamWait(state_->streams.get());
  return state_->listener.Start(std::move(acceptors));
}

uint16_t GrpcServer::port() const {
  return state_->listener.port();
}

void GrpcServer::BeginDrain() {
  state_->health.Refresh();
}

void GrpcServer::Stop(MonoNanos deadline) {
  if (state_->server == nullptr) return state_->listener.Stop();
  state_->listener.Drain(deadline + kLastWords);
  state_->health.Shutdown();
  const std::chrono::nanoseconds patience(
      std::max<MonoNanos>(0, deadline - state_->deps.clock->Now()));
  state_->server->Shutdown(
      std::chrono::system_clock::now() +
      std::chrono::duration_cast<std::chrono::system_clock::duration>(patience));
  state_->server->Wait();
  state_->listener.Stop();
  // The stream worker is what brings the cut RPCs to their ends.
  state_->streams->Close();
  state_->deps.frontend->SetStreamWait(nullptr);
  state_->streams.reset();
  state_->server.reset();
}

}  // namespace millrace::server
