#include "server/net.h"

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <mutex>
#include <thread>
#include <utility>

namespace millrace::server {
namespace {

namespace asio = boost::asio;
using Tcp = asio::ip::tcp;
using ErrorCode = boost::system::error_code;

constexpr size_t kReadBytes = 8 << 10;
// After a failed accept (no descriptors left): the pause before the next.
constexpr auto kAcceptPause = std::chrono::milliseconds(100);

}  // namespace

// Handlers hold it, so that it outlives its Socket by the operations in progress.
struct Socket::State : std::enable_shared_from_this<Socket::State> {
  explicit State(Tcp::socket accepted) : socket(std::move(accepted)) {}

  void Read() {
    if (!want_read || reading || closed) return;
    reading = true;
    socket.async_read_some(asio::buffer(buffer),
                           [self = shared_from_this()](const ErrorCode& error, size_t bytes) {
                             self->OnRead(error, bytes);
                           });
  }

  void OnRead(const ErrorCode& error, size_t bytes) {
    reading = false;
    if (closed || events == nullptr) return;
    if (error) {
      want_read = false;
      events->OnEnd();
      return;
    }
    events->OnRead(std::string_view(buffer.data(), bytes));
    Read();
  }

  void Write(std::string bytes) {
    out = std::move(bytes);
    writing = true;
    asio::async_write(
        socket, asio::buffer(out),
        [self = shared_from_this()](const ErrorCode& error, size_t) { self->OnWritten(error); });
  }

  void OnWritten(const ErrorCode& error) {
    writing = false;
    if (closed || events == nullptr) return;
    if (error) {
      events->OnEnd();
    } else {
      events->OnWritten();
    }
  }

  Tcp::socket socket;
  SocketEvents* events = nullptr;
  std::array<char, kReadBytes> buffer{};
  std::string out;
  bool want_read = false;
  bool reading = false;
  bool writing = false;
  bool closed = false;
};

Socket::Socket(std::shared_ptr<State> state) : state_(std::move(state)) {}
Socket::~Socket() {
  Close();
}
void Socket::SetEvents(SocketEvents* events) {
  state_->events = events;
}
void Socket::StartReading() {
  state_->want_read = true;
  state_->Read();
}
void Socket::StopReading() {
  state_->want_read = false;
}
void Socket::Write(std::string bytes) {
  state_->Write(std::move(bytes));
}
bool Socket::writing() const {
  return state_->writing;
}
void Socket::ShutdownSend() {
  ErrorCode ignored;
  state_->socket.shutdown(Tcp::socket::shutdown_send, ignored);
}
void Socket::Close() {
  if (state_->closed) return;
  state_->closed = true;
  state_->events = nullptr;
  ErrorCode ignored;
  state_->socket.close(ignored);
}

struct IoLoop::State {
  struct Listener {
    Listener(asio::io_context& context) : acceptor(context), pause(context) {}
    Tcp::acceptor acceptor;
    asio::steady_timer pause;
    std::function<void(std::unique_ptr<Socket>)> accept;
    int send_buffer_bytes = 0;
  };
  struct Ticker {
    Ticker(asio::io_context& context) : timer(context) {}
    asio::steady_timer timer;
    std::chrono::nanoseconds period{};
    std::function<void()> tick;
  };

  void Accept(Listener& listener) {
    listener.acceptor.async_accept([this, &listener](const ErrorCode& error, Tcp::socket socket) {
      if (error == asio::error::operation_aborted || !listener.acceptor.is_open()) return;
      if (error) {
        listener.pause.expires_after(kAcceptPause);
        listener.pause.async_wait([this, &listener](const ErrorCode& cancelled) {
          if (!cancelled) Accept(listener);
        });
        return;
      }
      ErrorCode ignored;
      socket.set_option(Tcp::no_delay(true), ignored);
      socket.set_option(asio::socket_base::send_buffer_size(listener.send_buffer_bytes), ignored);
      listener.accept(std::make_unique<Socket>(std::make_shared<Socket::State>(std::move(socket))));
      Accept(listener);
    });
  }

  void Tick(Ticker& ticker) {
    ticker.timer.expires_after(ticker.period);
    ticker.timer.async_wait([this, &ticker](const ErrorCode& cancelled) {
      if (cancelled) return;
      ticker.tick();
      Tick(ticker);
    });
  }

  void RunWakes() {
    {
      std::lock_guard lock(mutex);
      running.swap(woken);
    }
    for (const std::shared_ptr<Wakeable>& target : running) target->OnWake();
    running.clear();
  }

  asio::io_context context{1};
  std::vector<std::unique_ptr<Listener>> listeners;
  std::vector<std::unique_ptr<Ticker>> tickers;
  std::thread thread;
  std::mutex mutex;
  std::vector<std::shared_ptr<Wakeable>> woken;    // guarded by mutex
  bool stopped = false;                            // guarded by mutex
  std::vector<std::shared_ptr<Wakeable>> running;  // the loop's
};

IoLoop::IoLoop() : impl_(std::make_unique<State>()) {}
IoLoop::~IoLoop() {
  Stop();
}

absl::StatusOr<uint16_t> IoLoop::Listen(const ListenOptions& options,
                                        std::function<void(std::unique_ptr<Socket>)> accept) {
  const auto failed = [&](const char* what, const ErrorCode& error) {
    return absl::UnavailableError("cannot " + std::string(what) + " " + options.host + ":" +
                                  std::to_string(options.port) + ": " + error.message());
  };
  ErrorCode error;
  const std::string host = options.host == "localhost" ? "127.0.0.1" : options.host;
  const asio::ip::address address = asio::ip::make_address(host, error);
  if (error) return failed("understand the address", error);
  auto listener = std::make_unique<State::Listener>(impl_->context);
  const Tcp::endpoint endpoint(address, options.port);
  listener->acceptor.open(endpoint.protocol(), error);
  if (!error) listener->acceptor.set_option(Tcp::acceptor::reuse_address(true), error);
  if (!error) listener->acceptor.bind(endpoint, error);
  if (!error) listener->acceptor.listen(options.backlog, error);
  if (error) return failed("listen on", error);
  listener->accept = std::move(accept);
  listener->send_buffer_bytes = options.send_buffer_bytes;
  const uint16_t port = listener->acceptor.local_endpoint().port();
  impl_->listeners.push_back(std::move(listener));
  return port;
}

void IoLoop::Every(MonoNanos period, std::function<void()> tick) {
  auto ticker = std::make_unique<State::Ticker>(impl_->context);
  ticker->period = std::chrono::nanoseconds(period);
  ticker->tick = std::move(tick);
  impl_->tickers.push_back(std::move(ticker));
}

void IoLoop::Start() {
  for (auto& listener : impl_->listeners) impl_->Accept(*listener);
  for (auto& ticker : impl_->tickers) impl_->Tick(*ticker);
  impl_->thread = std::thread([this] {
    const auto work = asio::make_work_guard(impl_->context);
    impl_->context.run();
  });
}

void IoLoop::StopListening() {
  for (auto& listener : impl_->listeners) {
    ErrorCode ignored;
    listener->acceptor.close(ignored);
    listener->pause.cancel();
  }
}

void IoLoop::Stop() {
  impl_->context.stop();
  if (impl_->thread.joinable()) impl_->thread.join();
  // Who was woken may hold this loop: kept, the two would keep each other for ever.
  std::vector<std::shared_ptr<Wakeable>> dropped;
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stopped = true;
    dropped.swap(impl_->woken);
  }
}

void IoLoop::Post(std::function<void()> work) {
  asio::post(impl_->context, std::move(work));
}

void IoLoop::Wake(std::shared_ptr<Wakeable> target) {
  bool first = false;
  {
    std::lock_guard lock(impl_->mutex);
    if (impl_->stopped) return;
    first = impl_->woken.empty();
    impl_->woken.push_back(std::move(target));
  }
  if (first) asio::post(impl_->context, [impl = impl_.get()] { impl->RunWakes(); });
}

}  // namespace millrace::server
