#include "base/utf8.h"

namespace millrace {
namespace {

// What stands at the front of `text`, by the table of well-formed sequences (Unicode 15, table
// 3-7).
struct Front {
  size_t length = 1;  // bytes of the character, or of the maximal invalid subpart
  bool valid = false;
  bool truncated = false;  // a proper prefix of some character, at the end of the text
};

Front ReadFront(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, false};
  const size_t need = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range keeps out overlong forms, surrogates and code points past U+10FFFF.
  const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < need; ++i) {
    if (i == text.size()) return {i, false, true};
    const uint8_t next = byte(i);
    if (next < (i == 1 ? low : 0x80) || next > (i == 1 ? high : 0xBF)) return {i, false, false};
  }
  return {need, true, false};
}

}  // namespace

bool IsValidUtf8(std::string_view text) {
  while (!text.empty()) {
    const Front front = ReadFront(text);
    if (!front.valid) return false;
    text.remove_prefix(front.length);
  }
  return true;
}

size_t CompleteUtf8Prefix(std::string_view text) {
  // Only the last three bytes can begin a character that is not whole.
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const size_t begin = text.size() - back;
    const uint8_t lead = static_cast<uint8_t>(text[begin]);
    if ((lead & 0xC0) == 0x80) continue;  // a continuation byte: its lead is further left
    return ReadFront(text.substr(begin)).truncated ? begin : text.size();
  }
  return text.size();
}

std::string ReplaceInvalidUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Front front = ReadFront(text);
    if (front.valid) {
      out.append(text.substr(0, front.length));
    } else {
      out += "\xEF\xBF\xBD";
    }
    text.remove_prefix(front.length);
  }
  return out;
}

void AppendUtf8(uint32_t code_point, std::string& out) {
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6), put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12), put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18), put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F)), put(0x80 | (code_point & 0x3F));
  }
}

size_t CountCodePoints(std::string_view text) {
  size_t count = 0;
  for (const char c : text) count += (static_cast<uint8_t>(c) & 0xC0) != 0x80;
  return count;
}

}  // namespace millrace
