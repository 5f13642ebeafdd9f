#pragma once
// UTF-8 as the standard says: no overlong forms, no surrogates, at most U+10FFFF.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace millrace {

bool IsValidUtf8(std::string_view text);
// The length of the longest prefix that holds only whole, valid characters *or* invalid bytes, and
// so does not end inside a character that more bytes could still complete.
size_t CompleteUtf8Prefix(std::string_view text);
// Every maximal invalid subpart becomes one U+FFFD (the practice of the Unicode standard, and of
// Python's errors="replace").
std::string ReplaceInvalidUtf8(std::string_view text);
// REQUIRES: `code_point` is a Unicode scalar value.
void AppendUtf8(uint32_t code_point, std::string& out);
// Characters (code points) in valid UTF-8.
size_t CountCodePoints(std::string_view text);

}  // namespace millrace
