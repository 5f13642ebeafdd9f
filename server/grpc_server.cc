#include "server/grpc_server.h"

#include <chrono>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
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

void SetArguments(const GrpcOptions& options, grpc::ServerBuilder& builder) {
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

struct GrpcServer::State {
  State(const GrpcOptions& options, const GrpcDeps& deps)
      : inference(deps, options.stream), models(deps), health(*deps.health) {}

  GrpcInference inference;
  GrpcModels models;
  GrpcHealth health;
  std::vector<int> ports;
  std::unique_ptr<grpc::Server> server;  // dies first
};

GrpcServer::GrpcServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcOptions& options,
                                                              const GrpcDeps& deps) {
  // The plugin is a process-wide registration; a second one is ignored by the library.
  if (options.reflection) grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  auto state = std::make_unique<State>(options, deps);
  state->ports.resize(options.listen.size());
  grpc::ServerBuilder builder;
  for (size_t i = 0; i < options.listen.size(); ++i) {
    builder.AddListeningPort(options.listen[i], grpc::InsecureServerCredentials(),
                             &state->ports[i]);
  }
  SetArguments(options, builder);
  builder.RegisterService(&state->inference);
  builder.RegisterService(&state->models);
  builder.RegisterService(&state->health);
  std::vector<std::unique_ptr<experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(std::make_unique<KeyInterceptorFactory>(*deps.keys));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  state->server = builder.BuildAndStart();
  for (size_t i = 0; i < options.listen.size(); ++i) {
    const bool is_unix = options.listen[i].starts_with("unix:");
    if (state->server != nullptr && (is_unix || state->ports[i] != 0)) continue;
    if (state->server != nullptr) state->server->Shutdown();
    return absl::UnavailableError(
        absl::StrCat("cannot listen for gRPC on ", options.listen[i], ": is the port in use?"));
  }
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(state)));
}

GrpcServer::~GrpcServer() {
  Shutdown(0);
}

const std::vector<int>& GrpcServer::ports() const {
  return state_->ports;
}

void GrpcServer::Shutdown(MonoNanos patience) {
  if (state_->server == nullptr) return;
  state_->health.Shutdown();
  const std::chrono::nanoseconds wait(patience);
  state_->server->Shutdown(std::chrono::system_clock::now() +
                           std::chrono::duration_cast<std::chrono::system_clock::duration>(wait));
  state_->server->Wait();
  state_->server.reset();
}

}  // namespace millrace::server
