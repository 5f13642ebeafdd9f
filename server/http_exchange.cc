#include "server/http_exchange.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <utility>

#include "base/json_writer.h"

namespace millrace::server {
namespace {

const char* ReasonPhrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    default:
      return "Status";
  }
}

// IMF-fixdate (RFC 9110, 5.6.7), by hand: strftime's names depend on the locale.
std::string HttpDate() {
  constexpr const char* kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                     "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[64];
  std::snprintf(text, sizeof(text), "%s, %02d %s %04d %02d:%02d:%02d GMT", kDays[utc.tm_wday],
                utc.tm_mday, kMonths[utc.tm_mon], utc.tm_year + 1900, utc.tm_hour, utc.tm_min,
                utc.tm_sec);
  return text;
}

// One chunk of RFC 9112, 7.1: length in hex, the bytes, each with CRLF.
void AppendChunk(const std::string& bytes, std::string& out) {
  char size[24];
  std::snprintf(size, sizeof(size), "%zx\r\n", bytes.size());
  out += size;
  out += bytes;
  out += "\r\n";
}

}  // namespace

HttpReply ErrorReply(const ApiError& error) {
  HttpReply reply;
  reply.status = error.shape().http;
  reply.body = ErrorBody(error);
  if (const MonoNanos wait = error.RetryAfter()) {
    const MonoNanos seconds = (wait + kNanosPerSecond - 1) / kNanosPerSecond;
    reply.headers.emplace_back("retry-after", std::to_string(seconds));
    reply.headers.emplace_back("retry-after-ms", std::to_string(wait / kNanosPerMilli));
  }
  if (error.kind == ErrorKind::kUnauthenticated) {
    reply.headers.emplace_back("www-authenticate", "Bearer");
  }
  // Tokens may have been made for it: a retry would pay for them again.
  if (error.kind == ErrorKind::kEngineFault) reply.headers.emplace_back("x-should-retry", "false");
  return reply;
}

HttpExchange::HttpExchange(Options options, std::shared_ptr<IoLoop> loop,
                           std::weak_ptr<Wakeable> connection)
    : options_(std::move(options)), loop_(std::move(loop)), connection_(std::move(connection)) {}

// An HTTP/1.0 client knows no chunks: its stream has no length, and the end of the connection is
// the end of the answer.
void HttpExchange::AppendHead(const HttpReply& reply, bool chunked, std::string& out) const {
  out += "HTTP/1.1 ";
  AppendJsonInt(reply.status, out);
  out += ' ';
  out += ReasonPhrase(reply.status);
  out += "\r\ndate: " + HttpDate() + "\r\ncontent-type: " + reply.content_type + "\r\n";
  if (chunked) {
    out += "transfer-encoding: chunked\r\n";
  } else if (reply.status != 200 || sse_ == std::nullopt) {
    out += "content-length: " + std::to_string(reply.body.size()) + "\r\n";
  }
  for (const auto& [name, value] : reply.headers) out += name + ": " + value + "\r\n";
  out += "x-request-id: " + options_.request_id + "\r\n";
  if (!options_.keep_alive) out += "connection: close\r\n";
  out += "\r\n";
}

// REQUIRES: mutex_ held. The first answer wins: an error may race with an end.
void HttpExchange::ReplyLocked(HttpReply reply) {
  if (finished_) return;
  if (!accepted_.traceparent.empty()) {
    reply.headers.emplace_back("traceparent", accepted_.traceparent);
  }
  status_ = reply.status;
  sse_.reset();
  AppendHead(reply, false, plain_);
  if (!options_.head) plain_ += reply.body;
  finished_ = true;
}

void HttpExchange::Reply(HttpReply reply) {
  {
    std::lock_guard lock(mutex_);
    ReplyLocked(std::move(reply));
  }
  Wake();
}

void HttpExchange::Run(Frontend& frontend, GenerationRequest request) {
  {
    std::lock_guard lock(mutex_);
    if (abandoned_) return;
    output_ = request.output;
    kind_ = request.kind;
  }
  // Not under the lock: the front end may call the sink, that is us, before Start returns.
  std::shared_ptr<Generation> generation = frontend.Start(std::move(request), shared_from_this());
  bool cancel = false;
  {
    std::lock_guard lock(mutex_);
    cancel = abandoned_;
    if (!finished_) generation_ = generation;
  }
  if (cancel) generation->Cancel();
}

// The io thread comes for the bytes when it can; only it may touch the socket.
void HttpExchange::Wake() {
  if (std::shared_ptr<Wakeable> connection = connection_.lock()) loop_->Wake(std::move(connection));
}

void HttpExchange::OnAccepted(const Accepted& accepted) {
  std::lock_guard lock(mutex_);
  accepted_ = accepted;
  if (!output_.stream) answer_.emplace(kind_, output_, accepted_);
}

SinkState HttpExchange::OnDeltas(std::vector<OutputDelta>&& deltas) {
  bool full = false;
  {
    std::lock_guard lock(mutex_);
    if (abandoned_) return SinkState::kReady;
    if (answer_) {
      for (OutputDelta& delta : deltas) answer_->Add(std::move(delta));
      return SinkState::kReady;
    }
    if (status_ == 0) {
      // Only now, with the first token: until here an error still gets its own status.
      HttpReply head;
      head.content_type = "text/event-stream; charset=utf-8";
      head.headers = {{"cache-control", "no-cache"}, {"x-accel-buffering", "no"}};
      if (!accepted_.traceparent.empty()) {
        head.headers.emplace_back("traceparent", accepted_.traceparent);
      }
      status_ = 200;
      sse_.emplace(kind_, output_, accepted_);
      AppendHead(head, options_.http11, plain_);
    }
    for (OutputDelta& delta : deltas) {
      if (events_.size() <= options_.coalesce_bytes && backlog_.empty()) {
        sse_->AppendDelta(delta, events_);
        continue;
      }
      // The client is behind: tokens of one choice go out as one event later.
      backlog_bytes_ += BytesOf(delta);
      const auto same = std::find_if(backlog_.begin(), backlog_.end(),
                                     [&](const OutputDelta& d) { return d.index == delta.index; });
      if (same == backlog_.end()) {
        backlog_.push_back(std::move(delta));
      } else {
        MergeDelta(*same, std::move(delta));
      }
    }
    full = full_ = events_.size() + backlog_bytes_ > options_.bytes_max;
  }
  Wake();
  return full ? SinkState::kFull : SinkState::kReady;
}

// REQUIRES: mutex_ held. The joined deltas as events, one for each choice.
void HttpExchange::FlushBacklog() {
  for (const OutputDelta& delta : backlog_) sse_->AppendDelta(delta, events_);
  backlog_.clear();
  backlog_bytes_ = 0;
}

void HttpExchange::OnDone(const Usage& total) {
  {
    std::lock_guard lock(mutex_);
    if (answer_) {
      HttpReply reply;
      reply.body = answer_->Finish(total);
      answer_.reset();
      ReplyLocked(std::move(reply));
    } else if (sse_) {
      FlushBacklog();
      sse_->AppendEnd(total, events_);
      finished_ = true;
    }
    generation_.reset();
  }
  Wake();
}

void HttpExchange::OnError(const ApiError& error) {
  {
    std::lock_guard lock(mutex_);
    // The connection gives up on such a client instead of waiting for it to read the end.
    slow_reader_ = error.kind == ErrorKind::kSlowConsumer;
    if (sse_) {
      FlushBacklog();
      SseWriter::AppendError(error, events_);
      finished_ = true;
    } else {
      answer_.reset();
      ReplyLocked(ErrorReply(error));
    }
    generation_.reset();
  }
  Wake();
}

bool HttpExchange::TakeBytes(std::string& out) {
  std::shared_ptr<Generation> drained;
  bool last = false;
  {
    std::lock_guard lock(mutex_);
    out += plain_;
    plain_.clear();
    if (sse_) {
      FlushBacklog();
      // All events that came since the last write are one chunk: one system call however many
      // tokens.
      if (!events_.empty() && options_.http11) {
        AppendChunk(events_, out);
      } else {
        out += events_;
      }
      events_.clear();
      if (finished_ && options_.http11) out += "0\r\n\r\n";
    }
    last = finished_;
    if (last) sse_.reset();
    if (full_ && !finished_) drained = generation_;
    full_ = false;
  }
  // Room again: the model goes on. Without the lock, as it may call back at once.
  if (drained != nullptr) drained->Drained();
  return last;
}

void HttpExchange::Abandon() {
  std::shared_ptr<Generation> generation;
  {
    std::lock_guard lock(mutex_);
    abandoned_ = true;
    generation = std::move(generation_);
    generation_.reset();
  }
  if (generation != nullptr) generation->Cancel();
}

int HttpExchange::status() const {
  std::lock_guard lock(mutex_);
  return status_;
}

bool HttpExchange::ended_by_slow_reader() const {
  std::lock_guard lock(mutex_);
  return slow_reader_;
}

}  // namespace millrace::server
