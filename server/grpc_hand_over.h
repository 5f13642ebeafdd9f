#pragma once
// Gives accepted sockets to the gRPC library on threads of its own. gRPC 1.51 may go on reading a
// connection inside the call that hands it over, for as long as there is something to read, and a
// flood never ends. It holds a lock of the acceptor meanwhile: so each thread has an acceptor to
// itself. Most of the time one thread does; there are more when one is held.

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "grpcpp/server_builder.h"

namespace millrace::server {

// Thread: the owner's; Push may come from one other between Start and Stop.
class HandOver {
 public:
  using Acceptor = grpc::experimental::ExternalConnectionAcceptor;

  HandOver() = default;
  ~HandOver() { Stop(); }
  HandOver(const HandOver&) = delete;
  HandOver& operator=(const HandOver&) = delete;

  // As many threads as acceptors, at most. False: the system has not even one. REQUIRES: the
  // acceptors are of a server that runs until Stop.
  bool Start(std::vector<std::unique_ptr<Acceptor>> acceptors);
  // Takes the socket `fd` over. Never waits.
  void Push(int listener_fd, int fd, uint64_t cookie);
  // What waits is closed, and what the library has gone on reading for 100 ms disconnected.
  void Stop();

 private:
  struct Connection {
    int listener_fd = -1;
    int fd = -1;  // -1: none
    uint64_t cookie = 0;
  };
  bool AddThread();
  void Run(size_t lane);

  std::vector<std::unique_ptr<Acceptor>> acceptors_;
  std::vector<std::thread> threads_;  // thread i uses acceptor i
  std::mutex mutex_;                  // guards the rest
  std::condition_variable changed_;
  std::deque<Connection> waiting_;
  std::vector<Connection> held_;  // by thread: what the library is being given
  size_t idle_ = 0;
  bool stopping_ = false;
};

}  // namespace millrace::server
