#pragma once
// One client connection: bytes to requests, one exchange at a time, answers in the order of the
// requests.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "server/http_parser.h"
#include "server/http_service.h"
#include "server/net.h"

namespace millrace::server {

struct HttpTimeouts {
  MonoNanos idle = 60 * kNanosPerSecond;    // between requests
  MonoNanos header = 10 * kNanosPerSecond;  // from a request's first byte to its head's last
  MonoNanos body = 30 * kNanosPerSecond;    // and one more second for each body_bytes_per_s
  int64_t body_bytes_per_s = 16 << 10;
  MonoNanos write_stall = 60 * kNanosPerSecond;  // no byte leaves; longer than the engine's pause
  MonoNanos linger = 2 * kNanosPerSecond;        // after the last answer, for the client to read it
};

// Thread: its loop's. Held by the server until `closed` is called.
class HttpConnection final : public SocketEvents,
                             public Wakeable,
                             public std::enable_shared_from_this<HttpConnection> {
 public:
  struct Context {
    std::shared_ptr<HttpService> service;
    std::shared_ptr<IoLoop> loop;
    const Clock* clock = nullptr;
    HttpTimeouts timeouts;
    HttpParserLimits limits;
    bool ops = false;
    const bool* draining = nullptr;  // answers close their connection
    std::function<void(HttpConnection*)> closed;
  };
  HttpConnection(const Context& context, std::unique_ptr<Socket> socket);

  void Start();
  // Closes what has waited for too long.
  void OnTick(MonoNanos now);
  // Closes at once when idle, else after the current answer.
  void CloseSoon();
  void Close();

  void OnRead(std::string_view bytes) override;
  void OnEnd() override;
  void OnWritten() override;
  void OnWake() override;

 private:
  void Pump();
  void Begin(HttpRequest request);
  void Refuse();
  void Flush();
  void FinishExchange();
  void Linger();

  const Context context_;
  std::unique_ptr<Socket> socket_;
  HttpParser parser_;
  std::string input_;     // read, not yet parsed (pipelined requests)
  std::string outgoing_;  // formatted, not yet given to the socket
  std::shared_ptr<HttpExchange> exchange_;
  std::string method_;  // of the exchange
  std::string target_;
  MonoNanos begun_ = 0;     // the exchange
  MonoNanos since_ = 0;     // the current wait
  MonoNanos wrote_ = 0;     // the last progress of a write
  int64_t body_bytes_ = 0;  // of the request that is being read
  bool keep_alive_ = true;
  bool reading_ = true;
  bool last_ = false;  // no request after this answer
  bool lingering_ = false;
  bool peer_ended_ = false;
  bool closed_ = false;
  bool pumping_ = false;
};

}  // namespace millrace::server
