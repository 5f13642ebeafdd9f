#include "server/http_service.h"

#include <algorithm>
#include <random>
#include <utility>

#include "base/json_writer.h"
#include "server/openai_logprobs.h"
#include "server/openai_parse.h"
#include "server/validate.h"

namespace millrace::server {
namespace {

bool IsPlain(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
}

// Of a Host header, with or without a port.
bool IsLoopbackName(std::string_view host) {
  if (!host.empty() && host[0] == '[') return host.substr(0, host.find(']') + 1) == "[::1]";
  const std::string_view name = host.substr(0, host.find(':'));
  return name == "localhost" || name.substr(0, 4) == "127.";
}

std::string Lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  }
  return out;
}

ApiError Plain(ErrorKind kind, std::string message) {
  ApiError error;
  error.kind = kind;
  error.message = std::move(message);
  return error;
}

// Which of RouteMetrics::by_status.
size_t StatusClass(int status) {
  return status >= 500 ? 2 : status >= 400 ? 1 : status >= 200 ? 0 : 3;
}

// gRPC's clients send grpc-timeout; HTTP has no such header, so this is ours. Envoy, and with it
// Istio and most gateways, tells an upstream by the second how long it will wait.
constexpr std::string_view kTimeout = "x-request-timeout-ms";
constexpr std::string_view kEnvoyTimeout = "x-envoy-expected-rq-timeout-ms";
constexpr size_t kTimeoutDigitsMax = 12;  // 30 years; the node's own limit is an hour

// Lowers `deadline` to what the header says: a whole number of milliseconds from now.
std::optional<ApiError> ReadTimeout(const HttpRequest& request, std::string_view name,
                                    MonoNanos now, MonoNanos& deadline) {
  int found = 0;
  for (const auto& [header, value] : request.headers) {
    if (header != name) continue;
    const bool digits =
        !value.empty() && value.size() <= kTimeoutDigitsMax &&
        std::all_of(value.begin(), value.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!digits || ++found > 1) {
      return InvalidField(name,
                          "'" + std::string(name) +
                              "' must be given once, as whole milliseconds of 1 to 12 digits.");
    }
    deadline = std::min(deadline, now + MonoNanos{std::stoll(value)} * kNanosPerMilli);
  }
  return std::nullopt;
}

bool SameMethod(const Route& route, std::string_view method) {
  return method == route.method || (route.method == "GET" && method == "HEAD");
}

// As a member of the model's object.
void AppendSamplingDefaults(const SamplingDefaults& defaults, std::string& out) {
  out += ",\"sampling_defaults\":{\"temperature\":";
  AppendJsonDouble(defaults.temperature, out);
  out += ",\"top_p\":";
  AppendJsonDouble(defaults.top_p, out);
  out += ",\"top_k\":";
  AppendJsonInt(defaults.top_k, out);
  out += ",\"min_p\":";
  AppendJsonDouble(defaults.min_p, out);
  out += ",\"repetition_penalty\":";
  AppendJsonDouble(defaults.repetition_penalty, out);
  out += ",\"chat_max_tokens\":";
  if (defaults.chat_max_tokens > 0) {
    AppendJsonInt(defaults.chat_max_tokens, out);
  } else {
    out += "null";
  }
  out += defaults.from_model ? ",\"from_model\":true}" : ",\"from_model\":false}";
}

}  // namespace

HttpService::HttpService(const DoorDeps& deps, HttpServiceOptions options)
    : frontend_(*deps.frontend),
      keys_(*deps.keys),
      health_(*deps.health),
      clock_(*deps.clock),
      options_(std::move(options)),
      next_id_((uint64_t{std::random_device{}()} << 32) ^ std::random_device{}()) {
  MetricsRegistry& metrics = *deps.metrics;
  const auto add = [&](std::string_view path, std::string_view method) {
    const std::string handler(path);
    constexpr std::array<const char*, 4> kStatus = {"2xx", "4xx", "5xx", "none"};
    RouteMetrics& route = route_metrics_[handler];
    for (size_t i = 0; i < kStatus.size(); ++i) {
      route.by_status[i] = metrics.AddCounter(
          "http_requests_total", "HTTP requests by route and status.",
          {{"handler", handler}, {"method", std::string(method)}, {"status", kStatus[i]}});
    }
    route.seconds = metrics.AddHistogram(
        "http_request_duration_seconds", "From the request's last byte to the answer's.",
        {.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60}, {{"handler", handler}});
  };
  for (const Route& route : Routes()) add(route.path, route.method);
  add("none", "none");
}

std::string HttpService::RequestIdFor(const HttpRequest& request) {
  const std::string_view sent = request.Header("x-request-id");
  if (!sent.empty() && sent.size() <= frontend_.limits().request_id_max && IsPlain(sent)) {
    return std::string(sent);
  }
  // A counter through a mixer (splitmix64): distinct, and not guessable from the one before.
  std::string id;
  for (int word = 0; word < 2; ++word) {
    uint64_t z = next_id_.fetch_add(0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    for (int i = 0; i < 16; ++i, z >>= 4) id += "0123456789abcdef"[z & 15];
  }
  return id;
}

// Who may enter, then what is there: an unknown path is 404 only to those with a key.
std::optional<ApiError> HttpService::Enter(const HttpRequest& request, const Route* route,
                                           std::string& key_name) const {
  const bool needs_key = route == nullptr || route->auth == AuthClass::kKey;
  if (needs_key) {
    std::optional<std::string> name = keys_.Authenticate(request.Header("authorization"));
    if (!name) return Plain(ErrorKind::kUnauthenticated, "Missing or incorrect API key");
    key_name = *std::move(name);
  }
  if (options_.loopback_hosts_only && needs_key && !keys_.required() && request.http11 &&
      !IsLoopbackName(request.Header("host"))) {
    return Plain(ErrorKind::kBadHttp, "This node answers to loopback names only");
  }
  if (route == nullptr) return Plain(ErrorKind::kUnknownUrl, "There is nothing at this path");
  if (!SameMethod(*route, request.method)) {
    return Plain(ErrorKind::kMethodNotAllowed,
                 "This path takes " + std::string(route->method) + " requests");
  }
  return std::nullopt;
}

// A body that we could misread is refused by its headers: compressed ones can be bombs, and a proxy
// in front may have read another charset than we would.
std::optional<ApiError> HttpService::CheckBody(const HttpRequest& request) const {
  const std::string encoding = Lower(request.Header("content-encoding"));
  if (!encoding.empty() && encoding != "identity") {
    return Plain(ErrorKind::kUnsupportedMediaType, "Compressed bodies are not taken");
  }
  std::string type = Lower(request.Header("content-type"));
  const std::string charset =
      type.find("charset=") == std::string::npos ? "" : type.substr(type.find("charset=") + 8);
  type = type.substr(0, type.find_first_of("; "));
  const bool json = type.empty() || type == "application/json" ||
                    (type.size() > 5 && type.substr(type.size() - 5) == "+json");
  const bool utf8 = charset.empty() || charset == "utf-8" || charset == "\"utf-8\"" ||
                    charset == "utf8" || charset == "us-ascii";
  if (json && utf8) return std::nullopt;
  return Plain(ErrorKind::kUnsupportedMediaType, "The body must be application/json in UTF-8");
}

void HttpService::Handle(HttpRequest request, bool ops,
                         const std::shared_ptr<HttpExchange>& exchange) {
  const std::string_view path = PathOf(request.target);
  const Route* route = FindRoute(path, ops);
  RequestOrigin origin;
  if (std::optional<ApiError> error = Enter(request, route, origin.key_name)) {
    HttpReply reply = ErrorReply(*error);
    if (error->kind == ErrorKind::kMethodNotAllowed) {
      reply.headers.emplace_back("allow", std::string(route->method));
    }
    return exchange->Reply(std::move(reply));
  }
  if (route->method != "POST") return exchange->Reply(Answer(*route, request));
  if (std::optional<ApiError> error = CheckBody(request)) {
    return exchange->Reply(ErrorReply(*error));
  }
  PostedRequest posted;
  posted.route = route->id;
  origin.door = DoorKind::kHttp;
  origin.arrival = clock_.Now();
  origin.request_id = exchange->options().request_id;
  origin.route = std::string(route->path);
  origin.trace = ParseTraceContext(request.Header("traceparent"), request.Header("tracestate"));
  for (const std::string_view name : {kTimeout, kEnvoyTimeout}) {
    if (auto error = ReadTimeout(request, name, origin.arrival, posted.deadline)) {
      return exchange->Reply(ErrorReply(*error));
    }
  }
  posted.body = std::move(request.body);
  posted.origin = std::move(origin);
  // Parsing and tokenizing of long bodies must not stop the io thread.
  const auto work = [self = shared_from_this(), posted = std::move(posted), exchange] {
    self->RunPost(posted, exchange);
  };
  if (frontend_.Prepare(work)) return;
  exchange->Reply(
      ErrorReply(Plain(ErrorKind::kOverloaded, "Too many requests wait to be prepared")));
}

// Thread: a prepare worker. Every path ends in one Reply, or in the exchange's own answer.
void HttpService::RunPost(const PostedRequest& posted,
                          const std::shared_ptr<HttpExchange>& exchange) {
  if (posted.route == RouteId::kTokenize) return exchange->Reply(Tokenize(posted.body));
  if (posted.route == RouteId::kDetokenize) return exchange->Reply(Detokenize(posted.body));
  std::variant<GenerationRequest, ApiError> parsed =
      posted.route == RouteId::kChat ? ParseChat(posted.body) : ParseCompletion(posted.body);
  if (auto* error = std::get_if<ApiError>(&parsed)) return exchange->Reply(ErrorReply(*error));
  auto& request = std::get<GenerationRequest>(parsed);
  request.origin = posted.origin;
  request.deadline = posted.deadline;
  exchange->Run(frontend_, std::move(request));
}

std::string HttpService::ModelObject() const {
  const ModelCard& card = frontend_.model().card;
  std::string out = "{\"id\":";
  AppendJsonString(card.name, out);
  out += ",\"object\":\"model\",\"created\":";
  AppendJsonInt(card.created, out);
  out += ",\"owned_by\":\"millrace\",\"root\":";
  // The file's name only: a path tells of the machine.
  AppendJsonString(card.root.substr(card.root.rfind('/') + 1), out);
  out += ",\"parent\":null,\"max_model_len\":";
  AppendJsonInt(card.max_model_len, out);
  out += ",\"architecture\":";
  AppendJsonString(card.architecture, out);
  out += ",\"format\":";
  AppendJsonString(card.format, out);
  AppendSamplingDefaults(card.sampling, out);
  out += '}';
  return out;
}

HttpReply HttpService::Answer(const Route& route, const HttpRequest& request) const {
  HttpReply reply;
  const Readiness ready = health_.Ready();
  switch (route.id) {
    case RouteId::kModels:
      reply.body = "{\"object\":\"list\",\"data\":[" + ModelObject() + "]}";
      // Load generators take an answer for "ready".
      if (ready == Readiness::kLoading) {
        return ErrorReply(Plain(ErrorKind::kLoading, "The model is being loaded"));
      }
      break;
    case RouteId::kModel: {
      const std::string name = ModelInPath(PathOf(request.target));
      if (const auto error = ValidateModel(frontend_.model().card, name, true)) {
        return ErrorReply(*error);
      }
      reply.body = ModelObject();
      break;
    }
    case RouteId::kVersion:
      reply.body = "{\"version\":\"" + options_.version + "\"}";
      break;
    case RouteId::kLive:
      reply.status = health_.Alive() ? 200 : 503;
      reply.body = health_.Alive() ? "{\"status\":\"ok\"}" : "{\"status\":\"failed\"}";
      break;
    case RouteId::kReady:
      reply.status = ready == Readiness::kReady ? 200 : 503;
      reply.body = "{\"status\":\"" + std::string(ReadinessName(ready)) + "\"}";
      if (reply.status == 503) {
        reply.headers = {{"retry-after", "1"}, {"retry-after-ms", "1000"}};
      }
      break;
    case RouteId::kMetrics:
      reply.content_type = "text/plain; version=0.0.4; charset=utf-8";
      reply.body = frontend_.MetricsText();
      break;
    default:
      return ErrorReply(Plain(ErrorKind::kInternal, "No answer is known for this path"));
  }
  return reply;
}

HttpReply HttpService::Tokenize(const std::string& body) const {
  std::variant<TokenizeBody, ApiError> parsed = ParseTokenize(body);
  if (auto* error = std::get_if<ApiError>(&parsed)) return ErrorReply(*error);
  auto& fields = std::get<TokenizeBody>(parsed);
  std::variant<TokenizeOutput, ApiError> result = frontend_.Tokenize(std::move(fields.input));
  if (auto* error = std::get_if<ApiError>(&result)) return ErrorReply(*error);
  const auto& output = std::get<TokenizeOutput>(result);
  HttpReply reply;
  reply.body = "{\"count\":" + std::to_string(output.tokens.size()) +
               ",\"max_model_len\":" + std::to_string(frontend_.model().card.max_model_len) +
               ",\"tokens\":";
  AppendTokenIds(output.tokens, reply.body);
  if (fields.return_pieces) {
    reply.body += ",\"token_strs\":[";
    for (size_t i = 0; i < output.pieces.size(); ++i) {
      if (i > 0) reply.body += ',';
      AppendJsonString(output.pieces[i], reply.body);
    }
    reply.body += ']';
  }
  reply.body += '}';
  return reply;
}

HttpReply HttpService::Detokenize(const std::string& body) const {
  std::variant<DetokenizeBody, ApiError> parsed = ParseDetokenize(body);
  if (auto* error = std::get_if<ApiError>(&parsed)) return ErrorReply(*error);
  const auto& fields = std::get<DetokenizeBody>(parsed);
  std::variant<std::string, ApiError> result =
      frontend_.Detokenize(fields.model, fields.tokens, false);
  if (auto* error = std::get_if<ApiError>(&result)) return ErrorReply(*error);
  HttpReply reply;
  reply.body = "{\"prompt\":";
  AppendJsonString(std::get<std::string>(result), reply.body);
  reply.body += '}';
  return reply;
}

void HttpService::Count(const std::string&, const std::string& target, int status, double seconds) {
  const Route* route = FindRoute(PathOf(target), false);
  const auto it = route_metrics_.find(route != nullptr ? route->path : std::string_view("none"));
  if (it == route_metrics_.end()) return;
  it->second.by_status[StatusClass(status)].Add();
  it->second.seconds.Observe(seconds);
}

}  // namespace millrace::server
