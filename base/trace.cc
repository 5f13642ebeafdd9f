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

// simple-key, or tenant "@" system (Trace Context 3.3.1.3.1): lower case, digits and _-*/ .
bool IsStateKey(std::string_view key) {
  const size_t at = key.find('@');
  const auto begins_well = [](std::string_view part, bool digit_too) {
    return !part.empty() &&
           ((part[0] >= 'a' && part[0] <= 'z') || (digit_too && part[0] >= '0' && part[0] <= '9'));
  };
  if (at == std::string_view::npos) {
    if (key.size() > 256 || !begins_well(key, false)) return false;
  } else {
    const std::string_view tenant = key.substr(0, at), system = key.substr(at + 1);
    if (tenant.size() > 241 || system.size() > 14) return false;
    if (!begins_well(tenant, true) || !begins_well(system, false)) return false;
    if (system.find('@') != std::string_view::npos) return false;
  }
  return std::all_of(key.begin(), key.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '*' ||
           c == '/' || c == '@';
  });
}

// Printable ASCII without "," and "=", not ending in a blank.
bool IsStateValue(std::string_view value) {
  if (value.empty() || value.size() > 256 || value.back() == ' ') return false;
  return std::all_of(value.begin(), value.end(),
                     [](char c) { return c >= 0x20 && c < 0x7f && c != ',' && c != '='; });
}

std::string_view TrimBlanks(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// key "=" value, separated by commas; empty members are allowed, a key twice is not.
bool IsTraceState(std::string_view text) {
  if (text.empty() || text.size() > 512) return false;
  std::vector<std::string_view> keys;
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    const std::string_view member = TrimBlanks(text.substr(0, comma));
    text.remove_prefix(std::min(comma + 1, text.size()));
    if (member.empty()) continue;
    const size_t equals = member.find('=');
    if (equals == std::string_view::npos) return false;
    const std::string_view key = member.substr(0, equals);
    if (!IsStateKey(key) || !IsStateValue(member.substr(equals + 1))) return false;
    if (std::find(keys.begin(), keys.end(), key) != keys.end() || keys.size() == 32) return false;
    keys.push_back(key);
  }
  return !keys.empty();
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
