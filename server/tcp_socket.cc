#include "server/tcp_socket.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

namespace millrace::server {

void Descriptor::Reset(int fd) {
  Close();
  fd_ = fd;
}

void Descriptor::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

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

bool Disconnect(int fd, uint64_t cookie) {
  // A copy cannot become another socket between the look at its cookie and the blow.
  if (cookie == 0) return false;
  const Descriptor copy(dup(fd));
  if (copy.get() < 0 || CookieOf(copy.get()) != cookie) return false;
  const sockaddr nobody{AF_UNSPEC, {}};
  return connect(copy.get(), &nobody, sizeof(nobody)) == 0;
}

}  // namespace millrace::server
