// Bytes to the HTTP/1.1 parser: the same requests come out whole or byte by byte, limits hold, and
// nothing crashes. The first byte chooses the size of the pieces.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "server/http_parser.h"

namespace {

using millrace::server::HttpParser;
using millrace::server::HttpParserLimits;
using millrace::server::HttpRequest;

HttpParserLimits SmallLimits() {
  HttpParserLimits limits;
  limits.line_bytes_max = 64;
  limits.header_bytes_max = 256;
  limits.headers_max = 8;
  limits.body_bytes_max = 200;
  limits.chunks_max = 8;
  limits.chunk_extension_bytes_max = 16;
  return limits;
}

// All requests of a byte stream, each as text, and the status of the refusal at its end (or 0).
std::vector<std::string> Run(std::string_view bytes, size_t step) {
  std::vector<std::string> seen;
  HttpParser parser(SmallLimits());
  while (!bytes.empty()) {
    std::string_view piece = bytes.substr(0, step);
    bytes.remove_prefix(piece.size());
    while (!piece.empty()) {
      const size_t used = parser.Feed(piece);
      CHECK(used <= piece.size());
      piece.remove_prefix(used);
      if (parser.state() == HttpParser::State::kError) {
        seen.push_back(std::to_string(parser.error().shape().http));
        return seen;
      }
      if (parser.state() != HttpParser::State::kDone) {
        CHECK(piece.empty());
        break;
      }
      const HttpRequest request = parser.Take();
      CHECK(request.body.size() <= SmallLimits().body_bytes_max);
      CHECK(request.headers.size() <= SmallLimits().headers_max);
      std::string text = request.method + " " + request.target + "\n" + request.body;
      for (const auto& header : request.headers) {
        CHECK(header.second.find_first_of("\r\n") == std::string::npos);
        text += "\n" + header.first + "=" + header.second;
      }
      seen.push_back(std::move(text));
    }
  }
  return seen;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::vector<std::string> whole = Run(bytes, SIZE_MAX);
  CHECK(Run(bytes, 1) == whole);
  CHECK(Run(bytes, 1 + data[0] % 37) == whole);
  return 0;
}
