#include "base/trace.h"

#include <algorithm>

namespace millrace {
namespace {

int HexDigit(char c) {  // Lower case only, as the specification wants.
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

template <size_t kBytes>
bool ReadHex(std::string_view text, std::array<uint8_t, kBytes>& out) {
  for (size_t i = 0; i < kBytes; ++i) {
    const int high = HexDigit(text[2 * i]), low = HexDigit(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    out[i] = static_cast<uint8_t>(high << 4 | low);
  }
  return true;
}

template <size_t kBytes>
void AppendHex(const std::array<uint8_t, kBytes>& bytes, std::string& out) {
  static constexpr char kHex[] = "0123456789abcdef";
  for (const uint8_t byte : bytes) out += kHex[byte >> 4], out += kHex[byte & 15];
}

template <size_t kBytes>
bool AllZero(const std::array<uint8_t, kBytes>& bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t b) { return b == 0; });
}

// Printable ASCII, at most 512 bytes and 32 entries. What the entries say is not ours to judge.
bool IsTraceState(std::string_view text) {
  if (text.empty() || text.size() > 512) return false;
  if (std::count(text.begin(), text.end(), ',') >= 32) return false;
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

}  // namespace

std::string TraceContext::ToTraceparent() const {
  std::string out = "00-";
  AppendHex(trace_id, out);
  out += '-';
  AppendHex(span_id, out);
  out += '-';
  AppendHex(std::array<uint8_t, 1>{flags}, out);
  return out;
}

// version "-" trace-id "-" parent-id "-" flags: 2, 32, 16 and 2 hex digits. A version above 00 may
// have more after that, from a "-" on; version ff is forbidden.
std::optional<TraceContext> ParseTraceContext(std::string_view traceparent,
                                              std::string_view tracestate) {
  constexpr size_t kLength = 55;
  if (traceparent.size() < kLength || traceparent.size() > 512) return std::nullopt;
  if (traceparent[2] != '-' || traceparent[35] != '-' || traceparent[52] != '-')
    return std::nullopt;
  std::array<uint8_t, 1> version, flags;
  TraceContext context;
  if (!ReadHex(traceparent.substr(0, 2), version) || version[0] == 0xff ||
      !ReadHex(traceparent.substr(3, 32), context.trace_id) ||
      !ReadHex(traceparent.substr(36, 16), context.span_id) ||
      !ReadHex(traceparent.substr(53, 2), flags)) {
    return std::nullopt;
  }
  if (traceparent.size() > kLength && (version[0] == 0 || traceparent[kLength] != '-')) {
    return std::nullopt;
  }
  if (AllZero(context.trace_id) || AllZero(context.span_id)) return std::nullopt;
  context.flags = flags[0] & 1;  // Only "sampled" is defined.
  if (IsTraceState(tracestate)) context.trace_state = std::string(tracestate);
  return context;
}

}  // namespace millrace
