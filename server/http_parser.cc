#include "server/http_parser.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <charconv>

namespace millrace::server {
namespace {

namespace http = boost::beast::http;
using ErrorCode = boost::system::error_code;

// Digits of a chunk size: 16 hold 64 bits.
constexpr size_t kChunkDigitsMax = 16;

std::string Lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  }
  return out;
}

bool AllDigits(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::string_view View(boost::beast::string_view text) {
  return {text.data(), text.size()};
}

bool EndsWith(std::string_view text, std::string_view tail) {
  return text.size() >= tail.size() && text.substr(text.size() - tail.size()) == tail;
}

}  // namespace

std::string_view HttpRequest::Header(std::string_view name) const {
  for (const auto& header : headers) {
    if (header.first == name) return header.second;
  }
  return {};
}

HttpParser::HttpParser(const HttpParserLimits& limits) : limits_(limits) {}

void HttpParser::Fail(ErrorKind kind, std::string message) {
  state_ = State::kError;
  error_.kind = kind;
  error_.message = std::move(message);
}

bool HttpParser::TakeContinue() {
  const bool wanted = expects_continue_ && state_ == State::kBody && request_.body.empty();
  expects_continue_ = false;
  return wanted;
}

size_t HttpParser::Feed(std::string_view bytes) {
  size_t taken = 0;
  if (state_ == State::kHead) taken = FeedHead(bytes);
  if (state_ == State::kBody) taken += FeedBody(bytes.substr(taken));
  return taken;
}

// Checks every byte as it comes, so that a bad request is answered at once and not at its time-out.
size_t HttpParser::FeedHead(std::string_view bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    const auto c = static_cast<unsigned char>(bytes[i]);
    // One empty line before a request is allowed (RFC 9112, 2.2).
    if (!started_ && (c == '\r' || c == '\n') && head_.size() < 2) {
      head_ += static_cast<char>(c);
      if (head_ == "\r\n") started_ = true, head_.clear();
      if (head_ == "\n") Fail(ErrorKind::kBadHttp, "Lines must end in CR LF");
      if (state_ == State::kError) return i + 1;
      continue;
    }
    started_ = true;
    head_ += static_cast<char>(c);
    if (c == '\n') {
      if (head_.size() < 2 || head_[head_.size() - 2] != '\r') {
        Fail(ErrorKind::kBadHttp, "Lines must end in CR LF");
        return i + 1;
      }
      const std::string_view line(head_.data() + line_begin_, head_.size() - line_begin_ - 2);
      if (lines_ == 0 && !EndsWith(line, " HTTP/1.1") && !EndsWith(line, " HTTP/1.0")) {
        Fail(ErrorKind::kBadHttp, "Only HTTP/1.1 and HTTP/1.0 are spoken here");
        return i + 1;
      }
      if (line.empty()) {
        FinishHead();
        return i + 1;
      }
      if (lines_ > 0 && (line[0] == ' ' || line[0] == '\t')) {
        Fail(ErrorKind::kBadHttp, "Folded header lines are refused");
        return i + 1;
      }
      if (lines_ == 0 && line.size() > limits_.line_bytes_max) {
        FailLineTooLong();
        return i + 1;
      }
      ++lines_;
      line_begin_ = head_.size();
    } else if ((c < 0x20 && c != '\t' && c != '\r') || c == 0x7f) {
      Fail(ErrorKind::kBadHttp, "Control characters are refused");
      return i + 1;
    } else if (head_.size() >= 2 && head_[head_.size() - 2] == '\r') {
      Fail(ErrorKind::kBadHttp, "Lines must end in CR LF");
      return i + 1;
    }
    if (lines_ == 0 && head_.size() > limits_.line_bytes_max + 2) {
      FailLineTooLong();
      return i + 1;
    }
    if (lines_ > limits_.headers_max + 1 ||
        head_.size() > limits_.line_bytes_max + limits_.header_bytes_max) {
      Fail(ErrorKind::kHeadersTooLarge, "More than " + std::to_string(limits_.headers_max) +
                                            " headers or " +
                                            std::to_string(limits_.header_bytes_max) + " bytes");
      return i + 1;
    }
  }
  return bytes.size();
}

void HttpParser::FinishHead() {
  const size_t first_line = head_.find("\r\n") + 2;
  if (head_.size() - first_line > limits_.header_bytes_max + 2) {
    return Fail(ErrorKind::kHeadersTooLarge,
                "More than " + std::to_string(limits_.header_bytes_max) + " bytes of headers");
  }
  http::request_parser<http::empty_body> parser;
  parser.header_limit(static_cast<uint32_t>(head_.size() + 1));
  parser.body_limit(boost::none);  // ours to check
  ErrorCode error;
  parser.put(boost::asio::buffer(head_), error);
  if ((error && error != http::error::need_more) || !parser.is_header_done()) {
    return Fail(ErrorKind::kBadHttp, "Malformed request");
  }
  const auto& message = parser.get();
  request_.method = std::string(View(message.method_string()));
  request_.target = std::string(View(message.target()));
  request_.http11 = message.version() == 11;
  request_.keep_alive = parser.keep_alive();
  for (const auto& field : message) {
    request_.headers.emplace_back(Lower(View(field.name_string())),
                                  std::string(View(field.value())));
  }
  if (!CheckHost() || !CheckFraming()) return;
  state_ = chunked_ || length_left_ > 0 ? State::kBody : State::kDone;
  expects_continue_ = state_ == State::kBody && Lower(request_.Header("expect")) == "100-continue";
}

bool HttpParser::CheckHost() {
  size_t hosts = 0;
  for (const auto& header : request_.headers) hosts += header.first == "host" ? 1 : 0;
  const std::string_view host = request_.Header("host");
  if (hosts > 1 || (request_.http11 && (hosts == 0 || host.empty())) ||
      host.find_first_of(" \t,/@") != std::string_view::npos) {
    Fail(ErrorKind::kBadHttp, "Exactly one Host header is needed");
    return false;
  }
  return true;
}

bool HttpParser::CheckFraming() {
  size_t lengths = 0;
  size_t codings = 0;
  bool plain = true;
  for (const auto& [name, value] : request_.headers) {
    if (name == "content-length") {
      ++lengths;
      plain = plain && AllDigits(value) && value.size() <= 19;
    } else if (name == "transfer-encoding") {
      ++codings;
      plain = plain && Lower(value) == "chunked" && request_.http11;
    }
  }
  if (!plain || lengths + codings > 1) {
    Fail(ErrorKind::kBadHttp, "The length of the body is not clear");
    return false;
  }
  chunked_ = codings == 1;
  const std::string_view length = request_.Header("content-length");
  // At most 19 digits: no overflow in 64 bits without a sign.
  for (const char digit : length)
    length_left_ = length_left_ * 10 + static_cast<uint64_t>(digit - '0');
  if (length_left_ > limits_.body_bytes_max) {
    FailTooLong();
    return false;
  }
  return true;
}

void HttpParser::FailLineTooLong() {
  Fail(ErrorKind::kHeadersTooLarge,
       "The request line is longer than " + std::to_string(limits_.line_bytes_max) + " bytes");
}

void HttpParser::FailTooLong() {
  Fail(ErrorKind::kBodyTooLarge, "The body is longer than " +
                                     std::to_string(limits_.body_bytes_max) +
                                     " bytes, or in too many pieces");
}

// Beast's own chunk decoder asserts on a last chunk that comes byte by byte (Boost 1.81,
// basic_parser.ipp:702), which a client must not be able to do to us; and it has no limits on
// extensions and trailers.
size_t HttpParser::FeedBody(std::string_view bytes) {
  size_t used = 0;
  while (used < bytes.size() && state_ == State::kBody) {
    if (length_left_ > 0) {
      const size_t take = std::min<uint64_t>(length_left_, bytes.size() - used);
      request_.body.append(bytes.substr(used, take));
      used += take;
      length_left_ -= take;
      if (length_left_ == 0 && !chunked_) state_ = State::kDone;
      continue;
    }
    FeedChunkLine(bytes[used++]);
  }
  return used;
}

// One byte of a line between chunk data: its end, a size, or a trailer.
void HttpParser::FeedChunkLine(char c) {
  const bool after_cr = !line_.empty() && line_.back() == '\r';
  line_ += c;
  if ((c == '\n') != after_cr) return Fail(ErrorKind::kBadHttp, "Lines must end in CR LF");
  const auto byte = static_cast<unsigned char>(c);
  if ((byte < 0x20 && c != '\t' && c != '\r' && c != '\n') || byte == 0x7f) {
    return Fail(ErrorKind::kBadHttp, "Control characters are refused");
  }
  if (c != '\n') {
    const bool trailer = part_ == ChunkPart::kTrailer;
    if (trailer && trailer_bytes_ + line_.size() > limits_.header_bytes_max) {
      return Fail(ErrorKind::kHeadersTooLarge, "The trailers are too long");
    }
    if (!trailer && line_.size() > kChunkDigitsMax + limits_.chunk_extension_bytes_max) {
      return FailTooLong();
    }
    return;
  }
  const std::string line = line_.substr(0, line_.size() - 2);
  line_.clear();
  switch (part_) {
    case ChunkPart::kDataEnd:
      part_ = ChunkPart::kSize;
      if (!line.empty()) Fail(ErrorKind::kBadHttp, "A chunk is longer than it says");
      return;
    case ChunkPart::kSize:
      return BeginChunk(line);
    case ChunkPart::kTrailer:
      if (line.empty()) {
        state_ = State::kDone;
      } else if (line[0] == ' ' || line[0] == '\t' || line.find(':') == std::string::npos) {
        Fail(ErrorKind::kBadHttp, "Malformed trailer");
      }
      // What trailers say is ignored: they cannot change what the headers have said.
      trailer_bytes_ += line.size() + 2;
      return;
  }
}

void HttpParser::BeginChunk(std::string_view line) {
  uint64_t size = 0;
  const auto parsed = std::from_chars(line.data(), line.data() + line.size(), size, 16);
  const auto digits = static_cast<size_t>(parsed.ptr - line.data());
  const bool extension_follows = digits == line.size() || line[digits] == ';';
  if (parsed.ec != std::errc() || digits > kChunkDigitsMax || !extension_follows ||
      line[0] == '-') {
    return Fail(ErrorKind::kBadHttp, "Malformed chunk size");
  }
  if (size > limits_.body_bytes_max - request_.body.size() || ++chunks_ > limits_.chunks_max) {
    return FailTooLong();
  }
  length_left_ = size;
  part_ = size == 0 ? ChunkPart::kTrailer : ChunkPart::kDataEnd;
}

HttpRequest HttpParser::Take() {
  HttpRequest taken = std::move(request_);
  *this = HttpParser(limits_);
  return taken;
}

}  // namespace millrace::server
