#pragma once
// Characters of a text that may hold any bytes, with the properties that the published tokenizers
// ask for. (Those of Python's str, for templates, are in text/jinja_chars.h.)

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace millrace::text {

struct Character {
  uint32_t code_point = 0;
  size_t length = 0;   // bytes; 0 at the end of the text
  bool valid = false;  // false: one byte that is no part of a character; code_point is that byte
};

// The character that begins at `at`. REQUIRES: at <= text.size().
Character CharacterAt(std::string_view text, size_t at);
// The character that ends at `end`.
Character CharacterBefore(std::string_view text, size_t end);

// Unicode's White_Space.
bool IsWhiteSpace(uint32_t code_point);
// \w of a regular expression: alphabetic, mark, decimal number, connector, joiner.
bool IsWordCharacter(uint32_t code_point);

}  // namespace millrace::text
