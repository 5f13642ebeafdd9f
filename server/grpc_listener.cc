#include "server/grpc_listener.h"

#include <arpa/inet.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <string>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "grpc/grpc.h"
#include "grpc/support/alloc.h"
#include "server/grpc_hand_over.h"
#include "server/tcp_socket.h"

namespace millrace::server {
namespace {

// gRPC 1.51 accepts 100,000 streams a second of a peer that has not acknowledged our limit on
// them, at 20 KiB each: what sends is looked at often.
constexpr MonoNanos kTick = 5 * kNanosPerMilli;
// Looking may take one part in so many of one core.
constexpr int kLookShare = 50;
// Though not so little that a flood beside many busy connections has its way for long.
constexpr MonoNanos kLookPauseMax = 250 * kNanosPerMilli;
// Names are looked up at a cost of some 20 us each.
constexpr int64_t kNamesPerLook = 64;
// The library numbers a socket before it lists it: two at once may be listed the later one first.
// So what has no name after a while is looked for from the beginning, this often at most.
constexpr MonoNanos kNameTime = kNanosPerSecond;
constexpr MonoNanos kRenameTime = 5 * kNanosPerSecond;
// What has sent nothing for so long is left to epoll.
constexpr MonoNanos kQuietTime = 250 * kNanosPerMilli;
// Below this many bytes since the last look no flood is worth a look at the counters.
constexpr uint64_t kQuietBytes = 4096;
// How often all connections are asked whether they live.
constexpr MonoNanos kForgetTime = kNanosPerSecond;
constexpr int kBacklog = 4096;
// In one turn: a flood of connections must not keep us from looking at those that are there.
constexpr int kAcceptsMax = 64;
// How soon room is looked for again when every place is taken: that is a system call a connection.
constexpr MonoNanos kRoomTime = 20 * kNanosPerMilli;
// What accept cannot do now (descriptors, memory) it may do later.
constexpr MonoNanos kAcceptPause = 100 * kNanosPerMilli;
constexpr int kEventsMax = 256;
// Not the cookies of sockets: those count up from 1.
constexpr uint64_t kWakeKey = ~uint64_t{0};
constexpr uint64_t kListenKey = ~uint64_t{1};

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

// Thread: the owner's before Start and after Stop, its own thread's between; Drain and Stop: the
// owner's.
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
    wake_.Reset(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    epoll_.Reset(epoll_create1(EPOLL_CLOEXEC));
    if (wake_.get() < 0 || epoll_.get() < 0) return failed(std::strerror(errno));
    Watch(EPOLL_CTL_ADD, wake_.get(), EPOLLIN, kWakeKey);
    Watch(EPOLL_CTL_ADD, fd, EPOLLIN, kListenKey);
    const bool v4 = address.storage.ss_family == AF_INET;
    port_ = ntohs(v4 ? reinterpret_cast<sockaddr_in*>(&address.storage)->sin_port
                     : reinterpret_cast<sockaddr_in6*>(&address.storage)->sin6_port);
    return absl::OkStatus();
  }

  absl::Status Start(std::vector<std::unique_ptr<HandOver::Acceptor>> acceptors) {
    server_ = NewestServer();
    bool started = hand_over_.Start(std::move(acceptors));
    try {
      if (started) thread_ = std::thread([this] { Loop(); });
    } catch (const std::system_error&) {
      started = false;
    }
    return started ? absl::OkStatus() : absl::UnavailableError("no thread left to accept gRPC on");
  }

  void Drain(MonoNanos cut_at) {
    cut_at_ = cut_at;
    WakeUp();
  }

  void Stop() {
    stopping_ = true;
    WakeUp();
    if (thread_.joinable()) thread_.join();
    hand_over_.Stop();
    // A server that is shut down does not close what is handed to it after that.
    for (const auto& entry : connections_) Disconnect(entry.second.fd, entry.first);
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
    MonoNanos accepted = 0;
    MonoNanos heard = 0;  // when the last look saw more than the one before
    bool awake = false;   // looked at at each tick; otherwise epoll tells when it sends
    bool cut = false;     // the library has not noticed yet
  };
  using Connections = std::map<uint64_t, Connection>;

  void WakeUp() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));
  }

  // No more connections: who waits to be accepted is refused.
  void CloseDoor() {
    uint64_t woken = 0;
    [[maybe_unused]] const ssize_t got = read(wake_.get(), &woken, sizeof(woken));
    if (listen_.get() >= 0) Watch(EPOLL_CTL_DEL, listen_.get(), 0, kListenKey);
    listen_.Close();
  }

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
      due = std::min(due, cut_at_.load());
      const int count = epoll_wait(epoll_.get(), events, kEventsMax, MillisUntil(due));
      bool accept = false;
      for (int i = 0; i < count; ++i) {
        const uint64_t key = events[i].data.u64;
        if (key == kWakeKey) {
          if (stopping_) return;
          CloseDoor();
        } else if (key == kListenKey) {
          accept = true;
        } else if (const auto it = connections_.find(key); it != connections_.end()) {
          Wake(it->second);
        }
      }
      const MonoNanos now = clock_.Now();
      if (listen_.get() < 0) accept = false, accept_again = 0;
      if (now >= cut_at_.load()) {
        for (const auto& entry : connections_) Disconnect(entry.second.fd, entry.first);
        cut_at_ = now + kForgetTime;  // for what was still on its way in
      }
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
        next_look = end + std::clamp((end - now) * kLookShare, kTick, kLookPauseMax);
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
    for (int i = 0; i < kAcceptsMax; ++i) {
      Address peer;
      const int fd = accept4(listen_.get(), peer.get(), &peer.size, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) {
        if (errno == EINTR || errno == ECONNABORTED) continue;
        return errno == EAGAIN || errno == EWOULDBLOCK;
      }
      if (!HasRoom()) {
        refused_.Add();
        close(fd);
        continue;
      }
      const uint64_t cookie = CookieOf(fd);
      if (cookie != 0) {
        Keep(fd, cookie, peer);
      } else if (!std::exchange(blind_, true)) {
        Log(LogLevel::kWarning, "gRPC connections are not watched: sockets have no SO_COOKIE");
      }
      hand_over_.Push(listen_.get(), fd, cookie);
    }
    return true;  // epoll tells again
  }

  bool HasRoom() {
    if (connections_.size() < options_.connections_max) return true;
    const MonoNanos now = clock_.Now();
    if (now < look_for_room_) return false;
    Forget();
    look_for_room_ = now + kRoomTime;
    return connections_.size() < options_.connections_max;
  }

  void Keep(int fd, uint64_t cookie, const Address& peer) {
    const MonoNanos now = clock_.Now();
    const auto [it, added] = connections_.emplace(
        cookie, Connection{fd, Readable(peer), PeerName(peer), ConnectionBudget(now)});
    it->second.accepted = now;
    by_peer_[it->second.peer] = cookie;
    open_.Set(static_cast<double>(connections_.size()));
    Watch(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLONESHOT, cookie);
  }

  static bool Alive(const Connections::value_type& entry) {
    return CookieOf(entry.second.fd) == entry.first;
  }

  Connections::iterator Drop(Connections::iterator it) {
    awake_ -= it->second.awake ? 1 : 0;
    const auto peer = by_peer_.find(it->second.peer);
    if (peer != by_peer_.end() && peer->second == it->first) by_peer_.erase(peer);
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
        if (connection.socket_id == 0) {
          if (now - connection.accepted > kNameTime && now >= rename_) {
            last_socket_id_ = 0;
            rename_ = now + kRenameTime;
          }
          if (!std::exchange(named, true)) NameNewSockets();
        }
        Judge(cookie, connection, bytes, unread);
      }
      if (now - connection.heard < kQuietTime) continue;
      connection.awake = false;
      --awake_;
      Watch(EPOLL_CTL_MOD, connection.fd, EPOLLIN | EPOLLONESHOT, cookie);
    }
  }

  // Finds the channelz ids of connections that have none, some at a time. Ids only grow.
  void NameNewSockets() {
    const Json page =
        TakeJson(grpc_channelz_get_server_sockets(server_, last_socket_id_ + 1, kNamesPerLook));
    const Json* refs = page.is_object() ? page.Find("socketRef") : nullptr;
    if (refs == nullptr || !refs->is_array()) return;
    for (const Json& ref : refs->array()) {
      last_socket_id_ = Number(ref.Find("socketId"));
      const Json answer = TakeJson(grpc_channelz_get_socket(last_socket_id_));
      const Json* remote = Path(&answer, {"socket", "remote", "tcpip_address"});
      const Json* ip = Path(remote, {"ip_address"});
      if (ip == nullptr || !ip->is_string()) continue;
      const auto peer =
          by_peer_.find(absl::StrCat(ip->string_value(), ":", Number(Path(remote, {"port"}))));
      if (peer != by_peer_.end()) connections_.at(peer->second).socket_id = last_socket_id_;
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
    // It may be gone already; without a descriptor to strike with, the next look tries again.
    connection.cut = Disconnect(connection.fd, cookie);
    if (!connection.cut) return;
    Log(LogLevel::kWarning, "gRPC connection cut: it asked for much and finished nothing",
        {{"peer", std::string_view(connection.address)},
         {"reason", NameOf(verdict)},
         {"streams", sample.streams_started},
         {"bytes", static_cast<int64_t>(sample.bytes_received)}});
    cut_.Add();
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
  HandOver hand_over_;
  std::atomic<bool> stopping_{false};
  std::atomic<MonoNanos> cut_at_{kNever};
  int64_t server_ = 0;
  int64_t last_socket_id_ = 0;
  MonoNanos rename_ = 0;         // when nameless connections may be looked for again
  MonoNanos look_for_room_ = 0;  // when, if every place is taken
  bool blind_ = false;           // said that sockets have no cookies
  Connections connections_;      // by cookie
  std::unordered_map<std::string, uint64_t> by_peer_;  // the newest connection of a peer's name
  int awake_ = 0;                                      // of them
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
absl::Status GrpcListener::Start(std::vector<std::unique_ptr<Acceptor>> acceptors) {
  return state_->Start(std::move(acceptors));
}
void GrpcListener::Drain(MonoNanos cut_at) {
  state_->Drain(cut_at);
}
void GrpcListener::Stop() {
  state_->Stop();
}

}  // namespace millrace::server
