// Filters of Jinja, as its sandbox without autoescaping has them.

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "text/jinja_functions.h"
#include "text/jinja_ops.h"
#include "text/jinja_strings.h"

namespace millrace::text {
namespace {

using Bound = std::vector<Value>;

bool IsNone(const Value& v) {
  return v.is(Kind::kUndefined) || v.is(Kind::kNone);
}
bool IsIntegral(const Value& v) {
  return v.is(Kind::kInt) || v.is(Kind::kBool);
}

Value Trim(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"value", "chars"}, 1, b)) return Value();
  const Value s = ToString(rt, b[0]);
  if (rt.failed() || !rt.Step(1 + s.size / 64)) return Value();
  if (IsNone(b[1])) return s.Sub(TrimSpace(s.str(), true, true));
  if (!b[1].is_string()) return rt.Fail("trim takes a string");
  return rt.Step(b[1].size) ? s.Sub(TrimChars(s.str(), b[1].str(), true, true)) : Value();
}

Value ToJson(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"x", "ensure_ascii", "indent", "separators", "sort_keys"}, 1, b)) {
    return Value();
  }
  JsonStyle style;
  style.ensure_ascii = Truthy(b[1]);
  style.sort_keys = Truthy(b[4]);
  if (IsIntegral(b[2])) {
    style.indent = static_cast<int>(std::clamp<int64_t>(b[2].integer, 0, 64));
    style.indent_text = std::string(static_cast<size_t>(style.indent), ' ');
  } else if (b[2].is_string()) {
    style.indent = 0;
    style.indent_text = b[2].str();
  } else if (!IsNone(b[2])) {
    return rt.Fail("indent is a number or a string");
  }
  style.item_separator = style.indent >= 0 ? "," : ", ";
  if (!IsNone(b[3])) {
    const auto* parts = Items(rt, b[3]);
    if (parts == nullptr || parts->size() != 2 || !(*parts)[0].is_string() ||
        !(*parts)[1].is_string()) {
      return rt.Fail("separators are two strings");
    }
    style.item_separator = (*parts)[0].str();
    style.key_separator = (*parts)[1].str();
  }
  TextBuilder out(rt);
  AppendJson(rt, out, b[0], style);
  return out.Finish();
}

Value Len(Runtime& rt, CallArgs& args) {
  Bound b;
  return Bind(rt, args, {"value"}, 1, b) ? Value::Int(Length(rt, b[0])) : Value();
}

Value Str(Runtime& rt, CallArgs& args) {
  Bound b;
  return Bind(rt, args, {"value"}, 1, b) ? ToString(rt, b[0]) : Value();
}

template <Case to>
Value CaseFilter(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"s"}, 1, b)) return Value();
  const Value s = ToString(rt, b[0]);
  return rt.failed() ? Value() : StringCase(rt, s, to);
}

Value CapitalizeFilter(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"s"}, 1, b)) return Value();
  const Value s = ToString(rt, b[0]);
  return rt.failed() ? Value() : Capitalize(rt, s);
}

Value TitleFilter(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"s"}, 1, b)) return Value();
  const Value s = ToString(rt, b[0]);
  return rt.failed() ? Value() : TitleWords(rt, s);
}

Value DefaultFilter(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"value", "default_value", "boolean"}, 1, b)) return Value();
  const bool missing = b[0].is(Kind::kUndefined) || (Truthy(b[2]) && !Truthy(b[0]));
  if (!missing) return b[0];
  const bool given = args.positional.size() > 1 || !args.named.empty();
  return given && !b[1].is(Kind::kUndefined) ? b[1] : Value::String("", Origin::kTemplate);
}

Value ReplaceFilter(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"s", "old", "new", "count"}, 3, b)) return Value();
  if (!IsNone(b[3]) && !IsIntegral(b[3])) return rt.Fail("count is an integer");
  const Value s = ToString(rt, b[0]);
  const Value from = ToString(rt, b[1]);
  const Value to = ToString(rt, b[2]);
  if (rt.failed()) return Value();
  return Replace(rt, s, from, to, IsNone(b[3]) ? -1 : b[3].integer);
}

// int("12") as Python reads it: spaces around, single underscores between digits.
bool ParseInteger(Runtime& rt, std::string_view text, int base, int64_t* value) {
  std::string digits;
  for (char c : TrimSpace(text, true, true).substr(0, 128)) {
    if (c == '_' && (digits.empty() || digits.back() == '_')) return false;
    digits.push_back(c);
  }
  if (digits.empty() || digits.back() == '_' || SpaceLength(digits) > 0) return false;
  digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
  char* end = nullptr;
  errno = 0;
  *value = std::strtoll(digits.c_str(), &end, base);
  if (errno == ERANGE) rt.Fail("integer too large");
  return end == digits.c_str() + digits.size() && end != digits.c_str();
}

bool ParseReal(std::string_view text, double* value) {
  const std::string trimmed(TrimSpace(text, true, true).substr(0, 512));
  if (trimmed.empty() || trimmed.find_first_of("xXpP") != std::string::npos) return false;
  char* end = nullptr;
  *value = std::strtod(trimmed.c_str(), &end);
  return end == trimmed.c_str() + trimmed.size();
}

Value IntFilter(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"value", "default", "base"}, 1, b)) return Value();
  if (b[0].is(Kind::kUndefined)) return rt.Fail("a value is undefined");
  const Value fallback = b[1].is(Kind::kUndefined) ? Value::Int(0) : b[1];
  int64_t integer = 0;
  double real = 0;
  if (IsIntegral(b[0])) return Value::Int(b[0].integer);
  if (b[0].is(Kind::kBigInt)) return b[0];
  if (b[0].is_string()) {
    const int base = b[2].is(Kind::kInt) ? static_cast<int>(b[2].integer % 64) : 10;
    if (base != 0 && (base < 2 || base > 36)) return rt.Fail("bad base");
    if (ParseInteger(rt, b[0].str(), base, &integer)) return Value::Int(integer);
    if (!ParseReal(b[0].str(), &real)) return fallback;
  } else if (b[0].is(Kind::kFloat)) {
    real = b[0].real;
  } else {
    return fallback;
  }
  if (!std::isfinite(real)) return fallback;
  if (std::fabs(real) < 9e18) return Value::Int(static_cast<int64_t>(real));
  char digits[400];  // every double this large is an integer, printed exactly
  const int length = std::snprintf(digits, sizeof digits, "%.0f", real);
  Value big = rt.NewString(std::string(digits, static_cast<size_t>(length)), Origin::kTemplate);
  big.kind = Kind::kBigInt;
  return big;
}

Value FloatFilter(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"value", "default"}, 1, b)) return Value();
  if (b[0].is(Kind::kUndefined)) return rt.Fail("a value is undefined");
  double real = 0;
  if (IsIntegral(b[0])) return Value::Float(static_cast<double>(b[0].integer));
  if (b[0].is(Kind::kFloat)) return b[0];
  if (b[0].is_string() && ParseReal(b[0].str(), &real)) return Value::Float(real);
  return b[1].is(Kind::kUndefined) ? Value::Float(0) : b[1];
}

Value AbsFilter(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"x"}, 1, b)) return Value();
  if (b[0].is(Kind::kFloat)) return Value::Float(std::fabs(b[0].real));
  if (!IsIntegral(b[0])) return rt.Fail("a number is required");
  return b[0].integer < 0 ? Negate(rt, b[0]) : Value::Int(b[0].integer);
}

Value RoundFilter(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"value", "precision", "method"}, 1, b)) return Value();
  if (!IsIntegral(b[0]) && !b[0].is(Kind::kFloat)) return rt.Fail("a number is required");
  const int64_t precision = b[1].is(Kind::kUndefined) ? 0 : b[1].integer;
  if ((!IsIntegral(b[1]) && !b[1].is(Kind::kUndefined)) || precision < 0 || precision > 15) {
    return rt.Fail("precision is from 0 to 15");
  }
  const std::string_view method = b[2].is_string() ? b[2].str() : "common";
  const double real = b[0].is(Kind::kFloat) ? b[0].real : static_cast<double>(b[0].integer);
  if (method == "common") {
    if (IsIntegral(b[0])) return Value::Int(b[0].integer);
    // Through decimal text, which rounds the exact value half to even, as Python does.
    char buffer[400];
    std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(precision), real);
    return Value::Float(std::strtod(buffer, nullptr));
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (method == "ceil") return Value::Float(std::ceil(real * scale) / scale);
  if (method == "floor") return Value::Float(std::floor(real * scale) / scale);
  return rt.Fail("the method is common, ceil or floor");
}

Value IndentFilter(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"s", "width", "first", "blank"}, 1, b)) return Value();
  const Value s = ToString(rt, b[0]);
  int64_t width = 4;
  if (IsIntegral(b[1])) {
    width = std::clamp<int64_t>(b[1].integer, 0, 4096);
  } else if (!b[1].is(Kind::kUndefined) && !b[1].is_string()) {
    return rt.Fail("the width is a number or a string");
  }
  const Value indent = b[1].is_string() ? b[1]
                                        : rt.NewString(std::string(static_cast<size_t>(width), ' '),
                                                       Origin::kTemplate);
  // A final line end makes one more, empty line; text without one stays one line.
  TextBuilder whole(rt);
  whole.Append(s);
  whole.Append("\n", Origin::kTemplate);
  const Value text = whole.Finish();
  if (rt.failed()) return Value();
  const Value lines = SplitLines(rt, text, false);
  TextBuilder out(rt);
  for (size_t i = 0; !rt.failed() && i < lines.list->items.size() && rt.Step(); ++i) {
    const Value& line = lines.list->items[i];
    if (i > 0) out.Append("\n", Origin::kTemplate);
    if (i == 0 ? Truthy(b[2]) : (line.size > 0 || Truthy(b[3]))) out.Append(indent);
    out.Append(line);
  }
  return out.Finish();
}

Value EscapeFilter(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"s"}, 1, b)) return Value();
  const Value s = ToString(rt, b[0]);
  TextBuilder out(rt);
  ForEachPart(s, [&](std::string_view part, Origin origin) {
    std::string escaped;
    for (char c : part) {
      switch (c) {
        case '&':
          escaped += "&amp;";
          break;
        case '<':
          escaped += "&lt;";
          break;
        case '>':
          escaped += "&gt;";
          break;
        case '\'':
          escaped += "&#39;";
          break;
        case '"':
          escaped += "&#34;";
          break;
        default:
          escaped += c;
      }
    }
    out.Append(escaped, origin);
  });
  rt.Step(1 + s.size / 64);
  return out.Finish();
}

Value FormatFilter(Runtime& rt, CallArgs& args) {
  if (!args.named.empty()) return rt.Fail("named formats are not supported");
  const Value format = ToString(rt, args.positional[0]);
  if (rt.failed()) return Value();
  return Format(rt, format, Bound(args.positional.begin() + 1, args.positional.end()));
}

Value AttrFilter(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"obj", "name"}, 2, b)) return Value();
  // Attributes only: what a mapping holds are items. Nothing else of the host exists to be reached.
  if (b[0].is(Kind::kDict) && (!b[1].is_string() || FindMethod(Kind::kDict, b[1].str()) < 0)) {
    return Value();
  }
  return b[1].is_string() ? GetAttr(rt, b[0], b[1].str()) : Value();
}

struct FilterRow {
  std::string_view name;
  Value (*call)(Runtime& rt, CallArgs& args);
};
constexpr FilterRow kFilters[] = {
    {"abs", AbsFilter},
    {"attr", AttrFilter},
    {"capitalize", CapitalizeFilter},
    {"count", Len},
    {"d", DefaultFilter},
    {"default", DefaultFilter},
    {"dictsort", sequence_filters::DictSort},
    {"e", EscapeFilter},
    {"escape", EscapeFilter},
    {"first", sequence_filters::First},
    {"float", FloatFilter},
    {"format", FormatFilter},
    {"indent", IndentFilter},
    {"int", IntFilter},
    {"items", sequence_filters::DictItems},
    {"join", sequence_filters::JoinItems},
    {"last", sequence_filters::Last},
    {"length", Len},
    {"list", sequence_filters::ToList},
    {"lower", CaseFilter<Case::kLower>},
    {"map", sequence_filters::Map},
    {"max", sequence_filters::Max},
    {"min", sequence_filters::Min},
    {"reject", sequence_filters::Reject},
    {"rejectattr", sequence_filters::RejectAttr},
    {"replace", ReplaceFilter},
    {"reverse", sequence_filters::Reverse},
    {"round", RoundFilter},
    {"safe", Str},
    {"select", sequence_filters::Select},
    {"selectattr", sequence_filters::SelectAttr},
    {"sort", sequence_filters::Sort},
    {"string", Str},
    {"sum", sequence_filters::Sum},
    {"title", TitleFilter},
    {"tojson", ToJson},
    {"trim", Trim},
    {"unique", sequence_filters::Unique},
    {"upper", CaseFilter<Case::kUpper>},
};

}  // namespace

int FindFilter(std::string_view name) {
  for (size_t i = 0; i < std::size(kFilters); ++i) {
    if (kFilters[i].name == name) return static_cast<int>(i);
  }
  return -1;
}

Value CallFilter(Runtime& rt, int filter, CallArgs& args) {
  if (!rt.Step()) return Value();
  DepthGuard guard(rt);  // map() may name map
  if (!guard.ok()) return Value();
  return filter < 0 ? rt.Fail("no such filter") : kFilters[filter].call(rt, args);
}

}  // namespace millrace::text
