#pragma once
// For tests: a blocking HTTP/1.1 client on a raw socket, so that tests choose every byte.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace millrace::server::testing {

struct ClientReply {
  int status = 0;                              // 0: the connection ended without an answer
  std::map<std::string, std::string> headers;  // lower case
  std::string body;                            // chunks joined
  int chunks = 0;
  bool complete = false;
};

// Thread: one owner.
class RawClient {
 public:
  // `receive_buffer`: SO_RCVBUF, 0: the system's.
  explicit RawClient(uint16_t port, int receive_buffer = 0);
  ~RawClient();
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool Send(std::string_view bytes);  // false: the peer has closed
  // One answer; ten seconds at most. `head`: it has no body.
  ClientReply Read(bool head = false);
  // At least one more byte, or false at the end or after ten seconds. For streams in progress.
  bool ReadSome(std::string& out);
  bool AtEnd();  // waits for the peer to close
  void Close();
  void Reset();  // closes with RST

 private:
  bool Fill();

  int socket_ = -1;
  std::string buffer_;
};

// "POST path" with a JSON body.
std::string Post(std::string_view path, std::string_view body, std::string_view headers = "");
std::string Get(std::string_view path, std::string_view headers = "");
// The data of each event of an SSE body.
std::vector<std::string> Events(std::string_view body);

}  // namespace millrace::server::testing
