#pragma once
// Sockets as bytes and callbacks. Asio stays in net.cc: its headers cost seconds a file.
//
// Everything of a socket happens on its loop's thread. Wake is the one way in from other threads.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"

namespace millrace::server {

// What a socket tells its owner. Thread: the loop's.
class SocketEvents {
 public:
  virtual ~SocketEvents() = default;
  virtual void OnRead(std::string_view bytes) = 0;
  // The peer has closed its side, or the connection broke: nothing more will be read.
  virtual void OnEnd() = 0;
  // The last Write is with the kernel.
  virtual void OnWritten() = 0;
};

// A connected TCP socket. Thread: the loop's.
class Socket {
 public:
  struct State;  // in net.cc
  explicit Socket(std::shared_ptr<State> state);
  ~Socket();  // closes

  void SetEvents(SocketEvents* events);
  // Reads until StopReading. Bytes already on the way may still come after it.
  void StartReading();
  void StopReading();
  // REQUIRES: no write is in progress.
  void Write(std::string bytes);
  bool writing() const;
  // No more writes; what was written still goes out.
  void ShutdownSend();
  // At once. No event comes after it.
  void Close();

 private:
  std::shared_ptr<State> state_;
};

// Something that other threads may call to the loop. Thread: OnWake on the loop's.
class Wakeable {
 public:
  virtual ~Wakeable() = default;
  virtual void OnWake() = 0;
};

struct ListenOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 0;  // 0: any free one
  int backlog = 4096;
  // Of accepted sockets. Bounds what a client that does not read makes the kernel keep.
  int send_buffer_bytes = 128 << 10;
};

// One thread that waits for sockets. Thread: any for Wake, Post and Stop; the owner's for the rest.
class IoLoop {
 public:
  IoLoop();
  ~IoLoop();
  IoLoop(const IoLoop&) = delete;
  IoLoop& operator=(const IoLoop&) = delete;

  // Before Start. Returns the port. Unavailable names the address and why.
  absl::StatusOr<uint16_t> Listen(const ListenOptions& options,
                                  std::function<void(std::unique_ptr<Socket>)> accept);
  // Calls `tick` on the loop's thread about every `period`. Before Start.
  void Every(MonoNanos period, std::function<void()> tick);
  void Start();
  // No new connections; on the loop's thread.
  void StopListening();
  // Ends the thread; what is queued is dropped.
  void Stop();

  void Post(std::function<void()> work);
  // OnWake runs soon, once for all calls before it. Many wakes cost one system call.
  void Wake(std::shared_ptr<Wakeable> target);

 private:
  struct State;
  std::unique_ptr<State> impl_;
};

}  // namespace millrace::server
