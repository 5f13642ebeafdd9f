#include "server/http_parser.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

namespace millrace::server {
namespace {

namespace http = boost::beast::http;
using ErrorCode = boost::system::error_code;

// A chunk header or a trailer line that does not end within this many bytes is refused.
constexpr size_t kRawBytesMax = 16 << 10;

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

std::string_view View(boost::beast::string_view text) { return {text.data(), text.size()}; }

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

struct HttpParser::Decoder {
  http::request_parser<http::string_body> parser;
  size_t chunks = 0;
  std::function<void(uint64_t, boost::beast::string_view, ErrorCode&)> on_chunk;
};

HttpParser::HttpParser(const HttpParserLimits& limits) : limits_(limits) {}
HttpParser::~HttpParser() = default;

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
      Fail(ErrorKind::kHeadersTooLarge, "The request line is longer than " +
                                            std::to_string(limits_.line_bytes_max) + " bytes");
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
  decoder_ = std::make_unique<Decoder>();
  auto& parser = decoder_->parser;
  parser.eager(true);
  parser.header_limit(static_cast<uint32_t>(head_.size() + kRawBytesMax));
  parser.body_limit(limits_.body_bytes_max);
  decoder_->on_chunk = [this](uint64_t, boost::beast::string_view extension, ErrorCode& error) {
    const bool bad = extension.size() > limits_.chunk_extension_bytes_max;
    if (bad || ++decoder_->chunks > limits_.chunks_max) error = http::error::body_limit;
  };
  parser.on_chunk_header(decoder_->on_chunk);
  ErrorCode error;
  parser.put(boost::asio::buffer(head_), error);
  if (error && error != http::error::need_more) {
    if (error == http::error::body_limit) {
      CheckHead();
      return Fail(ErrorKind::kBodyTooLarge, "The body is longer than " +
                                                std::to_string(limits_.body_bytes_max) + " bytes");
    }
    return Fail(ErrorKind::kBadHttp, "Malformed request");
  }
  if (!parser.is_header_done()) return Fail(ErrorKind::kBadHttp, "Malformed request");
  if (!CheckHead() || !CheckFraming()) return;
  state_ = parser.is_done() ? State::kDone : State::kBody;
  expects_continue_ = state_ == State::kBody && Lower(request_.Header("expect")) == "100-continue";
}

// Copies the head and checks what Beast lets pass. False: failed.
bool HttpParser::CheckHead() {
  const auto& message = decoder_->parser.get();
  request_.method = std::string(View(message.method_string()));
  request_.target = std::string(View(message.target()));
  request_.http11 = message.version() == 11;
  size_t hosts = 0;
  for (const auto& field : message) {
    request_.headers.emplace_back(Lower(View(field.name_string())), std::string(View(field.value())));
    hosts += request_.headers.back().first == "host" ? 1 : 0;
  }
  request_.keep_alive = decoder_->parser.keep_alive();
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
  if (plain && lengths + codings <= 1) return true;
  Fail(ErrorKind::kBadHttp, "The length of the body is not clear");
  return false;
}

size_t HttpParser::FeedBody(std::string_view bytes) {
  auto& parser = decoder_->parser;
  const size_t held = raw_.size();
  raw_ += bytes;
  size_t used = 0;
  ErrorCode error;
  while (!parser.is_done() && used < raw_.size()) {
    error = {};
    const size_t step =
        parser.put(boost::asio::buffer(raw_.data() + used, raw_.size() - used), error);
    used += step;
    if (error == http::error::need_more || (!error && step == 0)) break;
    if (error) break;
  }
  if (error == http::error::body_limit) {
    Fail(ErrorKind::kBodyTooLarge, "The body is longer than " +
                                       std::to_string(limits_.body_bytes_max) +
                                       " bytes, or in too many pieces");
    return bytes.size();
  }
  if (error && error != http::error::need_more) {
    Fail(ErrorKind::kBadHttp, "Malformed body");
    return bytes.size();
  }
  if (parser.is_done()) {
    request_.body = std::move(parser.get().body());
    state_ = State::kDone;
    raw_.clear();
    // Bytes of the next request are not ours.
    return used - held;
  }
  raw_.erase(0, used);
  if (raw_.size() > kRawBytesMax) Fail(ErrorKind::kBadHttp, "A chunk header does not end");
  return bytes.size();
}

HttpRequest HttpParser::Take() {
  HttpRequest taken = std::move(request_);
  if (decoder_ != nullptr && taken.body.empty()) taken.body = std::move(decoder_->parser.get().body());
  request_ = HttpRequest();
  decoder_.reset();
  head_.clear();
  raw_.clear();
  line_begin_ = lines_ = 0;
  started_ = expects_continue_ = false;
  state_ = State::kHead;
  return taken;
}

}  // namespace millrace::server
