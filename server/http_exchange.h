#pragma once
// One HTTP request and its answer. The io thread makes it and takes its bytes; workers fill it.

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/frontend.h"
#include "server/net.h"
#include "server/openai_format.h"

namespace millrace::server {

// A whole answer. Content-Length, Date and the headers of every answer are added when it is
// written.
struct HttpReply {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
};
// With Retry-After and retry-after-ms where the error's kind asks for them.
HttpReply ErrorReply(const ApiError& error);

// Thread: any, but TakeBytes and Abandon (the io thread's).
class HttpExchange : public DeltaSink, public std::enable_shared_from_this<HttpExchange> {
 public:
  struct Options {
    std::string request_id;
    bool http11 = true;
    bool keep_alive = true;
    bool head = false;  // HEAD: no body
    // Formatted bytes that wait for the socket; above it deltas of one choice are joined.
    size_t coalesce_bytes = 16 << 10;
    // All that waits for the socket; above it the model waits.
    size_t bytes_max = 256 << 10;
  };
  // `wake` is called (from any thread) when there are bytes to take.
  HttpExchange(Options options, std::shared_ptr<IoLoop> loop, std::weak_ptr<Wakeable> connection);

  // Ends the exchange with a whole answer.
  void Reply(HttpReply reply);
  // Runs `request` and answers from its deltas. Not after Abandon.
  void Run(Frontend& frontend, GenerationRequest request);

  // Appends what may be written. True: that was the last of it.
  bool TakeBytes(std::string& out);
  // The client went away.
  void Abandon();

  const Options& options() const { return options_; }
  int status() const;  // 0: none yet
  // The last bytes are on their way but the client may never read them.
  bool ended_by_slow_reader() const;

  void OnAccepted(const Accepted& accepted) override;
  SinkState OnDeltas(std::vector<OutputDelta>&& deltas) override;
  void OnDone(const Usage& total) override;
  void OnError(const ApiError& error) override;

 private:
  void AppendHead(const HttpReply& reply, bool chunked, std::string& out) const;
  void ReplyLocked(HttpReply reply);
  void FlushBacklog();
  void Wake();

  const Options options_;
  const std::shared_ptr<IoLoop> loop_;
  const std::weak_ptr<Wakeable> connection_;

  mutable std::mutex mutex_;  // guards what follows
  std::shared_ptr<Generation> generation_;
  OutputFields output_;
  RequestKind kind_ = RequestKind::kChat;
  Accepted accepted_;
  std::optional<SseWriter> sse_;
  std::optional<AnswerWriter> answer_;
  std::string plain_;   // bytes as they are: heads, whole answers
  std::string events_;  // SSE, to be framed as one HTTP chunk
  std::vector<OutputDelta> backlog_;
  size_t backlog_bytes_ = 0;
  int status_ = 0;
  bool finished_ = false;
  bool full_ = false;
  bool abandoned_ = false;
  bool slow_reader_ = false;
};

}  // namespace millrace::server
