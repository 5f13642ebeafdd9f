#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>

namespace millrace::text {

Character CharacterAt(std::string_view text, size_t at) {
  if (at >= text.size()) return {};
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data()) + at;
  const size_t rest = text.size() - at;
  const unsigned lead = bytes[0];
  if (lead < 0x80) return {lead, 1, true};
  const Character bad = {lead, 1, false};
  const auto tail = [&](size_t i) { return i < rest && (bytes[i] & 0xc0) == 0x80; };
  if (lead < 0xc2) return bad;
  if (lead < 0xe0) {
    if (!tail(1)) return bad;
    return {(lead & 0x1fu) << 6 | (bytes[1] & 0x3fu), 2, true};
  }
  if (lead < 0xf0) {
    if (!tail(1) || !tail(2)) return bad;
    const uint32_t c = (lead & 0x0fu) << 12 | (bytes[1] & 0x3fu) << 6 | (bytes[2] & 0x3fu);
    // Overlong forms and surrogates are no characters.
    return c < 0x800 || (c >= 0xd800 && c < 0xe000) ? bad : Character{c, 3, true};
  }
  if (lead > 0xf4 || !tail(1) || !tail(2) || !tail(3)) return bad;
  const uint32_t c = (lead & 0x07u) << 18 | (bytes[1] & 0x3fu) << 12 | (bytes[2] & 0x3fu) << 6 |
                     (bytes[3] & 0x3fu);
  return c < 0x10000 || c > 0x10ffff ? bad : Character{c, 4, true};
}

Character CharacterBefore(std::string_view text, size_t end) {
  if (end == 0) return {};
  for (size_t length = 1; length <= std::min<size_t>(4, end); ++length) {
    const Character c = CharacterAt(text.substr(0, end), end - length);
    if (c.valid && c.length == length) return c;
  }
  return {static_cast<unsigned char>(text[end - 1]), 1, false};
}

bool IsWhiteSpace(uint32_t c) {
  // Unicode PropList.txt.
  return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool IsWordCharacter(uint32_t c) {
  if (c == 0x200c || c == 0x200d) return true;
  if (c >= 0x24b6 && c <= 0x24e9) return true;  // circled letters are alphabetic symbols
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

}  // namespace millrace::text
