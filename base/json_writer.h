#pragma once
// Appends JSON text to a string, for the messages that are made once a token.

#include <cstdint>
#include <string>
#include <string_view>

namespace millrace {

// Appends `text` as a JSON string with quotes. Escapes control characters, quote and backslash;
// other bytes pass. REQUIRES: `text` is valid UTF-8.
void AppendJsonString(std::string_view text, std::string& out);
void AppendJsonInt(int64_t value, std::string& out);
// Shortest text that reads back as the same value. Not finite becomes null.
void AppendJsonDouble(double value, std::string& out);
// As above at the precision of a float: fewer digits for log-probabilities.
void AppendJsonFloat(float value, std::string& out);

}  // namespace millrace
