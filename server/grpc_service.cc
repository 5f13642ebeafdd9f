#include "server/grpc_service.h"

#include <functional>
#include <utility>

#include "server/grpc_status.h"
#include "server/proto_convert.h"
#include "server/validate.h"

namespace millrace::server {
namespace {

// A request that may be started, or why not.
struct Opened {
  CallFacts facts;
  std::optional<ApiError> error;
  GenerationRequest request;
  AnswerShape shape;
};

// Moves a converted request and what the call said about itself into `opened`.
template <typename Proto>
void Convert(const Proto& proto, const Limits& limits, Opened& opened) {
  if (!proto.request_id().empty()) {
    if ((opened.error = CheckRequestId(proto.request_id(), 128))) return;
    opened.facts.origin.request_id = proto.request_id();
  }
  std::variant<GenerationRequest, ApiError> converted = FromProto(proto, limits);
  if (auto* error = std::get_if<ApiError>(&converted)) {
    opened.error = std::move(*error);
    return;
  }
  opened.request = std::get<GenerationRequest>(std::move(converted));
  AnswerShape& shape = opened.shape;
  shape.text = !proto.response().has_text() || proto.response().text();
  shape.token_ids = proto.response().token_ids();
  shape.echo = proto.response().echo();
  shape.prompt_logprobs =
      proto.response().has_prompt_logprobs() || (shape.echo && proto.response().has_logprobs());
}

void Convert(const v1::GenerateStreamRequest& proto, const Limits& limits, Opened& opened) {
  Convert(proto.request(), limits, opened);
  opened.request.output.stream = true;
  opened.shape.continuous_usage = proto.continuous_usage();
}

void Convert(const v1::ChatStreamRequest& proto, const Limits& limits, Opened& opened) {
  Convert(proto.request(), limits, opened);
  opened.request.output.stream = true;
  opened.shape.continuous_usage = proto.continuous_usage();
}

// What comes before a generation: who calls, then what.
template <typename Proto>
Opened Open(CallReader& reader, const grpc::ServerContextBase& context, const char* method,
            const grpc::ByteBuffer& wire, const Limits& limits) {
  Opened opened;
  opened.error = reader.Read(context, method, opened.facts);
  Proto proto;
  if (!opened.error) opened.error = ParseProto(wire, proto);
  if (!opened.error) Convert(proto, limits, opened);
  opened.shape.request_id = opened.facts.origin.request_id;
  opened.request.origin = opened.facts.origin;
  opened.request.deadline = opened.facts.deadline;
  return opened;
}

template <typename Call>
auto* Run(std::shared_ptr<Call> call, Frontend& frontend, Opened& opened) {
  if (opened.error) {
    call->Reject(*opened.error);
  } else {
    call->Start(frontend, std::move(opened.request));
  }
  return call.get();
}

// A method that answers without generating.
struct Quick {
  grpc::CallbackServerContext* context = nullptr;
  grpc::ByteBuffer* out = nullptr;
  grpc::ServerUnaryReactor* reactor = nullptr;
  std::string request_id;
};

void FinishQuick(const Quick& quick, const ApiError& error) {
  quick.context->AddTrailingMetadata("x-request-id", quick.request_id);
  quick.reactor->Finish(ToGrpcStatus(error, quick.request_id));
}

void FinishQuick(const Quick& quick, const google::protobuf::Message& response) {
  quick.context->AddInitialMetadata("x-request-id", quick.request_id);
  *quick.out = ToByteBuffer(response);
  quick.reactor->Finish(grpc::Status::OK);
}

// Knows the caller and parses. False: the call is over.
bool OpenQuick(CallReader& reader, const char* method, const grpc::ByteBuffer& wire,
               google::protobuf::Message& request, Quick& quick) {
  CallFacts facts;
  std::optional<ApiError> error = reader.Read(*quick.context, method, facts);
  quick.request_id = facts.origin.request_id;
  quick.reactor = quick.context->DefaultReactor();
  if (!error) error = ParseProto(wire, request);
  if (error) FinishQuick(quick, *error);
  return !error;
}

// On the prepare thread: a long text must not hold a thread of gRPC.
void RunLater(Frontend& frontend, const Quick& quick, std::function<void()> work) {
  if (frontend.Prepare(std::move(work))) return;
  ApiError error;
  error.kind = ErrorKind::kOverloaded;
  error.message = "Too many requests wait to be prepared";
  FinishQuick(quick, error);
}

void AnswerTokenize(const DoorDeps& deps, const Quick& quick, TokenizeInput input,
                    bool with_pieces) {
  std::variant<TokenizeOutput, ApiError> result = deps.frontend->Tokenize(std::move(input));
  if (auto* error = std::get_if<ApiError>(&result)) return FinishQuick(quick, *error);
  v1::TokenizeResponse response;
  const text::Tokenizer& tokenizer = *deps.frontend->model().tokenizer;
  for (const TokenId id : std::get<TokenizeOutput>(result).tokens) {
    response.add_token_ids(static_cast<uint32_t>(id));
    if (with_pieces) response.add_token_bytes(std::string(tokenizer.TokenBytes(id)));
  }
  response.set_max_model_len(deps.frontend->model().card.max_model_len);
  FinishQuick(quick, response);
}

void AnswerDetokenize(const DoorDeps& deps, const Quick& quick,
                      const v1::DetokenizeRequest& request) {
  const std::optional<std::string> model =
      request.model().empty() ? std::nullopt : std::optional(request.model());
  const std::vector<int64_t> ids(request.token_ids().begin(), request.token_ids().end());
  std::variant<std::string, ApiError> result =
      deps.frontend->Detokenize(model, ids, request.skip_special_tokens());
  if (auto* error = std::get_if<ApiError>(&result)) return FinishQuick(quick, *error);
  v1::DetokenizeResponse response;
  response.set_text(std::get<std::string>(std::move(result)));
  FinishQuick(quick, response);
}

constexpr char kGenerate[] = "/millrace.v1.InferenceService/Generate";
constexpr char kGenerateStream[] = "/millrace.v1.InferenceService/GenerateStream";
constexpr char kChat[] = "/millrace.v1.InferenceService/Chat";
constexpr char kChatStream[] = "/millrace.v1.InferenceService/ChatStream";
constexpr char kTokenize[] = "/millrace.v1.InferenceService/Tokenize";
constexpr char kDetokenize[] = "/millrace.v1.InferenceService/Detokenize";
constexpr char kListModels[] = "/millrace.v1.ModelService/ListModels";
constexpr char kGetModel[] = "/millrace.v1.ModelService/GetModel";

}  // namespace

GrpcInference::GrpcInference(const DoorDeps& deps, const GrpcStreamLimits& limits)
    : deps_(deps), limits_(limits), reader_(deps) {}

grpc::ServerUnaryReactor* GrpcInference::Generate(Context* context, const Buffer* wire,
                                                  Buffer* out) {
  Opened opened =
      Open<v1::GenerateRequest>(reader_, *context, kGenerate, *wire, deps_.frontend->limits());
  return Run(UnaryCall::Make(*context, opened.shape, limits_, out), *deps_.frontend, opened);
}

grpc::ServerUnaryReactor* GrpcInference::Chat(Context* context, const Buffer* wire, Buffer* out) {
  Opened opened = Open<v1::ChatRequest>(reader_, *context, kChat, *wire, deps_.frontend->limits());
  return Run(UnaryCall::Make(*context, opened.shape, limits_, out), *deps_.frontend, opened);
}

std::vector<StreamMethod> GrpcInference::StreamMethods() {
  StreamMethod generate;
  generate.request = [this](const StreamArrival& next) {
    RequestGenerateStream(next.context, next.request, next.writer, next.calls, next.arrivals,
                          next.tag);
  };
  generate.arrived = [this](StreamRpc& rpc) {
    Opened opened = Open<v1::GenerateStreamRequest>(reader_, rpc.context(), kGenerateStream,
                                                    rpc.request(), deps_.frontend->limits());
    Run(StreamCall::Make(rpc, opened.shape, limits_), *deps_.frontend, opened);
  };
  StreamMethod chat;
  chat.request = [this](const StreamArrival& next) {
    RequestChatStream(next.context, next.request, next.writer, next.calls, next.arrivals, next.tag);
  };
  chat.arrived = [this](StreamRpc& rpc) {
    Opened opened = Open<v1::ChatStreamRequest>(reader_, rpc.context(), kChatStream, rpc.request(),
                                                deps_.frontend->limits());
    Run(StreamCall::Make(rpc, opened.shape, limits_), *deps_.frontend, opened);
  };
  return {std::move(generate), std::move(chat)};
}

grpc::ServerUnaryReactor* GrpcInference::Tokenize(Context* context, const Buffer* wire,
                                                  Buffer* out) {
  Quick quick{context, out, nullptr, {}};
  v1::TokenizeRequest request;
  if (!OpenQuick(reader_, kTokenize, *wire, request, quick)) return quick.reactor;
  std::variant<TokenizeInput, ApiError> input = FromProto(request, deps_.frontend->limits());
  if (auto* error = std::get_if<ApiError>(&input)) {
    FinishQuick(quick, *error);
    return quick.reactor;
  }
  RunLater(*deps_.frontend, quick,
           [deps = deps_, quick, with_pieces = request.token_bytes(),
            taken = std::get<TokenizeInput>(std::move(input))]() mutable {
             AnswerTokenize(deps, quick, std::move(taken), with_pieces);
           });
  return quick.reactor;
}

grpc::ServerUnaryReactor* GrpcInference::Detokenize(Context* context, const Buffer* wire,
                                                    Buffer* out) {
  Quick quick{context, out, nullptr, {}};
  v1::DetokenizeRequest request;
  if (!OpenQuick(reader_, kDetokenize, *wire, request, quick)) return quick.reactor;
  RunLater(*deps_.frontend, quick, [deps = deps_, quick, taken = std::move(request)] {
    AnswerDetokenize(deps, quick, taken);
  });
  return quick.reactor;
}

grpc::ServerUnaryReactor* GrpcModels::ListModels(Context* context, const Buffer* wire,
                                                 Buffer* out) {
  Quick quick{context, out, nullptr, {}};
  v1::ListModelsRequest request;
  if (!OpenQuick(reader_, kListModels, *wire, request, quick)) return quick.reactor;
  // One model today, so one page.
  if (request.has_page_size() && request.page_size() < 0) {
    FinishQuick(quick, InvalidField("page_size", "'page_size' must not be negative."));
    return quick.reactor;
  }
  if (!request.page_token().empty()) {
    FinishQuick(quick, InvalidField("page_token", "'page_token' is none of this node's."));
    return quick.reactor;
  }
  v1::ListModelsResponse response;
  *response.add_models() = ToProto(deps_.frontend->model().card);
  FinishQuick(quick, response);
  return quick.reactor;
}

grpc::ServerUnaryReactor* GrpcModels::GetModel(Context* context, const Buffer* wire, Buffer* out) {
  Quick quick{context, out, nullptr, {}};
  v1::GetModelRequest request;
  if (!OpenQuick(reader_, kGetModel, *wire, request, quick)) return quick.reactor;
  const ModelCard& card = deps_.frontend->model().card;
  if (const std::optional<ApiError> error = ValidateModel(card, request.name(), true)) {
    FinishQuick(quick, *error);
    return quick.reactor;
  }
  v1::GetModelResponse response;
  *response.mutable_model() = ToProto(card);
  FinishQuick(quick, response);
  return quick.reactor;
}

}  // namespace millrace::server
