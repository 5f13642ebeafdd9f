#pragma once
// Characters as Python's str sees them, over UTF-8. A byte that is no part of a character counts as
// one character of its own, so that these are total.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace millrace::text {

// Bytes of the first character; 0 for empty text.
size_t CharLength(std::string_view text);
// The first character's code point (0xFFFD for an invalid byte). REQUIRES: `text` is not empty.
uint32_t FirstCodePoint(std::string_view text);
size_t CountChars(std::string_view text);

// Bytes of the white space character (as str.isspace) that `text` begins with; 0 if it does not.
size_t SpaceLength(std::string_view text);
std::string_view TrimSpace(std::string_view text, bool left, bool right);
// Trims characters that occur in `set`.
std::string_view TrimChars(std::string_view text, std::string_view set, bool left, bool right);

enum class Case { kUpper, kLower, kTitle };
// Appends the mapping of one code point. Covers the simple mappings and the common ones that grow
// (U+00DF, U+0149, U+01F0, ligatures, U+0130).
void AppendCased(uint32_t code_point, Case to, std::string& out);
bool IsAlpha(uint32_t code_point);
bool IsDecimal(uint32_t code_point);
bool IsUpperCase(uint32_t code_point);
bool IsLowerCase(uint32_t code_point);
// As str.isprintable: what repr leaves as it is.
bool IsPrintable(uint32_t code_point);

}  // namespace millrace::text
