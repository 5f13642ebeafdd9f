#include "server/http_server.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "server/net.h"

namespace millrace::server {
namespace {

constexpr MonoNanos kTick = 250 * kNanosPerMilli;

}  // namespace

class HttpServer::State {
 public:
  State(HttpServerOptions options, const DoorDeps& deps)
      : options_(std::move(options)),
        deps_(deps),
        service_(std::make_shared<HttpService>(deps, options_.service)),
        open_(deps.metrics->AddGauge("millrace_http_connections", "Open HTTP connections.")),
        refused_(deps.metrics->AddCounter("millrace_http_connections_refused_total",
                                          "Connections over the limit.")) {}

  absl::Status Start() {
    RETURN_IF_ERROR(Listen(options_.host, options_.port, false, port_));
    if (options_.ops_listener) {
      RETURN_IF_ERROR(Listen(options_.ops_host, options_.ops_port, true, ops_port_));
    }
    loop_->Every(kTick, [this] { Tick(); });
    loop_->Start();
    return absl::OkStatus();
  }

  void BeginDrain() {
    loop_->Post([this] { draining_ = true; });
  }

  void Stop(MonoNanos deadline) {
    loop_->Post([this] {
      draining_ = stopping_ = true;
      loop_->StopListening();
      CloseIdle();
    });
    {
      std::unique_lock lock(mutex_);
      const auto left =
          std::chrono::nanoseconds(std::max<MonoNanos>(0, deadline - deps_.clock->Now()));
      empty_.wait_for(lock, left, [&] { return idle_; });
    }
    loop_->Stop();
    // The loop's thread is gone: what is left is ours.
    std::unordered_map<HttpConnection*, std::shared_ptr<HttpConnection>> rest;
    rest.swap(connections_);
    for (auto& entry : rest) entry.second->Close();
  }

  uint16_t port_ = 0;
  uint16_t ops_port_ = 0;

 private:
  absl::Status Listen(const std::string& host, uint16_t port, bool ops, uint16_t& bound) {
    // Health and metrics are public on purpose; everything else is not.
    if (!ops) RETURN_IF_ERROR(CheckBindAllowed(host, deps_.keys->required()));
    ListenOptions listen;
    listen.host = host;
    listen.port = port;
    listen.send_buffer_bytes = options_.send_buffer_bytes;
    ASSIGN_OR_RETURN(bound, loop_->Listen(listen, [this, ops](std::unique_ptr<Socket> socket) {
      Accept(std::move(socket), ops);
    }));
    return absl::OkStatus();
  }

  void Accept(std::unique_ptr<Socket> socket, bool ops) {
    // The health port keeps a few for itself, so that a full node can still say so.
    const size_t limit = options_.connections_max + (ops ? 16 : 0);
    if (connections_.size() >= limit) {
      refused_.Add();
      return;  // closes
    }
    HttpConnection::Context context;
    context.service = service_;
    context.loop = loop_;
    context.clock = deps_.clock;
    context.timeouts = options_.timeouts;
    context.limits = options_.limits;
    context.limits.body_bytes_max = service_->body_bytes_max();
    context.ops = ops;
    context.draining = &draining_;
    context.closed = [this](HttpConnection* connection) { Forget(connection); };
    auto connection = std::make_shared<HttpConnection>(context, std::move(socket));
    connections_[connection.get()] = connection;
    open_.Set(static_cast<double>(connections_.size()));
    connection->Start();
  }

  void Forget(HttpConnection* connection) {
    connections_.erase(connection);
    open_.Set(static_cast<double>(connections_.size()));
    if (stopping_ && connections_.empty()) NoteIdle();
  }

  void Tick() {
    const MonoNanos now = deps_.clock->Now();
    std::vector<std::shared_ptr<HttpConnection>> all;
    all.reserve(connections_.size());
    for (const auto& entry : connections_) all.push_back(entry.second);
    for (const auto& connection : all) connection->OnTick(now);
    if (stopping_) CloseIdle();
  }

  void CloseIdle() {
    std::vector<std::shared_ptr<HttpConnection>> all;
    for (const auto& entry : connections_) all.push_back(entry.second);
    for (const auto& connection : all) connection->CloseSoon();
    if (connections_.empty()) NoteIdle();
  }

  void NoteIdle() {
    std::lock_guard lock(mutex_);
    idle_ = true;
    empty_.notify_all();
  }

  const HttpServerOptions options_;
  const DoorDeps deps_;
  const std::shared_ptr<HttpService> service_;
  const Gauge open_;
  const Counter refused_;
  const std::shared_ptr<IoLoop> loop_ = std::make_shared<IoLoop>();
  // The loop's.
  std::unordered_map<HttpConnection*, std::shared_ptr<HttpConnection>> connections_;
  bool draining_ = false;
  bool stopping_ = false;

  std::mutex mutex_;
  std::condition_variable empty_;
  bool idle_ = false;  // guarded by mutex_
};

HttpServer::HttpServer(HttpServerOptions options, const DoorDeps& deps)
    : state_(std::make_unique<State>(std::move(options), deps)) {}
HttpServer::~HttpServer() {
  state_->Stop(0);
}
absl::Status HttpServer::Start() {
  return state_->Start();
}
uint16_t HttpServer::port() const {
  return state_->port_;
}
uint16_t HttpServer::ops_port() const {
  return state_->ops_port_;
}
void HttpServer::BeginDrain() {
  state_->BeginDrain();
}
void HttpServer::Stop(MonoNanos deadline) {
  state_->Stop(deadline);
}

}  // namespace millrace::server
