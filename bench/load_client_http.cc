// Many concurrent SSE streams against an OpenAI-compatible server, from one thread with epoll.
//
//   load_client_http --port 8000 --streams 256 --seconds 10 [--host 127.0.0.1] [--path
//   /v1/completions]
//       [--model NAME] [--max-tokens 128] [--prompt TEXT] [--disconnect 0.2] [--slow 8] [--seed 1]
//       [--think-ms 0]
//
// Each stream sends one request after the other on connections of its own, and thinks half to one
// and a half times `--think-ms` before each. Messages count until the time is up. `--disconnect F`:
// that share of requests is cut by us at a random event. `--slow N`: the first N streams read 4 KiB
// a second through a receive buffer of 4 KiB. Prints one JSON line: messages/s, tokens a message,
// time to the first event and gaps between events (p50, p99; fast streams only), and how requests
// ended. Exit code 1 when a request of a fast stream that we did not cut ended without [DONE] or
// with an error.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;

struct Options {
  std::string host = "127.0.0.1", path = "/v1/completions", model = "smollm2", prompt = "Hi";
  int port = 8000, streams = 64, slow = 0, max_tokens = 128;
  double seconds = 5, disconnect = 0, think_ms = 0;
  uint64_t seed = 1;
};

struct Totals {
  int64_t messages = 0, tokens = 0, whole_messages = 0, bytes = 0;
  int64_t done = 0, cut = 0, failed = 0, refused = 0, slow_ended = 0;
  std::vector<float> first_ms, gap_ms;
  std::string failure;
};

double Ms(Time from, Time to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

float Percentile(std::vector<float>& values, double share) {
  if (values.empty()) return 0;
  const auto at =
      values.begin() + static_cast<long>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

// One stream: a connection, one request at a time.
struct Stream {
  int fd = -1;
  bool slow = false;
  std::string out;   // not yet sent
  std::string tail;  // received, an event not yet whole
  Time sent, last;
  Time next_read;  // slow streams read only then
  Time open_at;    // of the next request, while fd is -1 and it thinks
  bool thinks = false;
  int64_t events = 0;
  int64_t cut_at = -1;  // cut after so many events
  bool done = false, error = false;
};

class Load {
 public:
  explicit Load(const Options& options)
      : options_(options), random_(options.seed), epoll_(epoll_create1(0)) {
    streams_.resize(static_cast<size_t>(options.streams));
    const std::string body = "{\"model\":\"" + options.model + "\",\"prompt\":\"" + options.prompt +
                             "\",\"max_tokens\":" + std::to_string(options.max_tokens) +
                             ",\"temperature\":0,\"ignore_eos\":true,\"stream\":true,"
                             "\"stream_options\":{\"include_usage\":true}}";
    request_ = "POST " + options.path +
               " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
               "Content-Length: " + std::to_string(body.size()) + "\r\nConnection: close\r\n\r\n" +
               body;
  }
  ~Load() { close(epoll_); }

  Totals Run() {
    const Time begin = Clock::now();
    end_ = begin + std::chrono::duration_cast<Clock::duration>(
                       std::chrono::duration<double>(options_.seconds));
    for (size_t i = 0; i < streams_.size(); ++i) {
      streams_[i].slow = static_cast<int>(i) < options_.slow;
      Open(streams_[i]);
    }
    std::vector<epoll_event> events(512);
    // After the end no request is begun; running ones get five more seconds.
    const int patience_ms = options_.think_ms > 0 ? 1 : 20;
    while (Clock::now() < end_ + std::chrono::seconds(5) && open_ + thinking_ > 0) {
      const int count =
          epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), patience_ms);
      for (int i = 0; i < count; ++i)
        Ready(*static_cast<Stream*>(events[static_cast<size_t>(i)].data.ptr),
              events[static_cast<size_t>(i)].events);
      ReadSlowOnes();
      if (thinking_ > 0) OpenDue();
    }
    seconds_ = std::chrono::duration<double>(std::min(Clock::now(), end_) - begin).count();
    for (Stream& stream : streams_) Close(stream);
    return std::move(totals_);
  }
  double seconds() const { return seconds_; }

 private:
  void Open(Stream& s) {
    const bool slow = s.slow;
    s = Stream{};
    s.slow = slow;
    s.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (slow) {
      const int size = 4096;
      setsockopt(s.fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    }
    const int on = 1;
    setsockopt(s.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(options_.port));
    inet_pton(AF_INET, options_.host.c_str(), &address.sin_addr);
    if (connect(s.fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 &&
        errno != EINPROGRESS) {
      ++open_;
      return Fail(s, "connect");
    }
    s.out = request_;
    s.sent = s.last = Clock::now();
    std::uniform_real_distribution<double> share(0, 1);
    if (!slow && share(random_) < options_.disconnect) {
      s.cut_at = static_cast<int64_t>(random_() % static_cast<uint64_t>(options_.max_tokens));
    }
    epoll_event event{};
    event.events = EPOLLOUT | (slow ? 0u : EPOLLIN);
    event.data.ptr = &s;
    epoll_ctl(epoll_, EPOLL_CTL_ADD, s.fd, &event);
    ++open_;
  }

  void Close(Stream& s) {
    if (s.fd < 0) return;
    close(s.fd);
    s.fd = -1;
    --open_;
  }

  // This request is over; the stream goes on with the next while there is time.
  void Next(Stream& s) {
    Close(s);
    if (Clock::now() >= end_) return;
    if (options_.think_ms <= 0) return Open(s);
    std::uniform_real_distribution<double> share(0.5, 1.5);
    s.open_at = Clock::now() +
                std::chrono::duration_cast<Clock::duration>(
                    std::chrono::duration<double, std::milli>(options_.think_ms * share(random_)));
    s.thinks = true;
    ++thinking_;
  }

  void OpenDue() {
    const Time now = Clock::now();
    for (Stream& s : streams_) {
      if (!s.thinks || now < std::min(s.open_at, end_)) continue;
      s.thinks = false;
      --thinking_;
      if (now < end_) Open(s);
    }
  }

  void Fail(Stream& s, const std::string& why) {
    ++totals_.failed;
    if (totals_.failure.empty()) totals_.failure = why;
    Close(s);  // a stream that failed stays closed: the run is lost anyway
  }

  void Ready(Stream& s, uint32_t events) {
    if (s.fd < 0) return;
    if ((events & EPOLLOUT) != 0 && !s.out.empty()) {
      const ssize_t sent = send(s.fd, s.out.data(), s.out.size(), MSG_NOSIGNAL);
      if (sent > 0) s.out.erase(0, static_cast<size_t>(sent));
      if (sent < 0 && errno != EAGAIN) return Fail(s, std::string("send: ") + std::strerror(errno));
      if (s.out.empty()) {
        epoll_event event{};
        event.events = s.slow ? 0u : EPOLLIN;
        event.data.ptr = &s;
        epoll_ctl(epoll_, EPOLL_CTL_MOD, s.fd, &event);
      }
    }
    if (!s.slow && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) Read(s, 65536);
  }

  void ReadSlowOnes() {
    const Time now = Clock::now();
    for (int i = 0; i < options_.slow && i < options_.streams; ++i) {
      Stream& s = streams_[static_cast<size_t>(i)];
      if (s.fd < 0 || !s.out.empty() || now < s.next_read) continue;
      s.next_read = now + std::chrono::seconds(1);
      Read(s, 4096);
    }
  }

  void Read(Stream& s, size_t limit) {
    static char buffer[65536];
    const ssize_t got = recv(s.fd, buffer, limit, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return Ended(s);
    totals_.bytes += got;
    s.tail.append(buffer, static_cast<size_t>(got));
    size_t begin = 0;
    while (true) {
      const size_t end = s.tail.find("\n\n", begin);
      if (end == std::string::npos) break;
      if (!Event(s, std::string_view(s.tail).substr(begin, end - begin))) return;
      begin = end + 2;
    }
    s.tail.erase(0, begin);
  }

  // False when the stream was cut or closed.
  bool Event(Stream& s, std::string_view event) {
    if (event.find("data: [DONE]") != std::string_view::npos) {
      s.done = true;
      return true;
    }
    if (event.find("\"error\":{") != std::string_view::npos) {
      s.error = true;
      if (!s.slow && totals_.failure.empty()) totals_.failure = std::string(event.substr(0, 300));
      return true;
    }
    if (const size_t usage = event.find("\"completion_tokens\":");
        usage != std::string_view::npos && event.find("\"choices\":[]") != std::string_view::npos) {
      totals_.tokens += std::atoll(event.data() + usage + 20);
      totals_.whole_messages += s.events;
      return true;
    }
    if (event.find("\"choices\":[{") == std::string_view::npos) return true;
    const Time now = Clock::now();
    if (now < end_) ++totals_.messages;
    if (!s.slow) {
      if (s.events == 0) {
        totals_.first_ms.push_back(static_cast<float>(Ms(s.sent, now)));
      } else if (totals_.gap_ms.size() < 20'000'000) {
        totals_.gap_ms.push_back(static_cast<float>(Ms(s.last, now)));
      }
    }
    s.last = now;
    if (++s.events == s.cut_at) {
      ++totals_.cut;
      Next(s);
      return false;
    }
    return true;
  }

  void Ended(Stream& s) {
    if (s.slow) {
      ++(s.error || !s.done ? totals_.slow_ended : totals_.done);
    } else if (s.done && !s.error) {
      ++totals_.done;
    } else if (s.events == 0 && s.tail.rfind("HTTP/1.1 503", 0) == 0) {
      ++totals_.refused;
    } else {
      return Fail(s, s.tail.empty() ? "closed without [DONE]" : s.tail.substr(0, 300));
    }
    Next(s);
  }

  const Options options_;
  std::mt19937_64 random_;
  const int epoll_;
  std::string request_;
  std::vector<Stream> streams_;
  Totals totals_;
  Time end_;
  int64_t open_ = 0;
  int64_t thinking_ = 0;
  double seconds_ = 0;
};

bool ReadOptions(int argc, char** argv, Options& o) {
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i];
    if (i + 1 >= argc) return false;
    const char* value = argv[i + 1];
    if (name == "--host")
      o.host = value;
    else if (name == "--port")
      o.port = std::atoi(value);
    else if (name == "--path")
      o.path = value;
    else if (name == "--model")
      o.model = value;
    else if (name == "--prompt")
      o.prompt = value;
    else if (name == "--streams")
      o.streams = std::atoi(value);
    else if (name == "--slow")
      o.slow = std::atoi(value);
    else if (name == "--max-tokens")
      o.max_tokens = std::atoi(value);
    else if (name == "--seconds")
      o.seconds = std::atof(value);
    else if (name == "--think-ms")
      o.think_ms = std::atof(value);
    else if (name == "--disconnect")
      o.disconnect = std::atof(value);
    else if (name == "--seed")
      o.seed = std::strtoull(value, nullptr, 10);
    else
      return false;
  }
  return o.streams > 0 && o.max_tokens > 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!ReadOptions(argc, argv, options)) {
    std::fprintf(stderr, "load_client_http: bad flags; see the top of bench/load_client_http.cc\n");
    return 2;
  }
  Load load(options);
  Totals t = load.Run();
  std::printf(
      "{\"streams\":%d,\"seconds\":%.2f,\"messages_per_s\":%.0f,\"messages\":%lld,"
      "\"usage_tokens\":%lld,\"tokens_per_message\":%.3f,\"first_ms_p50\":%.3f,\"first_ms_p99\":%."
      "3f,\"gap_ms_p50\":%.3f,"
      "\"gap_ms_p99\":%.3f,\"gap_ms_max\":%.3f,\"done\":%lld,\"cut\":%lld,\"refused\":%lld,"
      "\"slow_ended\":%lld,\"failed\":%lld}\n",
      options.streams, load.seconds(), static_cast<double>(t.messages) / load.seconds(),
      static_cast<long long>(t.messages), static_cast<long long>(t.tokens),
      static_cast<double>(t.tokens) / static_cast<double>(std::max<int64_t>(1, t.whole_messages)),
      Percentile(t.first_ms, 0.5), Percentile(t.first_ms, 0.99), Percentile(t.gap_ms, 0.5),
      Percentile(t.gap_ms, 0.99), Percentile(t.gap_ms, 1), static_cast<long long>(t.done),
      static_cast<long long>(t.cut), static_cast<long long>(t.refused),
      static_cast<long long>(t.slow_ended), static_cast<long long>(t.failed));
  if (t.failed > 0) std::fprintf(stderr, "first failure: %s\n", t.failure.c_str());
  return t.failed > 0 ? 1 : 0;
}
