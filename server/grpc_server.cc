#include "server/grpc_server.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "google/protobuf/stubs/logging.h"
#include "grpc/support/log.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/support/server_interceptor.h"
#include "server/grpc_health.h"
#include "server/grpc_service.h"

namespace millrace::server {
namespace {

namespace experimental = grpc::experimental;

// Ends a reflection call without a valid key. Our own methods check their callers themselves, with
// a proper status; the library's service cannot, so its caller sees CANCELLED.
// Thread: one call.
class KeyInterceptor final : public experimental::Interceptor {
 public:
  KeyInterceptor(const ApiKeys& keys, grpc::ServerContextBase& context)
      : keys_(keys), context_(context) {}

  void Intercept(experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            experimental::InterceptionHookPoints::POST_RECV_INITIAL_METADATA) &&
        std::holds_alternative<ApiError>(CheckKey(keys_, context_))) {
      context_.TryCancel();
    }
    methods->Proceed();
  }

 private:
  const ApiKeys& keys_;
  grpc::ServerContextBase& context_;
};

// Thread: any.
class KeyInterceptorFactory final : public experimental::ServerInterceptorFactoryInterface {
 public:
  explicit KeyInterceptorFactory(const ApiKeys& keys) : keys_(keys) {}
  experimental::Interceptor* CreateServerInterceptor(experimental::ServerRpcInfo* rpc) override {
    const std::string_view method = rpc->method();
    if (!method.starts_with("/grpc.reflection.")) return nullptr;
    return new KeyInterceptor(keys_, *rpc->server_context());
  }

 private:
  const ApiKeys& keys_;
};

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
  // Two servers on one port would share its connections without a word.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Token messages do not shrink, and a compressed request can be a bomb: refused.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  grpc::ResourceQuota quota("millrace");
  quota.Resize(options.memory_bytes_max);
  builder.SetResourceQuota(quota);
}

}  // namespace

// Thread: the owner's.
class GrpcServer::State {
 public:
  State(GrpcServerOptions chosen, const GrpcServerDeps& wired)
      : options(std::move(chosen)),
        deps(wired),
        inference(deps, options.stream),
        models(deps),
        health(*deps.health) {}

  const GrpcServerOptions options;
  const GrpcServerDeps deps;
  GrpcInference inference;
  GrpcModels models;
  GrpcHealth health;
  int port = 0;
  std::unique_ptr<grpc::Server> server;  // dies first
};

GrpcServer::GrpcServer(GrpcServerOptions options, const GrpcServerDeps& deps)
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
  // Both are settings of the whole process.
  static std::once_flag quiet_once;
  static std::once_flag reflection_once;
  std::call_once(quiet_once, QuietLibraries);
  if (options.reflection) {
    std::call_once(reflection_once, grpc::reflection::InitProtoReflectionServerBuilderPlugin);
  }
  const bool bare_ipv6 = options.host.find(':') != std::string::npos && options.host[0] != '[';
  const std::string address =
      (bare_ipv6 ? "[" + options.host + "]" : options.host) + ":" + std::to_string(options.port);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &state_->port);
  SetArguments(options, builder);
  builder.RegisterService(&state_->inference);
  builder.RegisterService(&state_->models);
  builder.RegisterService(&state_->health);
  std::vector<std::unique_ptr<experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(std::make_unique<KeyInterceptorFactory>(*state_->deps.keys));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  state_->server = builder.BuildAndStart();
  if (state_->server != nullptr && state_->port != 0) return absl::OkStatus();
  if (state_->server != nullptr) state_->server->Shutdown();
  state_->server.reset();
  return absl::UnavailableError(absl::StrCat("cannot listen for gRPC on ", address));
}

uint16_t GrpcServer::port() const {
  return static_cast<uint16_t>(state_->port);
}

void GrpcServer::BeginDrain() {
  state_->health.Refresh();
}

void GrpcServer::Stop(MonoNanos deadline) {
  if (state_->server == nullptr) return;
  state_->health.Shutdown();
  const std::chrono::nanoseconds patience(
      std::max<MonoNanos>(0, deadline - state_->deps.clock->Now()));
  state_->server->Shutdown(
      std::chrono::system_clock::now() +
      std::chrono::duration_cast<std::chrono::system_clock::duration>(patience));
  state_->server->Wait();
  state_->server.reset();
}

}  // namespace millrace::server
