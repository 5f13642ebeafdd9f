// Values as text: str(), repr(), json.dumps() and the % operator of Python.

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "text/jinja_chars.h"
#include "text/jinja_ops.h"

namespace millrace::text {
namespace {

constexpr Origin kOurs = Origin::kTemplate;

void AppendHex(uint32_t code_point, const char* prefix, int digits, std::string& out) {
  char buffer[16];
  std::snprintf(buffer, sizeof buffer, "%0*x", digits, code_point);
  out += prefix;
  out += buffer;
}

void AppendReprString(Runtime& rt, TextBuilder& out, const Value& v) {
  const bool single = v.str().find('\'') != std::string_view::npos;
  const bool both = single && v.str().find('"') != std::string_view::npos;
  const char quote = single && !both ? '"' : '\'';
  const std::string_view quotes(&quote, 1);
  out.Append(quotes, kOurs);
  rt.Step(1 + v.size / 16);
  ForEachPart(v, [&](std::string_view part, Origin origin) {
    std::string escaped;
    for (size_t at = 0; at < part.size();) {
      const size_t length = CharLength(part.substr(at));
      const uint32_t c = FirstCodePoint(part.substr(at));
      if (c == '\\' || c == static_cast<uint32_t>(quote)) {
        escaped += '\\';
        escaped += static_cast<char>(c);
      } else if (c == '\n' || c == '\r' || c == '\t') {
        escaped += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
      } else if (IsPrintable(c)) {
        escaped += part.substr(at, length);
      } else if (c < 0x100) {
        AppendHex(c, "\\x", 2, escaped);
      } else {
        AppendHex(c, c < 0x10000 ? "\\u" : "\\U", c < 0x10000 ? 4 : 8, escaped);
      }
      at += length;
    }
    out.Append(escaped, origin);
  });
  out.Append(quotes, kOurs);
}

void AppendReprItems(Runtime& rt, TextBuilder& out, const Value& v, const char* close) {
  const std::vector<Value>& items = v.list->items;
  for (size_t i = 0; i < items.size() && !rt.failed(); ++i) {
    if (i > 0) out.Append(", ", kOurs);
    AppendRepr(rt, out, items[i]);
  }
  if (v.is(Kind::kTuple) && items.size() == 1) out.Append(",", kOurs);
  out.Append(close, kOurs);
}

void AppendJsonString(Runtime& rt, TextBuilder& out, const Value& v, bool ensure_ascii) {
  out.Append("\"", kOurs);
  rt.Step(1 + v.size / 64);
  ForEachPart(v, [&](std::string_view part, Origin origin) {
    std::string escaped;
    for (size_t at = 0; at < part.size();) {
      const size_t length = CharLength(part.substr(at));
      const uint32_t c = FirstCodePoint(part.substr(at));
      constexpr std::string_view kNamed = "\"\\\b\f\n\r\t";
      const size_t named = c < 0x80 ? kNamed.find(static_cast<char>(c)) : std::string_view::npos;
      if (named != std::string_view::npos) {
        escaped += '\\';
        escaped += "\"\\bfnrt"[named];
      } else if (c < 0x20 || (ensure_ascii && c > 0x7e && c < 0x10000)) {
        AppendHex(c, "\\u", 4, escaped);
      } else if (ensure_ascii && c >= 0x10000) {
        AppendHex(0xd800 + ((c - 0x10000) >> 10), "\\u", 4, escaped);
        AppendHex(0xdc00 + ((c - 0x10000) & 0x3ff), "\\u", 4, escaped);
      } else {
        escaped += part.substr(at, length);
      }
      at += length;
    }
    out.Append(escaped, origin);
  });
  out.Append("\"", kOurs);
}

// The separators and line breaks of one JSON container.
class JsonLayout {
 public:
  JsonLayout(TextBuilder& out, const JsonStyle& style, int level)
      : out_(out), style_(style), level_(level) {}
  void BeforeItem(bool first) {
    if (!first) out_.Append(style_.item_separator, kOurs);
    NewLine(level_ + 1);
  }
  void Close(bool empty, const char* bracket) {
    if (!empty) NewLine(level_);
    out_.Append(bracket, kOurs);
  }

 private:
  void NewLine(int level) {
    if (style_.indent < 0) return;
    out_.Append("\n", kOurs);
    for (int i = 0; i < level; ++i) out_.Append(style_.indent_text, kOurs);
  }
  TextBuilder& out_;
  const JsonStyle& style_;
  int level_;
};

void AppendJsonKey(Runtime& rt, TextBuilder& out, const Value& key, const JsonStyle& style) {
  if (key.is_string()) return AppendJsonString(rt, out, key, style.ensure_ascii);
  out.Append("\"", kOurs);
  if (key.is(Kind::kNone)) {
    out.Append("null", kOurs);
  } else if (key.is(Kind::kBool)) {
    out.Append(key.integer ? "true" : "false", kOurs);
  } else if (key.is(Kind::kInt) || key.is(Kind::kFloat) || key.is(Kind::kBigInt)) {
    AppendStr(rt, out, key);
  } else {
    rt.Fail("a key of this kind has no JSON");
  }
  out.Append("\"", kOurs);
}

void AppendJsonAt(Runtime& rt, TextBuilder& out, const Value& v, const JsonStyle& style, int level);

void AppendJsonDict(Runtime& rt, TextBuilder& out, const Value& v, const JsonStyle& style,
                    int level) {
  std::vector<const std::pair<Value, Value>*> members;
  for (const auto& item : v.dict->items) members.push_back(&item);
  if (style.sort_keys) {
    std::stable_sort(members.begin(), members.end(), [&rt](const auto* a, const auto* b) {
      return Order(rt, a->first, b->first) < 0;
    });
  }
  JsonLayout layout(out, style, level);
  out.Append("{", kOurs);
  for (size_t i = 0; i < members.size() && !rt.failed(); ++i) {
    layout.BeforeItem(i == 0);
    AppendJsonKey(rt, out, members[i]->first, style);
    out.Append(style.key_separator, kOurs);
    AppendJsonAt(rt, out, members[i]->second, style, level + 1);
  }
  layout.Close(members.empty(), "}");
}

void AppendJsonAt(Runtime& rt, TextBuilder& out, const Value& v, const JsonStyle& style,
                  int level) {
  DepthGuard guard(rt);
  if (!guard.ok() || !rt.Step()) return;
  switch (v.kind) {
    case Kind::kNone:
      return out.Append("null", kOurs);
    case Kind::kBool:
      return out.Append(v.integer ? "true" : "false", kOurs);
    case Kind::kFloat:
      if (std::isinf(v.real)) return out.Append(v.real > 0 ? "Infinity" : "-Infinity", kOurs);
      if (std::isnan(v.real)) return out.Append("NaN", kOurs);
      return AppendStr(rt, out, v);
    case Kind::kInt:
    case Kind::kBigInt:
      return AppendStr(rt, out, v);
    case Kind::kString:
      return AppendJsonString(rt, out, v, style.ensure_ascii);
    case Kind::kDict:
      return AppendJsonDict(rt, out, v, style, level);
    case Kind::kList:
    case Kind::kTuple: {
      JsonLayout layout(out, style, level);
      out.Append("[", kOurs);
      for (size_t i = 0; i < v.list->items.size() && !rt.failed(); ++i) {
        layout.BeforeItem(i == 0);
        AppendJsonAt(rt, out, v.list->items[i], style, level + 1);
      }
      return layout.Close(v.list->items.empty(), "]");
    }
    default:
      rt.Fail("a value of this kind has no JSON");
  }
}

// One %-conversion: flags, width, precision and letter.
struct Conversion {
  bool left = false;
  bool zero = false;
  char sign = 0;
  int width = 0;
  int precision = -1;
  char letter = 0;
};

// Parses after the '%'; returns the bytes read, 0 if it is none we know.
size_t ParseConversion(std::string_view text, Conversion& c) {
  size_t at = 0;
  for (; at < text.size(); ++at) {
    if (text[at] == '-') {
      c.left = true;
    } else if (text[at] == '0') {
      c.zero = true;
    } else if (text[at] == '+' || text[at] == ' ') {
      c.sign = text[at];
    } else {
      break;
    }
  }
  auto number = [&](int& value) {
    for (value = 0; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
      value = std::min(value * 10 + (text[at] - '0'), 10'000);
    }
  };
  number(c.width);
  if (at < text.size() && text[at] == '.') {
    ++at;
    number(c.precision);
  }
  if (at >= text.size() || c.precision > 100) return 0;
  c.letter = text[at];
  return std::string_view("sdirfFgeExX%").find(c.letter) == std::string_view::npos ? 0 : at + 1;
}

// The text of one converted argument, without padding.
Value Converted(Runtime& rt, const Conversion& c, const Value& arg) {
  TextBuilder out(rt);
  if (c.letter == 's' || c.letter == 'r') {
    if (c.letter == 's') {
      AppendStr(rt, out, arg);
    } else {
      AppendRepr(rt, out, arg);
    }
    Value text = out.Finish();
    if (c.precision < 0 || rt.failed()) return text;
    size_t end = 0;
    for (int i = 0; i < c.precision && end < text.size; ++i) {
      end += CharLength(text.str().substr(end));
    }
    return text.Sub(0, end);
  }
  const bool integral = arg.is(Kind::kInt) || arg.is(Kind::kBool);
  if (!integral && !arg.is(Kind::kFloat)) return rt.Fail("a number is required to format");
  char buffer[512];
  const char sign = c.sign != 0 ? c.sign : '-';
  const double real = integral ? static_cast<double>(arg.integer) : arg.real;
  const bool negative = real < 0;
  if (std::string_view("dixX").find(c.letter) != std::string_view::npos) {
    if ((!integral && (c.letter | 32) == 'x') || !std::isfinite(real)) {
      return rt.Fail("an integer is required to format");
    }
    if (!integral && std::fabs(real) >= 9e18) {  // an integer beyond 64 bits, printed exactly
      std::snprintf(buffer, sizeof buffer, "%.0f", std::fabs(real));
      if (negative || sign != '-') out.Append(negative ? "-" : std::string_view(&sign, 1), kOurs);
      out.Append(buffer, kOurs);
      return out.Finish();
    }
    const int64_t value = integral ? arg.integer : static_cast<int64_t>(arg.real);
    const unsigned long long magnitude = value < 0 ? 0ull - static_cast<unsigned long long>(value)
                                                   : static_cast<unsigned long long>(value);
    const char* format = c.letter == 'x' ? "%.*llx" : c.letter == 'X' ? "%.*llX" : "%.*llu";
    std::snprintf(buffer, sizeof buffer, format, std::max(c.precision, 1), magnitude);
  } else {
    const char format[] = {'%', '.', '*', c.letter, 0};
    std::snprintf(buffer, sizeof buffer, format, c.precision < 0 ? 6 : c.precision,
                  std::fabs(real));
  }
  if (negative || sign != '-') out.Append(negative ? "-" : std::string_view(&sign, 1), kOurs);
  out.Append(buffer, kOurs);
  return out.Finish();
}

void AppendPadded(Runtime& rt, TextBuilder& out, const Conversion& c, const Value& text) {
  const size_t chars = CountChars(text.str());
  const size_t width = static_cast<size_t>(c.width);
  const size_t pad = width > chars ? width - chars : 0;
  const bool numeric = c.letter != 's' && c.letter != 'r';
  if (rt.failed()) return;
  if (c.left) {
    out.Append(text);
    out.Append(std::string(pad, ' '), kOurs);
  } else if (c.zero && numeric && pad > 0) {
    const bool sign = text.size > 0 && (text.chars[0] < '0' || text.chars[0] > '9');
    out.Append(text.Sub(0, sign));
    out.Append(std::string(pad, '0'), kOurs);
    out.Append(text.Sub(sign, text.size - sign));
  } else {
    out.Append(std::string(pad, ' '), kOurs);
    out.Append(text);
  }
}

}  // namespace

std::string FormatFloat(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  // The shortest digits that read back, laid out as Python does: positional from 1e-4 to 1e16.
  char buffer[64];
  auto end =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string text(buffer, end);
  const size_t e = text.find('e');
  const int exponent = std::atoi(text.c_str() + e + 1);
  if (exponent >= 16 || exponent < -4) {
    return text;  // to_chars writes at least two digits of exponent, as Python
  }
  std::string sign = text[0] == '-' ? "-" : "";
  std::string digits;
  for (char c : text.substr(0, e)) {
    if (c >= '0' && c <= '9') digits.push_back(c);
  }
  if (exponent < 0) {
    return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  }
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

void AppendStr(Runtime& rt, TextBuilder& out, const Value& v) {
  if (!rt.Step()) return;
  switch (v.kind) {
    case Kind::kUndefined:
      return;
    case Kind::kNone:
      return out.Append("None", kOurs);
    case Kind::kBool:
      return out.Append(v.integer ? "True" : "False", kOurs);
    case Kind::kInt:
      return out.Append(std::to_string(v.integer), kOurs);
    case Kind::kFloat:
      return out.Append(FormatFloat(v.real), kOurs);
    case Kind::kBigInt:
    case Kind::kString:
      return out.Append(v);
    default:
      return AppendRepr(rt, out, v);
  }
}

void AppendRepr(Runtime& rt, TextBuilder& out, const Value& v) {
  DepthGuard guard(rt);
  if (!guard.ok() || !rt.Step()) return;
  switch (v.kind) {
    case Kind::kUndefined:
      return out.Append("Undefined", kOurs);
    case Kind::kString:
      return AppendReprString(rt, out, v);
    case Kind::kList:
      out.Append("[", kOurs);
      return AppendReprItems(rt, out, v, "]");
    case Kind::kTuple:
      out.Append("(", kOurs);
      return AppendReprItems(rt, out, v, ")");
    case Kind::kNamespace:
    case Kind::kDict: {
      if (v.is(Kind::kNamespace)) out.Append("<Namespace ", kOurs);
      out.Append("{", kOurs);
      bool first = true;
      for (const auto& item : v.dict->items) {
        if (!first) out.Append(", ", kOurs);
        first = false;
        AppendRepr(rt, out, item.first);
        out.Append(": ", kOurs);
        AppendRepr(rt, out, item.second);
        if (rt.failed()) return;
      }
      return out.Append(v.is(Kind::kNamespace) ? "}>" : "}", kOurs);
    }
    case Kind::kIterator:
    case Kind::kLoop:
    case Kind::kFunction:
    case Kind::kSlice:
      // Python prints an address here: nothing that a template could mean.
      rt.Fail("a value of this kind has no text");
      return;
    default:
      return AppendStr(rt, out, v);
  }
}

Value ToString(Runtime& rt, const Value& value) {
  if (value.is_string()) return value;
  TextBuilder out(rt);
  AppendStr(rt, out, value);
  return out.Finish();
}

void AppendJson(Runtime& rt, TextBuilder& out, const Value& value, const JsonStyle& style) {
  AppendJsonAt(rt, out, value, style, 0);
}

Value Format(Runtime& rt, const Value& format, const std::vector<Value>& args) {
  TextBuilder out(rt);
  const std::string_view text = format.str();
  size_t used = 0;
  for (size_t at = 0; at < text.size() && rt.Step();) {
    const size_t percent = std::min(text.find('%', at), text.size());
    out.Append(format.Sub(at, percent - at));
    if (percent == text.size()) break;
    Conversion conversion;
    const size_t length = ParseConversion(text.substr(percent + 1), conversion);
    if (length == 0) return rt.Fail("unsupported format");
    at = percent + 1 + length;
    if (conversion.letter == '%') {
      out.Append("%", kOurs);
      continue;
    }
    if (used >= args.size()) return rt.Fail("not enough arguments for the format");
    const Value converted = Converted(rt, conversion, args[used++]);
    if (rt.failed()) return Value();
    AppendPadded(rt, out, conversion, converted);
  }
  if (used < args.size()) return rt.Fail("not all arguments are used by the format");
  return out.Finish();
}

}  // namespace millrace::text
