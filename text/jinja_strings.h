#pragma once
// What filters and methods of strings share. Results keep the marks of the bytes they came from.

#include <cstdint>
#include <string_view>

#include "text/jinja_chars.h"
#include "text/jinja_runtime.h"

namespace millrace::text {

Value StringCase(Runtime& rt, const Value& string, Case to);
// First character in title case, the others in lower case.
Value Capitalize(Runtime& rt, const Value& string);
// str.title: the first letter of each run of letters.
Value Title(Runtime& rt, const Value& string);
// The title filter: the first of each word, which white space, '-' or an opening bracket begins.
Value TitleWords(Runtime& rt, const Value& string);
// At most `count` replacements; all of them if negative.
Value Replace(Runtime& rt, const Value& string, const Value& from, const Value& to, int64_t count);
// A list of parts; `separator` undefined or none: runs of white space, empty parts dropped.
Value Split(Runtime& rt, const Value& string, const Value& separator, int64_t count);
Value RSplit(Runtime& rt, const Value& string, const Value& separator, int64_t count);
Value SplitLines(Runtime& rt, const Value& string, bool keep_ends);
Value Join(Runtime& rt, const Value& separator, const std::vector<Value>& items);
// The first place of `what` at or after `from`, or npos. Linear time.
size_t FindText(std::string_view text, std::string_view what, size_t from);

}  // namespace millrace::text
