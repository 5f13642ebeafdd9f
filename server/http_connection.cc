#include "server/http_connection.h"

#include <utility>

namespace millrace::server {
namespace {

// Bytes of further requests that may wait while one is answered; then the client must wait.
constexpr size_t kInputMax = 64 << 10;
// Answers that may wait for the socket before the next pipelined request is begun.
constexpr size_t kOutgoingMax = 1 << 20;

}  // namespace

HttpConnection::HttpConnection(const Context& context, std::unique_ptr<Socket> socket)
    : context_(context), socket_(std::move(socket)), parser_(context.limits) {}

void HttpConnection::Start() {
  since_ = wrote_ = context_.clock->Now();
  socket_->SetEvents(this);
  socket_->StartReading();
}

void HttpConnection::OnRead(std::string_view bytes) {
  if (lingering_) return;  // read and forgotten, so that the kernel does not send a reset
  const auto self = shared_from_this();
  input_ += bytes;
  Pump();
  if (!closed_ && reading_ && input_.size() > kInputMax) {
    reading_ = false;
    socket_->StopReading();
  }
}

void HttpConnection::Pump() {
  if (pumping_) return;  // an answer that is ready at once comes back here
  pumping_ = true;
  while (!closed_ && !last_ && exchange_ == nullptr && !input_.empty() &&
         outgoing_.size() < kOutgoingMax) {
    const bool was_started = parser_.started();
    const HttpParser::State before = parser_.state();
    const size_t used = parser_.Feed(input_);
    input_.erase(0, used);
    if (!was_started && parser_.started()) since_ = context_.clock->Now();
    if (parser_.state() == HttpParser::State::kError) {
      Refuse();
    } else if (parser_.state() == HttpParser::State::kDone) {
      body_bytes_ = 0;
      Begin(parser_.Take());
    } else if (parser_.state() == HttpParser::State::kBody) {
      if (before == HttpParser::State::kBody) {
        body_bytes_ += static_cast<int64_t>(used);
      } else {
        since_ = context_.clock->Now();
      }
      if (parser_.TakeContinue()) outgoing_ += "HTTP/1.1 100 Continue\r\n\r\n";
    }
    if (exchange_ != nullptr) Flush();
  }
  pumping_ = false;
  if (closed_) return;
  Flush();
  if (!closed_ && !reading_ && input_.size() <= kInputMax && !peer_ended_) {
    reading_ = true;
    socket_->StartReading();
  }
}

void HttpConnection::Begin(HttpRequest request) {
  HttpExchange::Options options;
  options.request_id = context_.service->RequestIdFor(request);
  options.http11 = request.http11;
  options.keep_alive = request.keep_alive && request.http11 && !*context_.draining;
  options.head = request.method == "HEAD";
  keep_alive_ = options.keep_alive;
  method_ = request.method;
  target_ = request.target;
  begun_ = wrote_ = context_.clock->Now();
  exchange_ = std::make_shared<HttpExchange>(std::move(options), context_.loop, weak_from_this());
  context_.service->Handle(std::move(request), context_.ops, exchange_);
}

// A request that could not be read: answered, and the connection ends, because where the next one
// would begin is not known.
void HttpConnection::Refuse() {
  HttpExchange::Options options;
  options.request_id = context_.service->RequestIdFor(parser_.partial());
  options.keep_alive = false;
  keep_alive_ = false;
  method_ = target_ = "";
  begun_ = context_.clock->Now();
  exchange_ = std::make_shared<HttpExchange>(std::move(options), context_.loop, weak_from_this());
  exchange_->Reply(ErrorReply(parser_.error()));
}

void HttpConnection::OnWake() {
  const auto self = shared_from_this();
  if (closed_) return;
  if (!socket_->writing()) Flush();
  if (exchange_ == nullptr) Pump();
}

// Gives the socket what there is.
void HttpConnection::Flush() {
  if (closed_ || socket_->writing()) return;
  if (exchange_ != nullptr && exchange_->TakeBytes(outgoing_)) FinishExchange();
  if (!outgoing_.empty()) {
    wrote_ = context_.clock->Now();
    socket_->Write(std::exchange(outgoing_, {}));
  } else if (last_ && exchange_ == nullptr) {
    Linger();
  }
}

void HttpConnection::FinishExchange() {
  const MonoNanos now = context_.clock->Now();
  context_.service->Count(method_, target_, exchange_->status(),
                          static_cast<double>(now - begun_) / 1e9);
  exchange_.reset();
  since_ = now;
  if (!keep_alive_) last_ = true;
}

void HttpConnection::OnWritten() {
  const auto self = shared_from_this();
  wrote_ = context_.clock->Now();
  Flush();
  if (!closed_ && exchange_ == nullptr) Pump();
}

void HttpConnection::OnEnd() {
  const auto self = shared_from_this();
  peer_ended_ = true;
  reading_ = false;
  // A client that has gone does not want its answer; answers that are formatted still go out.
  if (exchange_ != nullptr) {
    exchange_->Abandon();
    context_.service->Count(method_, target_, exchange_->status(),
                            static_cast<double>(context_.clock->Now() - begun_) / 1e9);
    exchange_.reset();
  }
  if (socket_->writing() && !lingering_) {
    last_ = true;
    return;
  }
  Close();
}

// The answer is with the kernel: no more is sent, and what the client still sends is read away, so
// that the kernel does not answer it with a reset that would drop the answer.
void HttpConnection::Linger() {
  if (peer_ended_) return Close();
  if (lingering_) return;
  lingering_ = true;
  since_ = context_.clock->Now();
  socket_->ShutdownSend();
  if (!reading_) {
    reading_ = true;
    socket_->StartReading();
  }
}

void HttpConnection::OnTick(MonoNanos now) {
  if (closed_) return;
  const auto self = shared_from_this();
  const HttpTimeouts& limits = context_.timeouts;
  if (lingering_) {
    if (now - since_ > limits.linger) Close();
    return;
  }
  if (socket_->writing()) {
    const bool slow = exchange_ != nullptr && exchange_->ended_by_slow_reader();
    if (now - wrote_ > (slow ? limits.linger : limits.write_stall)) Close();
    return;
  }
  if (exchange_ != nullptr || last_) return;
  if (!parser_.started()) {
    if (now - since_ > limits.idle) Close();
    return;
  }
  const bool body = parser_.state() == HttpParser::State::kBody;
  const MonoNanos allowed =
      body ? limits.body + kNanosPerSecond * (body_bytes_ / limits.body_bytes_per_s)
           : limits.header;
  if (now - since_ <= allowed) return;
  ApiError error;
  error.kind = ErrorKind::kRequestTimeout;
  error.message = "The request came too slowly";
  keep_alive_ = false;
  HttpExchange::Options options;
  options.request_id = context_.service->RequestIdFor(parser_.partial());
  options.keep_alive = false;
  begun_ = now;
  exchange_ = std::make_shared<HttpExchange>(std::move(options), context_.loop, weak_from_this());
  exchange_->Reply(ErrorReply(error));
  Flush();
}

void HttpConnection::CloseSoon() {
  keep_alive_ = false;
  if (exchange_ == nullptr && !socket_->writing() && outgoing_.empty()) Close();
}

void HttpConnection::Close() {
  if (closed_) return;
  closed_ = true;
  if (exchange_ != nullptr) {
    exchange_->Abandon();
    exchange_.reset();
  }
  socket_->Close();
  context_.closed(this);
}

}  // namespace millrace::server
