#include "server/grpc_listener.h"

#include <arpa/inet.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "grpc/grpc.h"
#include "grpc/support/alloc.h"

namespace millrace::server {
namespace {

// gRPC 1.51 accepts 100,000 streams a second of a peer that has not acknowledged our limit on
// them, at 20 KiB each: what sends is looked at often.
constexpr MonoNanos kTick = 5 * kNanosPerMilli;
// Looking may take one part in so many of one core.
constexpr int kLookShare = 50;
// What has sent nothing for so long is left to epoll.
constexpr MonoNanos kQuietTime = 250 * kNanosPerMilli;
// Below this many bytes since the last look no flood is worth a look at the counters.
constexpr uint64_t kQuietBytes = 4096;
// How often all connections are asked whether they live.
constexpr MonoNanos kForgetTime = kNanosPerSecond;
constexpr int kBacklog = 4096;
// What accept cannot do now (descriptors, memory) it may do later.
constexpr MonoNanos kAcceptPause = 100 * kNanosPerMilli;
constexpr int kEventsMax = 256;
// Not the cookies of sockets: those are positive and count up.
constexpr uint64_t kStopKey = 0;
constexpr uint64_t kListenKey = ~uint64_t{0};

// Owns a descriptor. Thread: the owner's.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor() { Close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  void Reset(int fd) {
    Close();
    fd_ = fd;
  }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

struct Address {
  sockaddr_storage storage{};
  socklen_t size = sizeof(sockaddr_storage);
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

absl::Status ParseAddress(std::string host, uint16_t port, Address& out) {
  if (host == "localhost") host = "127.0.0.1";
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  auto* v4 = reinterpret_cast<sockaddr_in*>(&out.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&out.storage);
  if (inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    out.size = sizeof(sockaddr_in);
    return absl::OkStatus();
  }
  out.storage = {};
  if (inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    out.size = sizeof(sockaddr_in6);
    return absl::OkStatus();
  }
  return absl::UnavailableError("not an IP address");
}

// "<base64 of the address's bytes>:<port>", as channelz tells them.
std::string PeerName(const Address& address) {
  const bool v4 = address.storage.ss_family == AF_INET;
  const auto* in4 = reinterpret_cast<const sockaddr_in*>(&address.storage);
  const auto* in6 = reinterpret_cast<const sockaddr_in6*>(&address.storage);
  const char* bytes = v4 ? reinterpret_cast<const char*>(&in4->sin_addr)
                         : reinterpret_cast<const char*>(&in6->sin6_addr);
  const std::string raw(bytes, v4 ? 4 : 16);
  return absl::StrCat(absl::Base64Escape(raw), ":", ntohs(v4 ? in4->sin_port : in6->sin6_port));
}

std::string Readable(const Address& address) {
  char text[INET6_ADDRSTRLEN] = "";
  const bool v4 = address.storage.ss_family == AF_INET;
  const auto* in4 = reinterpret_cast<const sockaddr_in*>(&address.storage);
  const auto* in6 = reinterpret_cast<const sockaddr_in6*>(&address.storage);
  inet_ntop(address.storage.ss_family,
            v4 ? static_cast<const void*>(&in4->sin_addr) : &in6->sin6_addr, text, sizeof(text));
  return text;
}

// The kernel's own number of a socket, never used twice: a descriptor that was closed and opened
// again as another socket does not pass for the old one. 0: no socket.
uint64_t CookieOf(int fd) {
  uint64_t cookie = 0;
  socklen_t size = sizeof(cookie);
  return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) == 0 ? cookie : 0;
}

uint64_t BytesReceived(int fd) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_bytes_received : 0;
}

uint64_t BytesUnread(int fd) {
  int unread = 0;
  return ioctl(fd, FIONREAD, &unread) == 0 ? static_cast<uint64_t>(unread) : 0;
}

std::string_view NameOf(BudgetVerdict verdict) {
  switch (verdict) {
    case BudgetVerdict::kTooManyStreams:
      return "streams";
    case BudgetVerdict::kTooManyBytes:
      return "bytes";
    case BudgetVerdict::kStalled:
      return "stalled";
    case BudgetVerdict::kFine:
      break;
  }
  return "";
}

// Ends a connection at once: unlike shutdown, it also drops what waits to be read. The library sees
// an error at its next read and closes. The copy of the descriptor cannot become another socket
// between the look at its cookie and the blow.
void Disconnect(int fd, uint64_t cookie) {
  const Descriptor copy(dup(fd));
  if (copy.get() < 0 || CookieOf(copy.get()) != cookie) return;
  const sockaddr nobody{AF_UNSPEC, {}};
  connect(copy.get(), &nobody, sizeof(nobody));
}

// Channelz answers in JSON, its 64-bit numbers as strings, zeros left out.
Json TakeJson(char* text) {
  if (text == nullptr) return Json();
  JsonLimits limits;
  limits.values_max = 10'000'000;
  limits.bytes_max = size_t{256} << 20;
  absl::StatusOr<Json> json = Json::Parse(text, limits);
  gpr_free(text);
  return json.ok() ? *std::move(json) : Json();
}

const Json* Path(const Json* json, std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) {
    if (json == nullptr || !json->is_object()) return nullptr;
    json = json->Find(key);
  }
  return json;
}

int64_t Number(const Json* json) {
  if (json == nullptr) return 0;
  const std::string text = json->is_string()   ? json->string_value()
                           : json->is_number() ? json->number_text()
                                               : "";
  return std::strtoll(text.c_str(), nullptr, 10);
}

using Acceptor = grpc::experimental::ExternalConnectionAcceptor;

// Gives sockets to the library on threads of its own: gRPC 1.51 goes on reading a connection on the
// thread that handed it over for as long as there is something to read, and a flood never ends.
// Most of the time one thread does; there are more when one is held.
class HandOver {
 public:
  static constexpr size_t kThreadsMax = 64;

  ~HandOver() { Stop(); }
  // Thread: one, the same as Stop's. REQUIRES: `acceptor` outlives this.
  void Push(Acceptor& acceptor, Acceptor::NewConnectionParameters connection) {
    std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(connection));
    if (idle_ < waiting_.size() && threads_.size() < kThreadsMax) {
      threads_.emplace_back([this, &acceptor] { Run(acceptor); });
    } else {
      ready_.notify_one();
    }
  }
  // Returns when all that was pushed is handed over.
  void Stop() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      ready_.notify_all();
    }
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  void Run(Acceptor& acceptor) {
    std::unique_lock lock(mutex_);
    for (;;) {
      ++idle_;
      ready_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
      --idle_;
      if (waiting_.empty()) return;
      Acceptor::NewConnectionParameters connection = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      acceptor.HandleNewConnection(&connection);
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<Acceptor::NewConnectionParameters> waiting_;
  size_t idle_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

// The newest server of the process.
int64_t NewestServer() {
  int64_t newest = 0;
  for (bool more = true; more;) {
    const Json page = TakeJson(grpc_channelz_get_servers(newest + 1));
    const Json* servers = page.is_object() ? page.Find("server") : nullptr;
    more = servers != nullptr && servers->is_array() && !servers->array().empty();
    if (!more) break;
    newest = Number(Path(&servers->array().back(), {"ref", "serverId"}));
  }
  return newest;
}

}  // namespace

// Thread: the owner's before Start and after Stop, its own thread's between.
class GrpcListener::State {
 public:
  State(GrpcListenOptions chosen, MetricsRegistry& metrics, const Clock& clock)
      : options_(std::move(chosen)),
        clock_(clock),
        open_(metrics.AddGauge("millrace_grpc_connections", "Open gRPC connections.")),
        refused_(metrics.AddCounter("millrace_grpc_connections_refused_total",
                                    "Connections over the limit.")),
        cut_(metrics.AddCounter("millrace_grpc_connections_cut_total",
                                "Connections that asked for much and finished nothing.")) {}

  absl::Status Bind() {
    const auto failed = [&](std::string_view why) {
      return absl::UnavailableError(absl::StrCat("cannot listen for gRPC on ", options_.host, ":",
                                                 options_.port, ": ",
                                                 absl::string_view(why.data(), why.size())));
    };
    Address address;
    if (absl::Status parsed = ParseAddress(options_.host, options_.port, address); !parsed.ok()) {
      return failed("not an IP address");
    }
    listen_.Reset(socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const int one = 1;
    const int fd = listen_.get();
    // Accepted sockets inherit the last two.
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &options_.user_timeout_ms, sizeof(int));
    if (fd < 0 || bind(fd, address.get(), address.size) != 0 || listen(fd, kBacklog) != 0) {
      return failed(std::strerror(errno));
    }
    getsockname(fd, address.get(), &address.size);
    const bool v4 = address.storage.ss_family == AF_INET;
    port_ = ntohs(v4 ? reinterpret_cast<sockaddr_in*>(&address.storage)->sin_port
                     : reinterpret_cast<sockaddr_in6*>(&address.storage)->sin6_port);
    return absl::OkStatus();
  }

  void Start(std::unique_ptr<Acceptor> acceptor) {
    acceptor_ = std::move(acceptor);
    server_ = NewestServer();
    wake_.Reset(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    epoll_.Reset(epoll_create1(EPOLL_CLOEXEC));
    Watch(EPOLL_CTL_ADD, wake_.get(), EPOLLIN, kStopKey);
    Watch(EPOLL_CTL_ADD, listen_.get(), EPOLLIN, kListenKey);
    thread_ = std::thread([this] { Loop(); });
  }

  void Stop() {
    if (thread_.joinable()) {
      const uint64_t one = 1;
      [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));
      thread_.join();
    }
    hand_over_.Stop();
    listen_.Close();
  }

  uint16_t port() const { return port_; }

 private:
  struct Connection {
    int fd;
    std::string address;  // for the log
    std::string peer;     // as channelz tells it
    ConnectionBudget budget;
    int64_t socket_id = 0;    // channelz's; 0: not known yet
    uint64_t bytes_seen = 0;  // at the last look
    MonoNanos heard = 0;      // when the last look saw more than the one before
    bool awake = false;       // looked at at each tick; otherwise epoll tells when it sends
    bool cut = false;         // the library has not noticed yet
  };
  using Connections = std::map<uint64_t, Connection>;

  void Watch(int operation, int fd, uint32_t events, uint64_t key) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = key;
    epoll_ctl(epoll_.get(), operation, fd, &event);
  }

  void Loop() {
    MonoNanos next_look = 0;
    MonoNanos next_forget = clock_.Now() + kForgetTime;
    MonoNanos accept_again = 0;  // 0: not paused
    epoll_event events[kEventsMax];
    for (;;) {
      MonoNanos due = connections_.empty() ? kNever : next_forget;
      if (awake_ > 0) due = std::min(due, next_look);
      if (accept_again > 0) due = std::min(due, accept_again);
      const int count = epoll_wait(epoll_.get(), events, kEventsMax, MillisUntil(due));
      bool accept = false;
      for (int i = 0; i < count; ++i) {
        const uint64_t key = events[i].data.u64;
        if (key == kStopKey) return;
        if (key == kListenKey) {
          accept = true;
        } else if (const auto it = connections_.find(key); it != connections_.end()) {
          Wake(it->second);
        }
      }
      const MonoNanos now = clock_.Now();
      if (accept || (accept_again > 0 && now >= accept_again)) {
        const bool paused = !AcceptAll();
        if (paused != (accept_again > 0)) {
          Watch(EPOLL_CTL_MOD, listen_.get(), paused ? 0U : uint32_t{EPOLLIN}, kListenKey);
        }
        accept_again = paused ? now + kAcceptPause : 0;
      }
      if (now >= next_forget) {
        Forget();
        next_forget = now + kForgetTime;
      }
      if (awake_ > 0 && now >= next_look) {
        Look();
        const MonoNanos end = clock_.Now();
        next_look = end + std::max(kTick, (end - now) * kLookShare);
      }
    }
  }

  int MillisUntil(MonoNanos due) const {
    if (due == kNever) return -1;
    const MonoNanos left = std::max<MonoNanos>(0, due - clock_.Now());
    return static_cast<int>((left + kNanosPerMilli - 1) / kNanosPerMilli);
  }

  void Wake(Connection& connection) {
    if (std::exchange(connection.awake, true)) return;
    connection.heard = clock_.Now();
    ++awake_;
  }

  // False when the machine has nothing left to accept with.
  bool AcceptAll() {
    for (;;) {
      Address peer;
      const int fd = accept4(listen_.get(), peer.get(), &peer.size, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) {
        if (errno == EINTR || errno == ECONNABORTED) continue;
        return errno == EAGAIN || errno == EWOULDBLOCK;
      }
      if (connections_.size() >= options_.connections_max) {
        Forget();
        if (connections_.size() >= options_.connections_max) {
          refused_.Add();
          close(fd);
          continue;
        }
      }
      const uint64_t cookie = CookieOf(fd);
      connections_.emplace(
          cookie, Connection{fd, Readable(peer), PeerName(peer), ConnectionBudget(clock_.Now())});
      open_.Set(static_cast<double>(connections_.size()));
      Watch(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLONESHOT, cookie);
      Acceptor::NewConnectionParameters handed;
      handed.listener_fd = listen_.get();
      handed.fd = fd;
      hand_over_.Push(*acceptor_, std::move(handed));
    }
  }

  static bool Alive(const Connections::value_type& entry) {
    return CookieOf(entry.second.fd) == entry.first;
  }

  Connections::iterator Drop(Connections::iterator it) {
    awake_ -= it->second.awake ? 1 : 0;
    it = connections_.erase(it);
    open_.Set(static_cast<double>(connections_.size()));
    return it;
  }

  // Drops those that the library has closed.
  void Forget() {
    for (auto it = connections_.begin(); it != connections_.end();) {
      it = Alive(*it) ? std::next(it) : Drop(it);
    }
  }

  void Look() {
    const MonoNanos now = clock_.Now();
    bool named = false;
    for (auto it = connections_.begin(); it != connections_.end();) {
      auto& [cookie, connection] = *it;
      if (connection.awake && !Alive(*it)) {
        it = Drop(it);
        continue;
      }
      ++it;
      if (!connection.awake) continue;
      const uint64_t bytes = BytesReceived(connection.fd);
      const uint64_t unread = BytesUnread(connection.fd);
      if (bytes > connection.bytes_seen || unread > 0) connection.heard = now;
      connection.bytes_seen = bytes;
      if (!connection.cut && (bytes >= connection.budget.bytes_received() + kQuietBytes ||
                              unread >= options_.budget.unread_max)) {
        if (connection.socket_id == 0 && !std::exchange(named, true)) NameNewSockets();
        Judge(cookie, connection, bytes, unread);
      }
      if (now - connection.heard < kQuietTime) continue;
      connection.awake = false;
      --awake_;
      Watch(EPOLL_CTL_MOD, connection.fd, EPOLLIN | EPOLLONESHOT, cookie);
    }
  }

  // Finds the channelz ids of connections that have none. Ids only grow, so each is read once.
  void NameNewSockets() {
    for (;;) {
      const Json page = TakeJson(grpc_channelz_get_server_sockets(server_, last_socket_id_ + 1, 0));
      const Json* refs = page.is_object() ? page.Find("socketRef") : nullptr;
      if (refs == nullptr || !refs->is_array() || refs->array().empty()) return;
      for (const Json& ref : refs->array()) {
        last_socket_id_ = Number(ref.Find("socketId"));
        const Json answer = TakeJson(grpc_channelz_get_socket(last_socket_id_));
        const Json* remote = Path(&answer, {"socket", "remote", "tcpip_address"});
        const Json* ip = Path(remote, {"ip_address"});
        if (ip == nullptr || !ip->is_string()) continue;
        const std::string peer =
            absl::StrCat(ip->string_value(), ":", Number(Path(remote, {"port"})));
        for (auto& entry : connections_) {
          if (entry.second.peer == peer) entry.second.socket_id = last_socket_id_;
        }
      }
    }
  }

  void Judge(uint64_t cookie, Connection& connection, uint64_t bytes, uint64_t unread) {
    ConnectionSample sample;
    sample.at = clock_.Now();
    sample.bytes_received = bytes;
    sample.bytes_unread = unread;
    if (connection.socket_id != 0) {
      const Json answer = TakeJson(grpc_channelz_get_socket(connection.socket_id));
      const Json* data = Path(&answer, {"socket", "data"});
      sample.streams_started = Number(Path(data, {"streamsStarted"}));
      sample.streams_succeeded = Number(Path(data, {"streamsSucceeded"}));
      sample.messages_received = Number(Path(data, {"messagesReceived"}));
    }
    const BudgetVerdict verdict = connection.budget.Spend(options_.budget, sample);
    if (verdict == BudgetVerdict::kFine) return;
    Log(LogLevel::kWarning, "gRPC connection cut: it asked for much and finished nothing",
        {{"peer", std::string_view(connection.address)},
         {"reason", NameOf(verdict)},
         {"streams", sample.streams_started},
         {"bytes", static_cast<int64_t>(sample.bytes_received)}});
    cut_.Add();
    connection.cut = true;
    Disconnect(connection.fd, cookie);
  }

  const GrpcListenOptions options_;
  const Clock& clock_;
  const Gauge open_;
  const Counter refused_;
  const Counter cut_;
  uint16_t port_ = 0;
  Descriptor listen_;
  Descriptor wake_;
  Descriptor epoll_;
  std::unique_ptr<Acceptor> acceptor_;
  HandOver hand_over_;
  int64_t server_ = 0;
  int64_t last_socket_id_ = 0;
  Connections connections_;  // by cookie
  int awake_ = 0;            // of them
  std::thread thread_;
};

GrpcListener::GrpcListener(GrpcListenOptions options, MetricsRegistry& metrics, const Clock& clock)
    : state_(std::make_unique<State>(std::move(options), metrics, clock)) {}
GrpcListener::~GrpcListener() {
  Stop();
}
absl::Status GrpcListener::Bind() {
  return state_->Bind();
}
uint16_t GrpcListener::port() const {
  return state_->port();
}
void GrpcListener::Start(std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor) {
  state_->Start(std::move(acceptor));
}
void GrpcListener::Stop() {
  state_->Stop();
}

}  // namespace millrace::server
