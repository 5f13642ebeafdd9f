#pragma once
// What the kernel tells of a TCP socket, and sockets known by more than their number: a descriptor
// that was closed and opened again as another socket does not pass for the old one.

#include <cstdint>

namespace millrace::server {

// Owns a descriptor. Thread: the owner's.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor() { Close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }  // -1: none
  void Reset(int fd);
  void Close();

 private:
  int fd_;
};

// The kernel's own number of a socket (SO_COOKIE), positive and never used twice. 0: no socket, or
// a kernel that has none of these numbers.
uint64_t CookieOf(int fd);

// Bytes that have come in since the connection began; 0 when the kernel does not say.
uint64_t BytesReceived(int fd);
// Of these, bytes that nobody has read yet.
uint64_t BytesUnread(int fd);

// Ends a connection at once: unlike shutdown, it also drops what waits to be read. Its owner sees
// an error at the next read. False: `fd` is another socket by now, or the process has no descriptor
// left to make sure with. Thread: any, beside the owner's.
bool Disconnect(int fd, uint64_t cookie);

}  // namespace millrace::server
