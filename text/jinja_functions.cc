#include "text/jinja_functions.h"

#include <ctime>

#include "text/jinja_chars.h"
#include "text/jinja_ops.h"

namespace millrace::text {
namespace {

bool IsIntegral(const Value& v) {
  return v.is(Kind::kInt) || v.is(Kind::kBool);
}
bool IsNumber(const Value& v) {
  return IsIntegral(v) || v.is(Kind::kFloat) || v.is(Kind::kBigInt);
}

// Letters of one case only, and at least one: str.islower and str.isupper.
bool HasOnlyCase(std::string_view text, bool lower) {
  bool any = false;
  for (size_t at = 0; at < text.size(); at += CharLength(text.substr(at))) {
    const uint32_t c = FirstCodePoint(text.substr(at));
    if (lower ? IsUpperCase(c) : IsLowerCase(c)) return false;
    any |= lower ? IsLowerCase(c) : IsUpperCase(c);
  }
  return any;
}

bool OneArgument(Runtime& rt, CallArgs& args) {
  if (args.positional.size() == 2 && args.named.empty()) return true;
  rt.Fail("this test takes one argument");
  return false;
}

bool Compared(Runtime& rt, CallArgs& args, bool (*holds)(int)) {
  return OneArgument(rt, args) && holds(Order(rt, args.positional[0], args.positional[1]));
}

bool Divides(Runtime& rt, const Value& value, int64_t divisor, int64_t remainder) {
  const Value rest = Arithmetic(rt, Op::kMod, value, Value::Int(divisor));
  return !rt.failed() && Equal(rt, rest, Value::Int(remainder));
}

struct TestRow {
  std::string_view name;
  bool (*test)(Runtime& rt, const Value& value, CallArgs& args);
};
// Written out, one row a test, in the order of Jinja's manual.
#define TEST(name, expression)                                             \
  {                                                                        \
    name,                                                                  \
        [](Runtime& rt [[maybe_unused]], const Value& v [[maybe_unused]],  \
           CallArgs& args [[maybe_unused]]) -> bool { return expression; } \
  }
constexpr TestRow kTests[] = {
    TEST("defined", !v.is(Kind::kUndefined)),
    TEST("undefined", v.is(Kind::kUndefined)),
    TEST("none", v.is(Kind::kNone)),
    TEST("boolean", v.is(Kind::kBool)),
    TEST("true", v.is(Kind::kBool) && v.integer != 0),
    TEST("false", v.is(Kind::kBool) && v.integer == 0),
    TEST("integer", v.is(Kind::kInt) || v.is(Kind::kBigInt)),
    TEST("float", v.is(Kind::kFloat)),
    TEST("number", IsNumber(v)),
    TEST("string", v.is_string()),
    TEST("mapping", v.is(Kind::kDict)),
    TEST("iterable", v.is_string() || v.is_sequence() || v.is(Kind::kDict) ||
                         v.is(Kind::kIterator) || v.is(Kind::kUndefined) || v.is(Kind::kLoop)),
    TEST("sequence",
         v.is_string() || v.is_sequence() || v.is(Kind::kDict) || v.is(Kind::kUndefined)),
    TEST("callable", v.is(Kind::kFunction)),
    TEST("odd", Divides(rt, v, 2, 1)),
    TEST("even", Divides(rt, v, 2, 0)),
    TEST("divisibleby",
         OneArgument(rt, args) &&
             Equal(rt, Arithmetic(rt, Op::kMod, v, args.positional[1]), Value::Int(0))),
    TEST("eq", OneArgument(rt, args) && Equal(rt, v, args.positional[1])),
    TEST("==", OneArgument(rt, args) && Equal(rt, v, args.positional[1])),
    TEST("equalto", OneArgument(rt, args) && Equal(rt, v, args.positional[1])),
    TEST("ne", OneArgument(rt, args) && !Equal(rt, v, args.positional[1])),
    TEST("!=", OneArgument(rt, args) && !Equal(rt, v, args.positional[1])),
    TEST("lt", Compared(rt, args, [](int order) { return order < 0; })),
    TEST("<", Compared(rt, args, [](int order) { return order < 0; })),
    TEST("lessthan", Compared(rt, args, [](int order) { return order < 0; })),
    TEST("le", Compared(rt, args, [](int order) { return order <= 0; })),
    TEST("<=", Compared(rt, args, [](int order) { return order <= 0; })),
    TEST("gt", Compared(rt, args, [](int order) { return order > 0; })),
    TEST(">", Compared(rt, args, [](int order) { return order > 0; })),
    TEST("greaterthan", Compared(rt, args, [](int order) { return order > 0; })),
    TEST("ge", Compared(rt, args, [](int order) { return order >= 0; })),
    TEST(">=", Compared(rt, args, [](int order) { return order >= 0; })),
    TEST("in", OneArgument(rt, args) && Contains(rt, args.positional[1], v)),
    TEST("sameas", OneArgument(rt, args) && v.kind == args.positional[1].kind &&
                       Equal(rt, v, args.positional[1])),
    TEST("lower", HasOnlyCase(ToString(rt, v).str(), true)),
    TEST("upper", HasOnlyCase(ToString(rt, v).str(), false)),
    TEST("filter", v.is_string() && FindFilter(v.str()) >= 0),
    TEST("test", v.is_string() && FindTest(v.str()) >= 0),
};
#undef TEST

// --- Global functions ----------------------------------------------------------------------------

Value Range(Runtime& rt, CallArgs& args) {
  std::vector<Value> bound;
  if (!Bind(rt, args, {"start", "stop", "step"}, 1, bound)) return Value();
  const size_t given = args.positional.size();
  if (!args.named.empty()) return rt.Fail("range takes no keyword arguments");
  for (size_t i = 0; i < given; ++i) {
    if (!IsIntegral(bound[i])) return rt.Fail("range takes integers");
  }
  const int64_t begin = given == 1 ? 0 : bound[0].integer;
  const int64_t end = given == 1 ? bound[0].integer : bound[1].integer;
  const int64_t step = given == 3 ? bound[2].integer : 1;
  if (step == 0) return rt.Fail("range step cannot be zero");
  // The limit of Jinja's own sandbox. Counted in 128 bits: the ends may be far apart.
  const __int128 span = static_cast<__int128>(end) - begin;
  const __int128 count = (span > 0) == (step > 0) ? (span + step - (step > 0 ? 1 : -1)) / step : 0;
  if (count > 100'000) return rt.Fail("range too big");
  Value list = rt.NewList(Kind::kList, static_cast<size_t>(count));
  if (!rt.Step(static_cast<size_t>(count) / 16)) return Value();
  for (int64_t i = 0; i < count; ++i) list.list->items.push_back(Value::Int(begin + i * step));
  return list;
}

// The arguments of dict() and namespace(): at most one mapping or list of pairs, then names.
Value MakeDict(Runtime& rt, CallArgs& args, Kind kind) {
  Value dict = rt.NewDict(kind);
  if (args.positional.size() > 1) return rt.Fail("too many arguments");
  if (!args.positional.empty() && args.positional[0].is(Kind::kDict)) {
    for (const auto& item : args.positional[0].dict->items) {
      SetItem(rt, dict, item.first, item.second);
    }
  } else if (!args.positional.empty()) {
    const std::vector<Value>* pairs = Items(rt, args.positional[0]);
    if (pairs == nullptr) return Value();
    for (const Value& pair : *pairs) {
      const std::vector<Value>* parts = Items(rt, pair);
      if (parts == nullptr) return Value();
      if (parts->size() != 2) return rt.Fail("a member needs a key and a value");
      SetItem(rt, dict, (*parts)[0], (*parts)[1]);
    }
  }
  for (const auto& named : args.named) {
    SetItem(rt, dict, Value::String(named.first, Origin::kTemplate), named.second);
  }
  if (kind == Kind::kNamespace && !rt.failed()) {
    for (const auto& item : dict.dict->items) {
      if (item.first.is_string() && !item.first.str().empty() && item.first.str()[0] == '_') {
        return rt.Fail("a namespace attribute cannot begin with an underscore");
      }
    }
  }
  return dict;
}

Value Dict(Runtime& rt, CallArgs& args) {
  return MakeDict(rt, args, Kind::kDict);
}
Value Namespace(Runtime& rt, CallArgs& args) {
  return MakeDict(rt, args, Kind::kNamespace);
}

Value RaiseException(Runtime& rt, CallArgs& args) {
  std::vector<Value> bound;
  if (!Bind(rt, args, {"message"}, 1, bound)) return Value();
  const Value& message = bound[0];
  if (!message.is_string() || message.origin != Origin::kTemplate) {
    return rt.Fail("the template refuses these messages");
  }
  return rt.Fail("the template refuses: " + std::string(message.str().substr(0, 512)));
}

Value StrftimeNow(Runtime& rt, CallArgs& args) {
  std::vector<Value> bound;
  if (!Bind(rt, args, {"format"}, 1, bound)) return Value();
  if (!bound[0].is_string()) return rt.Fail("strftime_now takes a string");
  const std::string format(bound[0].str());
  if (format.empty()) return bound[0];
  if (format.size() > 256 || format.find('\0') != std::string::npos) {
    return rt.Fail("the time format is too long");
  }
  std::tm parts{};
  const std::time_t seconds = static_cast<std::time_t>(rt.unix_seconds);
  gmtime_r(&seconds, &parts);
  // A conversion may be padded to any width ("%999Y"): what does not fit gives nothing.
  char buffer[4096];
  const size_t length = std::strftime(buffer, sizeof buffer, format.c_str(), &parts);
  TextBuilder out(rt);
  out.Append({buffer, length},
             bound[0].origin == Origin::kTemplate ? Origin::kTemplate : Origin::kContent);
  return out.Finish();
}

struct GlobalRow {
  std::string_view name;
  Value (*call)(Runtime& rt, CallArgs& args);
};
constexpr GlobalRow kGlobals[] = {
    {"range", Range},
    {"dict", Dict},
    {"namespace", Namespace},
    {"raise_exception", RaiseException},
    {"strftime_now", StrftimeNow},
};

}  // namespace

bool Bind(Runtime& rt, const CallArgs& args, std::initializer_list<std::string_view> names,
          size_t required, std::vector<Value>& bound) {
  bound.assign(names.size(), Value());
  std::vector<bool> given(names.size(), false);
  if (args.positional.size() > names.size()) {
    rt.Fail("too many arguments");
    return false;
  }
  for (size_t i = 0; i < args.positional.size(); ++i) {
    bound[i] = args.positional[i];
    given[i] = true;
  }
  for (const auto& named : args.named) {
    size_t at = 0;
    while (at < names.size() && names.begin()[at] != named.first) ++at;
    if (at == names.size() || given[at]) {
      rt.Fail("unexpected keyword argument");
      return false;
    }
    bound[at] = named.second;
    given[at] = true;
  }
  for (size_t i = 0; i < required; ++i) {
    if (given[i]) continue;
    rt.Fail("an argument is missing");
    return false;
  }
  return !rt.failed();
}

int FindTest(std::string_view name) {
  for (size_t i = 0; i < std::size(kTests); ++i) {
    if (kTests[i].name == name) return static_cast<int>(i);
  }
  return -1;
}

bool CallTest(Runtime& rt, int test, CallArgs& args) {
  if (!rt.Step()) return false;
  if (test < 0) {
    rt.Fail("no such test");
    return false;
  }
  const bool holds = kTests[test].test(rt, args.positional[0], args);
  return holds && !rt.failed();
}

int FindGlobal(std::string_view name) {
  for (size_t i = 0; i < std::size(kGlobals); ++i) {
    if (kGlobals[i].name == name) return static_cast<int>(i);
  }
  return -1;
}

Value CallGlobal(Runtime& rt, int function, CallArgs& args) {
  return rt.Step() ? kGlobals[function].call(rt, args) : Value();
}

}  // namespace millrace::text
