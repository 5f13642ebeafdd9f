#include "server/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

#include "base/check.h"

namespace millrace::server::testing {
namespace {
constexpr int kPatienceMs = 20'000;
}

RawClient::RawClient(uint16_t port, int receive_buffer) {
  socket_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(socket_ >= 0);
  if (receive_buffer > 0) {
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  CHECK(::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
}

RawClient::~RawClient() {
  Close();
}

void RawClient::Close() {
  if (socket_ >= 0) ::close(socket_);
  socket_ = -1;
}

void RawClient::Reset() {
  const linger now{1, 0};
  ::setsockopt(socket_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  Close();
}

bool RawClient::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

bool RawClient::Fill() {
  pollfd wait{socket_, POLLIN, 0};
  if (::poll(&wait, 1, kPatienceMs) <= 0) return false;
  char bytes[16 << 10];
  const ssize_t got = ::recv(socket_, bytes, sizeof(bytes), 0);
  if (got <= 0) return false;
  buffer_.append(bytes, static_cast<size_t>(got));
  return true;
}

bool RawClient::ReadSome(std::string& out) {
  if (buffer_.empty() && !Fill()) return false;
  out += buffer_;
  buffer_.clear();
  return true;
}

bool RawClient::AtEnd() {
  while (Fill()) {
  }
  char byte = 0;
  return ::recv(socket_, &byte, 1, MSG_DONTWAIT) == 0 || errno != EAGAIN;
}

ClientReply RawClient::Read(bool head) {
  ClientReply reply;
  size_t end = 0;
  while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
    if (!Fill()) return reply;
  }
  const std::string text = buffer_.substr(0, end + 2);
  buffer_.erase(0, end + 4);
  reply.status = std::atoi(text.c_str() + 9);
  for (size_t at = text.find("\r\n") + 2; at < text.size();) {
    const size_t stop = text.find("\r\n", at);
    const size_t colon = text.find(": ", at);
    reply.headers[text.substr(at, colon - at)] = text.substr(colon + 2, stop - colon - 2);
    at = stop + 2;
  }
  if (head || reply.status == 100) {
    reply.complete = true;
    return reply;
  }
  if (reply.headers.count("transfer-encoding") == 0) {
    const auto size = static_cast<size_t>(std::atoll(reply.headers["content-length"].c_str()));
    while (buffer_.size() < size && Fill()) {
    }
    reply.complete = buffer_.size() >= size;
    reply.body = buffer_.substr(0, size);
    buffer_.erase(0, size);
    return reply;
  }
  while (true) {
    size_t line = 0;
    while ((line = buffer_.find("\r\n")) == std::string::npos) {
      if (!Fill()) return reply;
    }
    const size_t size = std::strtoul(buffer_.c_str(), nullptr, 16);
    while (buffer_.size() < line + 2 + size + 2) {
      if (!Fill()) return reply;
    }
    reply.body += buffer_.substr(line + 2, size);
    buffer_.erase(0, line + 2 + size + 2);
    if (size == 0) break;
    ++reply.chunks;
  }
  reply.complete = true;
  return reply;
}

std::string Post(std::string_view path, std::string_view body, std::string_view headers) {
  return "POST " + std::string(path) + " HTTP/1.1\r\nHost: localhost\r\n" + std::string(headers) +
         "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + std::string(body);
}

std::string Get(std::string_view path, std::string_view headers) {
  return "GET " + std::string(path) + " HTTP/1.1\r\nHost: localhost\r\n" + std::string(headers) +
         "\r\n";
}

std::vector<std::string> Events(std::string_view body) {
  std::vector<std::string> events;
  while (body.substr(0, 6) == "data: ") {
    const size_t end = body.find("\n\n");
    if (end == std::string_view::npos) break;
    events.emplace_back(body.substr(6, end - 6));
    body.remove_prefix(end + 2);
  }
  if (!body.empty()) events.emplace_back("LEFT OVER: " + std::string(body));
  return events;
}

}  // namespace millrace::server::testing
