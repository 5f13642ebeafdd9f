// Requests from bytes: what is taken, what is refused and with which status, however it arrives.
#include "server/http_parser.h"

#include <gtest/gtest.h>

namespace millrace::server {
namespace {

struct Outcome {
  int status = 0;  // 200: a whole request; 0: more is needed; else the refusal's
  std::string body;
  size_t used = 0;
};

Outcome Parse(std::string_view bytes, size_t step) {
  HttpParser parser{HttpParserLimits{}};
  Outcome outcome;
  while (!bytes.empty()) {
    const std::string_view piece = bytes.substr(0, step);
    const size_t used = parser.Feed(piece);
    outcome.used += used;
    bytes.remove_prefix(piece.size());
    if (parser.state() == HttpParser::State::kError) {
      outcome.status = parser.error().shape().http;
      return outcome;
    }
    if (parser.state() == HttpParser::State::kDone) {
      outcome.status = 200;
      outcome.body = parser.Take().body;
      return outcome;
    }
  }
  return outcome;
}

struct Row {
  const char* what;
  std::string bytes;
  int status;
};

std::string Request(std::string_view headers, std::string_view body = "") {
  return "POST /x HTTP/1.1\r\nHost: a\r\n" + std::string(headers) + "\r\n" + std::string(body);
}
std::string Repeat(std::string_view text, size_t count) {
  std::string out;
  for (size_t i = 0; i < count; ++i) out += text;
  return out;
}
std::string Chunked(std::string_view body) {
  return Request("Transfer-Encoding: chunked\r\n", body);
}

std::vector<Row> Rows() {
  using namespace std::string_literals;
  return {
      {"a body", Request("Content-Length: 3\r\n", "abc"), 200},
      {"no body", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200},
      {"GET with a body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 200},
      {"chunks", Chunked("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"), 200},
      {"chunks with a trailer", Chunked("1\r\na\r\n0\r\nX: y\r\n\r\n"), 200},
      {"HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n", 200},
      {"one empty line before", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 200},
      {"two empty lines before", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      // H1-01: framing that two parsers could read differently.
      {"length and coding", Request("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "abc"),
       400},
      {"two lengths", Request("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"), 400},
      {"two equal lengths", Request("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"), 400},
      {"signed length", Request("Content-Length: +5\r\n", "abcde"), 400},
      {"hex length", Request("Content-Length: 0x5\r\n", "abcde"), 400},
      {"length list", Request("Content-Length: 5,5\r\n", "abcde"), 400},
      {"negative length", Request("Content-Length: -5\r\n", "abcde"), 400},
      {"empty length", Request("Content-Length: \r\n", ""), 400},
      {"length of 20 digits", Request("Content-Length: 99999999999999999999\r\n", ""), 400},
      {"unknown coding", Request("Transfer-Encoding: identity\r\n", ""), 400},
      {"coding list", Request("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), 400},
      {"gzip coding", Request("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 400},
      {"unknown coding with a length", Request("Transfer-Encoding: x\r\nContent-Length: 0\r\n", ""),
       400},
      {"two codings",
       Request("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400},
      {"coding in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"space before colon", Request("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), 400},
      {"folded line", Request("X: a\r\n b\r\n"), 400},
      {"folded by tab", Request("X: a\r\n\tb\r\n"), 400},
      {"bare LF", "GET / HTTP/1.1\nHost: a\n\n", 400},
      {"bare LF in headers", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400},
      {"bare CR", "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400},
      {"NUL", Request("X: a\0b\r\n"s), 400},
      {"control character", Request("X: a\x01\r\n"), 400},
      {"no colon", Request("Nonsense\r\n"), 400},
      {"empty name", Request(": x\r\n"), 400},
      // H1-03: chunks.
      {"negative chunk", Chunked("-2\r\nab\r\n0\r\n\r\n"), 400},
      {"chunk size overflow", Chunked("FFFFFFFFFFFFFFFF\r\nab\r\n"), 413},
      {"chunk size of 17 digits", Chunked("10000000000000000\r\nab\r\n"), 400},
      {"chunk size not hex", Chunked("xyz\r\n"), 400},
      {"chunk without its CR LF", Chunked("2\r\nabXX0\r\n\r\n"), 400},
      {"extension of 1 MiB", Chunked("1;" + std::string(1 << 20, 'x') + "\r\na\r\n0\r\n\r\n"), 413},
      {"extension of 2 kB", Chunked("1;x=" + std::string(2048, 'x') + "\r\na\r\n0\r\n\r\n"), 413},
      {"65,536 chunks", Chunked(Repeat("1\r\na\r\n", 65'535) + "0\r\n\r\n"), 200},
      {"too many chunks", Chunked(Repeat("1\r\na\r\n", 65'537) + "0\r\n\r\n"), 413},
      {"trailer without end", Chunked("0\r\nX: " + std::string(40'000, 'y')), 431},
      // H1-04 and the limits, each at its border.
      {"longest line", "GET /" + std::string(8192 - 14, 'a') + " HTTP/1.1\r\nHost: a\r\n\r\n", 200},
      {"line too long", "GET /" + std::string(8192 - 13, 'a') + " HTTP/1.1\r\nHost: a\r\n\r\n",
       431},
      {"line without end", std::string(20'000, 'a'), 431},
      {"100 headers", Request(Repeat("X: y\r\n", 99)), 200},
      {"101 headers", Request(Repeat("X: y\r\n", 100)), 431},
      {"longest headers", Request("X: " + std::string(16'384 - 14, 'y') + "\r\n"), 200},
      {"headers too long", Request("X: " + std::string(16'384 - 13, 'y') + "\r\n"), 431},
      {"10^5 headers", Request(Repeat("X: y\r\n", 100'000)), 431},
      {"header without end", "GET / HTTP/1.1\r\nHost: a\r\nX: " + std::string(1 << 20, 'x'), 431},
      {"longest body", Request("Content-Length: 8388608\r\n", std::string(8 << 20, 'b')), 200},
      {"body too long", Request("Content-Length: 8388609\r\n"), 413},
      {"chunked body too long", Chunked("800001\r\n"), 413},
      {"length of 2^63", Request("Content-Length: 9223372036854775808\r\n"), 413},
      // H1-10, H1-11.
      {"HTTP/0.9", "GET /\r\n", 400},
      {"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
      {"HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400},
      {"TLS hello", "\x16\x03\x01\x02\x00"s, 400},
      {"no Host", "GET / HTTP/1.1\r\nX: y\r\n\r\n", 400},
      {"empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400},
      {"two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400},
      {"Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
      {"two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"tab in the line", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"unfinished", "GET / HTTP/1.1\r\nHost: a\r\n", 0},
      {"unfinished body", Request("Content-Length: 3\r\n", "ab"), 0},
  };
}

TEST(HttpParser, EveryRowHoweverItArrives) {
  for (const Row& row : Rows()) {
    for (const size_t step : {size_t{1} << 30, size_t{4096}, size_t{7}, size_t{1}}) {
      if (row.bytes.size() > 300'000 && step < 4096) continue;
      EXPECT_EQ(Parse(row.bytes, step).status, row.status) << row.what << ", by " << step;
    }
  }
}

TEST(HttpParser, BodiesAreWhole) {
  EXPECT_EQ(Parse(Chunked("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"), 1).body, "abcde");
  EXPECT_EQ(Parse(Request("Content-Length: 5\r\n", "abcde"), 2).body, "abcde");
}

TEST(HttpParser, BytesOfTheNextRequestAreLeft) {
  const std::string first = Chunked("3\r\nabc\r\n0\r\n\r\n");
  const std::string both = first + "GET / HTTP/1.1\r\n";
  EXPECT_EQ(Parse(both, both.size()).used, first.size());
  const std::string plain = Request("Content-Length: 3\r\n", "abc");
  EXPECT_EQ(Parse(plain + "GET", plain.size() + 3).used, plain.size());
  const std::string bare = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
  EXPECT_EQ(Parse(bare + bare, 2 * bare.size()).used, bare.size());
}

TEST(HttpParser, TrailersCannotChangeHeaders) {
  HttpParser parser{HttpParserLimits{}};
  parser.Feed(Chunked("1\r\na\r\n0\r\nAuthorization: Bearer x\r\n\r\n"));
  ASSERT_EQ(parser.state(), HttpParser::State::kDone);
  EXPECT_EQ(parser.Take().Header("authorization"), "");
}

TEST(HttpParser, ContinueIsAskedForOnce) {
  HttpParser parser{HttpParserLimits{}};
  parser.Feed(Request("Content-Length: 3\r\nExpect: 100-continue\r\n"));
  EXPECT_TRUE(parser.TakeContinue());
  EXPECT_FALSE(parser.TakeContinue());
  parser.Feed("abc");
  ASSERT_EQ(parser.state(), HttpParser::State::kDone);
  EXPECT_EQ(parser.Take().body, "abc");
}

TEST(HttpParser, KeepAliveAsTheVersionsSay) {
  const auto keeps = [](std::string_view bytes) {
    HttpParser parser{HttpParserLimits{}};
    parser.Feed(bytes);
    return parser.Take().keep_alive;
  };
  EXPECT_TRUE(keeps("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
  EXPECT_FALSE(keeps("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
  EXPECT_FALSE(keeps("GET / HTTP/1.0\r\n\r\n"));
}

}  // namespace
}  // namespace millrace::server
