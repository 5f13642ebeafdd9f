#include "text/jinja_chars.h"

#include <utf8proc.h>

#include "base/utf8.h"

namespace millrace::text {
namespace {

utf8proc_category_t Category(uint32_t code_point) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
}

// Decodes the first character. Length 1 and U+FFFD for an invalid byte.
uint32_t Decode(std::string_view text, size_t& length) {
  utf8proc_int32_t code_point = 0;
  const utf8proc_ssize_t n = utf8proc_iterate(
      reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
      static_cast<utf8proc_ssize_t>(text.size() < 4 ? text.size() : 4), &code_point);
  if (n <= 0) {
    length = 1;
    return 0xfffd;
  }
  length = static_cast<size_t>(n);
  return static_cast<uint32_t>(code_point);
}

// Mappings to several characters, of Unicode's SpecialCasing.txt.
struct Growing {
  uint32_t code_point;
  const char* upper;
  const char* title;
};
constexpr Growing kGrowing[] = {
    {0xdf, "SS", "Ss"},
    {0x149, "\u02bcN", "\u02bcN"},
    {0x1f0, "J\u030c", "J\u030c"},
    {0x587, "\u0535\u0552", "\u0535\u0582"},
    {0xfb00, "FF", "Ff"},
    {0xfb01, "FI", "Fi"},
    {0xfb02, "FL", "Fl"},
    {0xfb03, "FFI", "Ffi"},
    {0xfb04, "FFL", "Ffl"},
    {0xfb05, "ST", "St"},
    {0xfb06, "ST", "St"},
};

}  // namespace

size_t CharLength(std::string_view text) {
  if (text.empty()) return 0;
  if (static_cast<unsigned char>(text[0]) < 0x80) return 1;
  size_t length = 0;
  Decode(text, length);
  return length;
}

uint32_t FirstCodePoint(std::string_view text) {
  if (static_cast<unsigned char>(text[0]) < 0x80) return static_cast<unsigned char>(text[0]);
  size_t length = 0;
  return Decode(text, length);
}

size_t CountChars(std::string_view text) {
  size_t count = 0;
  for (size_t at = 0; at < text.size(); at += CharLength(text.substr(at))) ++count;
  return count;
}

size_t SpaceLength(std::string_view text) {
  if (text.empty()) return 0;
  const unsigned char c = static_cast<unsigned char>(text[0]);
  if (c < 0x80) return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) ? 1 : 0;
  size_t length = 0;
  const uint32_t u = Decode(text, length);
  const bool space = u == 0x85 || u == 0xa0 || u == 0x1680 || (u >= 0x2000 && u <= 0x200a) ||
                     u == 0x2028 || u == 0x2029 || u == 0x202f || u == 0x205f || u == 0x3000;
  return space ? length : 0;
}

namespace {
// The start of the last character of `text`, which is not empty.
size_t LastChar(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && text.size() - at < 4 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) {
    --at;
  }
  return at + CharLength(text.substr(at)) == text.size() ? at : text.size() - 1;
}

template <typename InSet>
std::string_view Trim(std::string_view text, bool left, bool right, InSet in_set) {
  while (left && !text.empty()) {
    const std::string_view first = text.substr(0, CharLength(text));
    if (!in_set(first)) break;
    text.remove_prefix(first.size());
  }
  while (right && !text.empty()) {
    const std::string_view last = text.substr(LastChar(text));
    if (!in_set(last)) break;
    text.remove_suffix(last.size());
  }
  return text;
}
}  // namespace

std::string_view TrimSpace(std::string_view text, bool left, bool right) {
  return Trim(text, left, right, [](std::string_view c) { return SpaceLength(c) > 0; });
}

std::string_view TrimChars(std::string_view text, std::string_view set, bool left, bool right) {
  return Trim(text, left, right, [set](std::string_view c) {
    // Whole characters of the set only: UTF-8 is self-synchronizing, so a byte search is exact.
    return set.find(c) != std::string_view::npos;
  });
}

void AppendCased(uint32_t code_point, Case to, std::string& out) {
  if (code_point < 0x80) {
    const bool lower = code_point >= 'a' && code_point <= 'z';
    const bool upper = code_point >= 'A' && code_point <= 'Z';
    if ((to == Case::kLower && upper) || (to != Case::kLower && lower)) code_point ^= 32;
    out.push_back(static_cast<char>(code_point));
    return;
  }
  if (to == Case::kLower && code_point == 0x130) {
    out += "i\u0307";
    return;
  }
  for (const Growing& row : kGrowing) {
    if (to != Case::kLower && row.code_point == code_point) {
      out += to == Case::kUpper ? row.upper : row.title;
      return;
    }
  }
  const utf8proc_int32_t c = static_cast<utf8proc_int32_t>(code_point);
  const utf8proc_int32_t mapped = to == Case::kLower   ? utf8proc_tolower(c)
                                  : to == Case::kUpper ? utf8proc_toupper(c)
                                                       : utf8proc_totitle(c);
  AppendUtf8(static_cast<uint32_t>(mapped), out);
}

bool IsAlpha(uint32_t code_point) {
  const utf8proc_category_t c = Category(code_point);
  return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}
bool IsDecimal(uint32_t code_point) {
  return Category(code_point) == UTF8PROC_CATEGORY_ND;
}
bool IsUpperCase(uint32_t code_point) {
  return Category(code_point) == UTF8PROC_CATEGORY_LU;
}
bool IsLowerCase(uint32_t code_point) {
  return Category(code_point) == UTF8PROC_CATEGORY_LL;
}

bool IsPrintable(uint32_t code_point) {
  if (code_point == ' ') return true;
  switch (Category(code_point)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

}  // namespace millrace::text
