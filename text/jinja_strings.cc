#include "text/jinja_strings.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/utf8.h"
#include "text/jinja_ops.h"

namespace millrace::text {
namespace {

// Puts every character into the case that `map(code point)` says, part by part, so that marks stay
// with them.
template <typename Map>
Value MapChars(Runtime& rt, const Value& string, Map map) {
  if (!rt.Step(1 + string.size / 32)) return Value();
  TextBuilder out(rt);
  const char* const end = string.chars + string.size;
  bool after_letter = false;
  size_t done = 0;  // bytes of the string that are mapped
  ForEachPart(string, [&](std::string_view part, Origin origin) {
    std::string mapped;
    mapped.reserve(part.size());
    for (size_t at = 0; at < part.size();) {
      const uint32_t c = FirstCodePoint(part.substr(at));
      const size_t length = CharLength(part.substr(at));
      at += length;
      done += length;
      const Case to = map(c);
      const char* const next = string.chars + done;
      const bool before_letter =
          next < end && IsAlpha(FirstCodePoint({next, static_cast<size_t>(end - next)}));
      if (c == 0x3a3 && to == Case::kLower && after_letter && !before_letter) {
        mapped += "\u03c2";  // the final sigma of a word has a form of its own (SpecialCasing.txt)
      } else {
        AppendCased(c, to, mapped);
      }
      after_letter = IsAlpha(c);
    }
    out.Append(mapped, origin);
  });
  return out.Finish();
}

// Bytes of the line end that `text` begins with, as str.splitlines knows them; 0 for none.
size_t LineEndLength(std::string_view text) {
  if (text[0] == '\r') return text.size() > 1 && text[1] == '\n' ? 2 : 1;
  const uint32_t c = FirstCodePoint(text);
  const bool ends = (c >= 0x0a && c <= 0x0c) || (c >= 0x1c && c <= 0x1e) || c == 0x85 ||
                    c == 0x2028 || c == 0x2029;
  return ends ? CharLength(text) : 0;
}

bool IsNone(const Value& v) {
  return v.is(Kind::kUndefined) || v.is(Kind::kNone);
}

// The separator of a split. False after a failure.
bool CheckSeparator(Runtime& rt, const Value& string, const Value& separator) {
  if (!IsNone(separator) && !separator.is_string()) rt.Fail("a separator is a string");
  if (separator.is_string() && separator.size == 0) rt.Fail("empty separator");
  return rt.Step(1 + string.size / 64);
}

}  // namespace

size_t FindText(std::string_view text, std::string_view what, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (what.empty()) return from;
  const void* found = memmem(text.data() + from, text.size() - from, what.data(), what.size());
  return found == nullptr ? std::string_view::npos
                          : static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

Value StringCase(Runtime& rt, const Value& string, Case to) {
  return MapChars(rt, string, [to](uint32_t) { return to; });
}

Value Capitalize(Runtime& rt, const Value& string) {
  bool first = true;
  return MapChars(rt, string, [&](uint32_t) {
    return std::exchange(first, false) ? Case::kTitle : Case::kLower;
  });
}

Value Title(Runtime& rt, const Value& string) {
  bool in_word = false;
  return MapChars(rt, string, [&](uint32_t c) {
    return std::exchange(in_word, IsAlpha(c)) ? Case::kLower : Case::kTitle;
  });
}

Value TitleWords(Runtime& rt, const Value& string) {
  bool first = true;
  return MapChars(rt, string, [&](uint32_t c) {
    std::string text;
    AppendUtf8(c, text);
    const bool separates =
        SpaceLength(text) > 0 || (c < 0x80 && std::strchr("-({[<", static_cast<int>(c)) != nullptr);
    return std::exchange(first, separates) ? Case::kUpper : Case::kLower;
  });
}

Value Replace(Runtime& rt, const Value& string, const Value& from, const Value& to, int64_t count) {
  if (!rt.Step(1 + string.size / 64)) return Value();
  const std::string_view text = string.str();
  TextBuilder out(rt);
  size_t at = 0;
  if (from.size == 0) {
    // Between all characters, and at both ends.
    for (; count != 0 && rt.Step(); --count) {
      out.Append(to);
      if (at == text.size()) break;
      const size_t length = CharLength(text.substr(at));
      out.Append(string.Sub(at, length));
      at += length;
    }
  }
  while (from.size > 0 && count != 0 && rt.Step()) {
    const size_t found = FindText(text, from.str(), at);
    if (found == std::string_view::npos) break;
    out.Append(string.Sub(at, found - at));
    out.Append(to);
    at = found + from.size;
    --count;
  }
  if (at == 0 && out.size() == 0) return string;
  out.Append(string.Sub(at, text.size() - at));
  return out.Finish();
}

Value Split(Runtime& rt, const Value& string, const Value& separator, int64_t count) {
  if (!CheckSeparator(rt, string, separator)) return Value();
  const std::string_view text = string.str();
  Value list = rt.NewList(Kind::kList);
  size_t at = 0;
  if (!IsNone(separator)) {
    for (; count != 0 && rt.Step(); --count) {
      const size_t found = FindText(text, separator.str(), at);
      if (found == std::string_view::npos) break;
      Push(rt, list, string.Sub(at, found - at));
      at = found + separator.size;
    }
    Push(rt, list, string.Sub(at, text.size() - at));
    return list;
  }
  std::string_view rest = TrimSpace(text, true, false);
  for (; count != 0 && !rest.empty() && rt.Step(); --count) {
    size_t end = 0;
    while (end < rest.size() && SpaceLength(rest.substr(end)) == 0) {
      end += CharLength(rest.substr(end));
    }
    Push(rt, list, string.Sub(rest.substr(0, end)));
    rest = TrimSpace(rest.substr(end), true, false);
  }
  if (!rest.empty()) Push(rt, list, string.Sub(rest));
  return list;
}

Value RSplit(Runtime& rt, const Value& string, const Value& separator, int64_t count) {
  if (IsNone(separator) && count >= 0) return rt.Fail("rsplit by white space takes no count");
  if (count < 0 || !CheckSeparator(rt, string, separator)) {
    return Split(rt, string, separator, -1);
  }
  // Cut from the right; the parts come out backwards.
  const std::string_view mark = separator.str();
  std::string_view rest = string.str();
  Value list = rt.NewList(Kind::kList);
  for (; count > 0 && rt.Step(1 + rest.size() / 64); --count) {
    const size_t found = rest.rfind(mark);
    if (found == std::string_view::npos) break;
    Push(rt, list, string.Sub(rest.substr(found + mark.size())));
    rest = rest.substr(0, found);
  }
  Push(rt, list, string.Sub(rest));
  if (rt.failed()) return Value();
  std::reverse(list.list->items.begin(), list.list->items.end());
  return list;
}

Value SplitLines(Runtime& rt, const Value& string, bool keep_ends) {
  if (!rt.Step(1 + string.size / 32)) return Value();
  const std::string_view text = string.str();
  Value list = rt.NewList(Kind::kList);
  size_t begin = 0;
  for (size_t at = 0; at < text.size() && !rt.failed();) {
    const size_t end = LineEndLength(text.substr(at));
    if (end == 0) {
      at += CharLength(text.substr(at));
      continue;
    }
    Push(rt, list, string.Sub(begin, at - begin + (keep_ends ? end : 0)));
    at += end;
    begin = at;
  }
  if (begin < text.size()) Push(rt, list, string.Sub(begin, text.size() - begin));
  return list;
}

Value Join(Runtime& rt, const Value& separator, const std::vector<Value>& items) {
  TextBuilder out(rt);
  for (size_t i = 0; i < items.size() && rt.Step(); ++i) {
    if (i > 0) out.Append(separator);
    AppendStr(rt, out, items[i]);
  }
  return out.Finish();
}

}  // namespace millrace::text
