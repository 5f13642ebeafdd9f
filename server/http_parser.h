#pragma once
// HTTP/1.1 requests from bytes. Beast reads heads; this door is stricter than Beast where leniency
// has let requests be smuggled elsewhere: bare LF, folded lines, control characters, unknown
// transfer codings, odd lengths and a missing or doubled Host are refused.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/api_error.h"

namespace millrace::server {

struct HttpParserLimits {
  size_t line_bytes_max = 8 << 10;
  size_t header_bytes_max = 16 << 10;
  size_t headers_max = 100;
  size_t body_bytes_max = 8 << 20;
  size_t chunks_max = 65'536;
  size_t chunk_extension_bytes_max = 1 << 10;
};

struct HttpRequest {
  std::string method;
  std::string target;                                        // as sent
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;
  bool http11 = true;
  bool keep_alive = true;

  // The first with this name (lower case), or "".
  std::string_view Header(std::string_view name) const;
};

// Thread: one owner at a time.
class HttpParser {
 public:
  explicit HttpParser(const HttpParserLimits& limits);

  enum class State { kHead, kBody, kDone, kError };
  // Takes bytes up to the end of one request and returns how many; none when done or in error.
  size_t Feed(std::string_view bytes);
  State state() const { return state_; }
  // A byte of the current request has come.
  bool started() const { return started_; }
  // True once, when the client waits for "100 Continue" before it sends the body.
  bool TakeContinue();
  // REQUIRES: kDone. Begins the next request.
  HttpRequest Take();
  // REQUIRES: kError.
  const ApiError& error() const { return error_; }
  // What is known of a request in error: its headers, when they were whole.
  const HttpRequest& partial() const { return request_; }

 private:
  // Which line of a chunked body comes next.
  enum class ChunkPart { kSize, kDataEnd, kTrailer };
  size_t FeedHead(std::string_view bytes);
  size_t FeedBody(std::string_view bytes);
  void FeedChunkLine(char c);
  void BeginChunk(std::string_view line);
  void FinishHead();
  bool CheckHost();
  bool CheckFraming();
  void Fail(ErrorKind kind, std::string message);
  void FailTooLong();
  void FailLineTooLong();

  HttpParserLimits limits_;
  State state_ = State::kHead;
  bool started_ = false;
  bool expects_continue_ = false;
  std::string head_;
  size_t line_begin_ = 0;  // of the line that is being read
  size_t lines_ = 0;
  // Of the body.
  bool chunked_ = false;
  uint64_t length_left_ = 0;  // of the body, or of the current chunk
  ChunkPart part_ = ChunkPart::kSize;
  std::string line_;
  size_t chunks_ = 0;
  size_t trailer_bytes_ = 0;
  HttpRequest request_;
  ApiError error_;
};

}  // namespace millrace::server
