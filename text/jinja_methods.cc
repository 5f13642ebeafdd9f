// Methods of strings, mappings and lists: those of Python that templates call and that change
// nothing, as in Jinja's immutable sandbox.

#include <algorithm>

#include "text/jinja_functions.h"
#include "text/jinja_ops.h"
#include "text/jinja_strings.h"

namespace millrace::text {
namespace {

constexpr size_t kNpos = std::string_view::npos;

bool IsNone(const Value& v) {
  return v.is(Kind::kUndefined) || v.is(Kind::kNone);
}

bool NeedString(Runtime& rt, const Value& v) {
  if (!v.is_string()) rt.Fail("a string is required");
  return !rt.failed();
}

Value Strip(Runtime& rt, const Value& self, CallArgs& args, bool left, bool right) {
  std::vector<Value> bound;
  if (!args.named.empty()) return rt.Fail("strip takes no keyword arguments");
  if (!Bind(rt, args, {"chars"}, 0, bound)) return Value();
  if (!rt.Step(1 + self.size / 64)) return Value();
  if (IsNone(bound[0])) return self.Sub(TrimSpace(self.str(), left, right));
  if (!NeedString(rt, bound[0]) || !rt.Step(bound[0].size)) return Value();
  return self.Sub(TrimChars(self.str(), bound[0].str(), left, right));
}

Value SplitBy(Runtime& rt, const Value& self, CallArgs& args, bool from_right) {
  std::vector<Value> bound;
  if (!Bind(rt, args, {"sep", "maxsplit"}, 0, bound)) return Value();
  int64_t count = -1;
  if (bound[1].is(Kind::kInt)) {
    count = bound[1].integer;
  } else if (!bound[1].is(Kind::kUndefined)) {
    return rt.Fail("maxsplit is an integer");
  }
  return from_right ? RSplit(rt, self, bound[0], count) : Split(rt, self, bound[0], count);
}

// startswith and endswith: a string, or a tuple of them of which any will do.
Value HasEnd(Runtime& rt, const Value& self, CallArgs& args, bool start) {
  std::vector<Value> bound;
  if (!Bind(rt, args, {"prefix"}, 1, bound)) return Value();
  const std::vector<Value> one = {bound[0]};
  const std::vector<Value>& ends = bound[0].is(Kind::kTuple) ? bound[0].list->items : one;
  for (const Value& end : ends) {
    if (!NeedString(rt, end) || !rt.Step(1 + end.size / 64)) return Value();
    const std::string_view s = self.str();
    if (end.size > s.size()) continue;
    const std::string_view part = start ? s.substr(0, end.size) : s.substr(s.size() - end.size);
    if (part == end.str()) return Value::Bool(true);
  }
  return Value::Bool(false);
}

Value RemoveEnd(Runtime& rt, const Value& self, CallArgs& args, bool start) {
  const Value has = HasEnd(rt, self, args, start);
  if (rt.failed() || !args.positional[0].is_string()) return rt.Fail("a string is required");
  if (!Truthy(has)) return self;
  const size_t length = args.positional[0].size;
  return start ? self.Sub(length, self.size - length) : self.Sub(0, self.size - length);
}

Value ReplaceIn(Runtime& rt, const Value& self, CallArgs& args) {
  std::vector<Value> bound;
  if (!Bind(rt, args, {"old", "new", "count"}, 2, bound)) return Value();
  if (!NeedString(rt, bound[0]) || !NeedString(rt, bound[1])) return Value();
  if (!bound[2].is(Kind::kUndefined) && !bound[2].is(Kind::kInt)) return rt.Fail("bad count");
  return Replace(rt, self, bound[0], bound[1], bound[2].is(Kind::kInt) ? bound[2].integer : -1);
}

Value JoinWith(Runtime& rt, const Value& self, CallArgs& args) {
  std::vector<Value> bound;
  if (!Bind(rt, args, {"iterable"}, 1, bound)) return Value();
  const std::vector<Value>* items = Items(rt, bound[0]);
  if (items == nullptr) return Value();
  for (const Value& item : *items) {
    if (!NeedString(rt, item)) return Value();  // unlike the filter, this converts nothing
  }
  return Join(rt, self, *items);
}

// find, rfind, index, rindex: the place in characters.
Value FindIn(Runtime& rt, const Value& self, CallArgs& args, bool last, bool must) {
  std::vector<Value> bound;
  if (!Bind(rt, args, {"sub"}, 1, bound) || !NeedString(rt, bound[0])) return Value();
  if (!rt.Step(1 + self.size / 64)) return Value();
  size_t found = FindText(self.str(), bound[0].str(), 0);
  if (last && found != kNpos) {
    // From the right by linear searches from the left: rfind of the library is quadratic.
    for (size_t next = found; next != kNpos && rt.Step();) {
      found = next;
      next = next < self.size ? FindText(self.str(), bound[0].str(), next + 1) : kNpos;
    }
  }
  if (found == kNpos) return must ? rt.Fail("substring not found") : Value::Int(-1);
  return Value::Int(static_cast<int64_t>(CountChars(self.str().substr(0, found))));
}

Value CountIn(Runtime& rt, const Value& self, CallArgs& args) {
  std::vector<Value> bound;
  if (!Bind(rt, args, {"sub"}, 1, bound) || !NeedString(rt, bound[0])) return Value();
  if (!rt.Step(1 + self.size / 64)) return Value();
  if (bound[0].size == 0) return Value::Int(static_cast<int64_t>(CountChars(self.str())) + 1);
  int64_t count = 0;
  for (size_t at = 0; rt.Step(); ++count) {
    at = FindText(self.str(), bound[0].str(), at);
    if (at == kNpos) break;
    at += bound[0].size;
  }
  return Value::Int(count);
}

Value Partition(Runtime& rt, const Value& self, CallArgs& args) {
  std::vector<Value> bound;
  if (!Bind(rt, args, {"sep"}, 1, bound) || !NeedString(rt, bound[0])) return Value();
  if (bound[0].size == 0) return rt.Fail("empty separator");
  if (!rt.Step(1 + self.size / 64)) return Value();
  const size_t found = FindText(self.str(), bound[0].str(), 0);
  const size_t cut = found == kNpos ? self.size : found;
  const size_t after = found == kNpos ? self.size : found + bound[0].size;
  Value parts = rt.NewList(Kind::kTuple);
  Push(rt, parts, self.Sub(0, cut));
  Push(rt, parts, self.Sub(cut, after - cut));
  Push(rt, parts, self.Sub(after, self.size - after));
  return parts;
}

// All characters satisfy `is`, and there is one.
Value AllChars(Runtime& rt, const Value& self, bool (*is)(uint32_t)) {
  const std::string_view s = self.str();
  if (!rt.Step(1 + s.size() / 32)) return Value();
  for (size_t at = 0; at < s.size(); at += CharLength(s.substr(at))) {
    if (!is(FirstCodePoint(s.substr(at)))) return Value::Bool(false);
  }
  return Value::Bool(!s.empty());
}

Value ViewOf(Runtime& rt, const Value& self, bool keys, bool values) {
  Value view = rt.NewList(Kind::kIterator);
  if (!rt.Step(1 + self.dict->items.size() / 4)) return Value();
  for (const auto& item : self.dict->items) {
    if (keys != values) {
      Push(rt, view, keys ? item.first : item.second);
      continue;
    }
    Value pair = rt.NewList(Kind::kTuple);
    Push(rt, pair, item.first);
    Push(rt, pair, item.second);
    Push(rt, view, pair);
  }
  return view;
}

Value GetMember(Runtime& rt, const Value& self, CallArgs& args) {
  std::vector<Value> bound;
  if (!args.named.empty()) return rt.Fail("get takes no keyword arguments");
  if (!Bind(rt, args, {"key", "default"}, 1, bound)) return Value();
  if (bound[0].is(Kind::kList) || bound[0].is(Kind::kDict)) {
    return rt.Fail("this value cannot be a key");
  }
  const Value* member = FindItem(rt, self, bound[0]);
  if (member != nullptr) return *member;
  return args.positional.size() > 1 ? bound[1] : Value::None();
}

Value ListFind(Runtime& rt, const Value& self, CallArgs& args, bool count) {
  std::vector<Value> bound;
  if (!Bind(rt, args, {"value"}, 1, bound)) return Value();
  int64_t found = 0;
  for (size_t i = 0; i < self.list->items.size() && !rt.failed(); ++i) {
    if (!Equal(rt, self.list->items[i], bound[0])) continue;
    if (!count) return Value::Int(static_cast<int64_t>(i));
    ++found;
  }
  return count ? Value::Int(found) : rt.Fail("the value is not in the list");
}

bool CharIsSpace(uint32_t c) {
  std::string text;
  AppendCased(c, Case::kLower, text);
  return SpaceLength(text) > 0;
}

struct MethodRow {
  Kind kind;
  std::string_view name;
  Value (*call)(Runtime& rt, const Value& self, CallArgs& args);
};
#define METHOD(kind, name, expression)                                                     \
  {                                                                                        \
    Kind::kind, name,                                                                      \
        [](Runtime& rt, const Value& self, CallArgs& args) -> Value { return expression; } \
  }
// As METHOD, for one without arguments.
#define PLAIN(kind, name, expression)                                   \
  METHOD(kind, name,                                                    \
         (args.positional.empty() && args.named.empty()) ? (expression) \
                                                         : rt.Fail("too many arguments"))
constexpr MethodRow kMethods[] = {
    METHOD(kString, "strip", Strip(rt, self, args, true, true)),
    METHOD(kString, "lstrip", Strip(rt, self, args, true, false)),
    METHOD(kString, "rstrip", Strip(rt, self, args, false, true)),
    METHOD(kString, "split", SplitBy(rt, self, args, false)),
    METHOD(kString, "rsplit", SplitBy(rt, self, args, true)),
    PLAIN(kString, "splitlines", SplitLines(rt, self, false)),
    METHOD(kString, "startswith", HasEnd(rt, self, args, true)),
    METHOD(kString, "endswith", HasEnd(rt, self, args, false)),
    METHOD(kString, "removeprefix", RemoveEnd(rt, self, args, true)),
    METHOD(kString, "removesuffix", RemoveEnd(rt, self, args, false)),
    METHOD(kString, "replace", ReplaceIn(rt, self, args)),
    METHOD(kString, "join", JoinWith(rt, self, args)),
    METHOD(kString, "find", FindIn(rt, self, args, false, false)),
    METHOD(kString, "rfind", FindIn(rt, self, args, true, false)),
    METHOD(kString, "index", FindIn(rt, self, args, false, true)),
    METHOD(kString, "rindex", FindIn(rt, self, args, true, true)),
    METHOD(kString, "count", CountIn(rt, self, args)),
    METHOD(kString, "partition", Partition(rt, self, args)),
    PLAIN(kString, "upper", StringCase(rt, self, Case::kUpper)),
    PLAIN(kString, "lower", StringCase(rt, self, Case::kLower)),
    PLAIN(kString, "title", Title(rt, self)),
    PLAIN(kString, "capitalize", Capitalize(rt, self)),
    PLAIN(kString, "isdigit", AllChars(rt, self, IsDecimal)),
    PLAIN(kString, "isdecimal", AllChars(rt, self, IsDecimal)),
    PLAIN(kString, "isalpha", AllChars(rt, self, IsAlpha)),
    PLAIN(kString, "isalnum",
          AllChars(rt, self, [](uint32_t c) { return IsAlpha(c) || IsDecimal(c); })),
    PLAIN(kString, "isspace", AllChars(rt, self, CharIsSpace)),
    PLAIN(kDict, "items", ViewOf(rt, self, true, true)),
    PLAIN(kDict, "keys", ViewOf(rt, self, true, false)),
    PLAIN(kDict, "values", ViewOf(rt, self, false, true)),
    METHOD(kDict, "get", GetMember(rt, self, args)),
    METHOD(kList, "index", ListFind(rt, self, args, false)),
    METHOD(kList, "count", ListFind(rt, self, args, true)),
    METHOD(kTuple, "index", ListFind(rt, self, args, false)),
    METHOD(kTuple, "count", ListFind(rt, self, args, true)),
};
#undef METHOD
#undef PLAIN

}  // namespace

int FindMethod(Kind kind, std::string_view name) {
  for (size_t i = 0; i < std::size(kMethods); ++i) {
    if (kMethods[i].kind == kind && kMethods[i].name == name) return static_cast<int>(i);
  }
  return -1;
}

Value CallMethod(Runtime& rt, int method, const Value& self, CallArgs& args) {
  return rt.Step() ? kMethods[method].call(rt, self, args) : Value();
}

}  // namespace millrace::text
