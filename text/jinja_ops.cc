#include "text/jinja_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "text/jinja_chars.h"
#include "text/jinja_functions.h"

namespace millrace::text {
namespace {

// A dict of this many members gets an index; below, a scan is as quick.
constexpr size_t kIndexFrom = 16;

bool IsNumber(const Value& v) {
  return v.is(Kind::kInt) || v.is(Kind::kBool) || v.is(Kind::kFloat);
}
bool IsIntegral(const Value& v) {
  return v.is(Kind::kInt) || v.is(Kind::kBool);
}
double AsReal(const Value& v) {
  return v.is(Kind::kFloat) ? v.real : static_cast<double>(v.integer);
}
// 64 bits of mantissa: holds every int64_t and double, so that mixed comparison is exact.
long double AsWide(const Value& v) {
  return v.is(Kind::kFloat) ? static_cast<long double>(v.real)
                            : static_cast<long double>(v.integer);
}
bool Hashable(const Value& v) {
  if (v.is(Kind::kTuple)) return std::all_of(v.list->items.begin(), v.list->items.end(), Hashable);
  return !v.is(Kind::kList) && !v.is(Kind::kDict);
}

bool EqualDicts(Runtime& rt, const Value& a, const Value& b) {
  if (a.dict->items.size() != b.dict->items.size()) return false;
  for (const auto& item : a.dict->items) {
    const Value* other = FindItem(rt, b, item.first);
    if (other == nullptr || !Equal(rt, item.second, *other)) return false;
  }
  return true;
}

Value IntegerArithmetic(Runtime& rt, Op op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  switch (op) {
    case Op::kAdd:
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case Op::kSub:
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case Op::kMul:
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case Op::kPow:
      result = 1;
      // At most 63 doublings fit; 0, 1 and -1 need only the parity.
      if (a == 0 || a == 1) {
        result = b == 0 ? 1 : a;
      } else if (a == -1) {
        result = b % 2 == 0 ? 1 : -1;
      } else {
        for (int64_t i = 0; i < b && !overflow; ++i) {
          overflow = __builtin_mul_overflow(result, a, &result);
        }
      }
      break;
    default: {  // kFloorDiv, kMod: rounded down, unlike C
      if (b == -1) {
        overflow = op == Op::kFloorDiv && __builtin_sub_overflow(int64_t{0}, a, &result);
        break;
      }
      const int64_t remainder = a % b;
      const bool adjust = remainder != 0 && (remainder < 0) != (b < 0);
      result = op == Op::kMod ? remainder + (adjust ? b : 0) : a / b - (adjust ? 1 : 0);
    }
  }
  return overflow ? rt.Fail("integer too large") : Value::Int(result);
}

Value RealArithmetic(Op op, double a, double b) {
  switch (op) {
    case Op::kAdd:
      return Value::Float(a + b);
    case Op::kSub:
      return Value::Float(a - b);
    case Op::kMul:
      return Value::Float(a * b);
    case Op::kDiv:
      return Value::Float(a / b);
    case Op::kPow:
      return Value::Float(std::pow(a, b));
    default: {
      double remainder = std::fmod(a, b);
      if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
      if (op == Op::kMod) return Value::Float(remainder == 0 ? std::copysign(0.0, b) : remainder);
      // The quotient is whole but for rounding: to the nearest, without adding a half, which
      // rounds.
      const double quotient = (a - remainder) / b;
      const double whole = std::floor(quotient);
      return Value::Float(quotient - whole > 0.5 ? whole + 1 : whole);
    }
  }
}

Value NumberArithmetic(Runtime& rt, Op op, const Value& a, const Value& b) {
  const bool divides = op == Op::kDiv || op == Op::kFloorDiv || op == Op::kMod;
  if (divides && AsReal(b) == 0) return rt.Fail("division by zero");
  const bool integral = IsIntegral(a) && IsIntegral(b) && op != Op::kDiv;
  if (integral && !(op == Op::kPow && b.integer < 0)) {
    return IntegerArithmetic(rt, op, a.integer, b.integer);
  }
  const double x = AsReal(a), y = AsReal(b);
  if (op == Op::kPow && x == 0 && y < 0) return rt.Fail("division by zero");
  if (op == Op::kPow && x < 0 && y != std::floor(y)) return rt.Fail("complex numbers");
  return RealArithmetic(op, x, y);
}

Value Repeat(Runtime& rt, const Value& what, int64_t count) {
  if (count < 0) count = 0;
  const size_t unit = what.is_string() ? what.size : what.list->items.size() * sizeof(Value);
  // Charged before it is made; the product cannot wrap.
  const unsigned __int128 total =
      static_cast<unsigned __int128>(unit) * static_cast<uint64_t>(count);
  if (total > rt.limits.value_bytes_max) return rt.Fail("the template makes too much data");
  if (unit == 0) count = 0;
  if (what.is_string()) {
    TextBuilder out(rt);
    for (int64_t i = 0; i < count && rt.Step(); ++i) out.Append(what);
    return out.Finish();
  }
  Value list = rt.NewList(what.kind);
  for (int64_t i = 0; i < count && rt.Step(); ++i) {
    for (const Value& item : what.list->items) Push(rt, list, item);
  }
  return list;
}

// Python's slice.indices(): where to begin, end, and the step. False after a failure or for bounds
// that are no integers (then nothing has failed).
struct SliceBounds {
  int64_t begin, end, step;
};
bool ResolveSlice(Runtime& rt, const Value& slice, int64_t length, SliceBounds& bounds) {
  const std::vector<Value>& part = slice.list->items;
  for (const Value& v : part) {
    if (!v.is(Kind::kNone) && !IsIntegral(v)) return false;
  }
  bounds.step = part[2].is(Kind::kNone) ? 1 : part[2].integer;
  if (bounds.step == 0) {
    rt.Fail("slice step cannot be zero");
    return false;
  }
  const bool back = bounds.step < 0;
  const int64_t low = back ? -1 : 0;
  const int64_t high = back ? length - 1 : length;
  auto clamp = [&](const Value& v, int64_t missing) {
    if (v.is(Kind::kNone)) return missing;
    const int64_t at = v.integer < 0 ? v.integer + length : v.integer;
    return std::clamp(at, low, high);
  };
  bounds.begin = clamp(part[0], back ? high : low);
  bounds.end = clamp(part[1], back ? low : high);
  return true;
}

Value SliceString(Runtime& rt, const Value& string, const Value& slice) {
  if (!rt.Step(1 + string.size / 64)) return Value();
  const std::string_view text = string.str();
  SliceBounds b;
  if (!ResolveSlice(rt, slice, static_cast<int64_t>(CountChars(text)), b)) return Value();
  if (b.step == 1) {
    if (b.end <= b.begin) return string.Sub(0, 0);
    size_t at = 0;
    int64_t index = 0;
    for (; index < b.begin; ++index) at += CharLength(text.substr(at));
    const size_t begin = at;
    for (; index < b.end; ++index) at += CharLength(text.substr(at));
    return string.Sub(begin, at - begin);
  }
  std::vector<uint32_t> starts;  // of each character
  if (!rt.Charge(text.size() * sizeof(uint32_t))) return Value();
  for (size_t at = 0; at < text.size(); at += CharLength(text.substr(at))) {
    starts.push_back(static_cast<uint32_t>(at));
  }
  TextBuilder out(rt);
  for (int64_t i = b.begin; b.step > 0 ? i < b.end : i > b.end;) {
    out.Append(string.Sub(starts[i], CharLength(text.substr(starts[i]))));
    if (__builtin_add_overflow(i, b.step, &i) || !rt.Step()) break;
  }
  return out.Finish();
}

Value SliceList(Runtime& rt, const Value& list, const Value& slice) {
  const std::vector<Value>& items = list.list->items;
  SliceBounds b;
  if (!ResolveSlice(rt, slice, static_cast<int64_t>(items.size()), b)) return Value();
  Value out = rt.NewList(list.kind);
  for (int64_t i = b.begin; b.step > 0 ? i < b.end : i > b.end;) {
    Push(rt, out, items[i]);
    if (__builtin_add_overflow(i, b.step, &i) || rt.failed()) break;
  }
  rt.Step(1 + Length(rt, out) / 16);
  return out;
}

Value CharAt(Runtime& rt, const Value& string, int64_t index) {
  if (!rt.Step(1 + string.size / 64)) return Value();
  const std::string_view text = string.str();
  if (index < 0) index += static_cast<int64_t>(CountChars(text));
  if (index < 0) return Value();
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) at += CharLength(text.substr(at));
  return at < text.size() ? string.Sub(at, CharLength(text.substr(at))) : Value();
}

Value LoopAttr(Runtime& rt, const Value& loop, std::string_view name) {
  const int64_t index = static_cast<int64_t>(loop.loop->index);
  const int64_t length = static_cast<int64_t>(loop.loop->items->size());
  if (name == "index") return Value::Int(index + 1);
  if (name == "index0") return Value::Int(index);
  if (name == "revindex") return Value::Int(length - index);
  if (name == "revindex0") return Value::Int(length - index - 1);
  if (name == "first") return Value::Bool(index == 0);
  if (name == "last") return Value::Bool(index + 1 == length);
  if (name == "length") return Value::Int(length);
  if (name == "depth") return Value::Int(1);
  if (name == "depth0") return Value::Int(0);
  if (name == "previtem") return index > 0 ? (*loop.loop->items)[index - 1] : Value();
  if (name == "nextitem") return index + 1 < length ? (*loop.loop->items)[index + 1] : Value();
  if (name == "cycle" || name == "changed") {
    FunctionRep function;
    function.type = name == "cycle" ? FunctionRep::kCycle : FunctionRep::kChanged;
    function.self = loop;
    return rt.NewFunction(function);
  }
  return Value();
}

}  // namespace

bool Truthy(const Value& v) {
  switch (v.kind) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return v.integer != 0;
    case Kind::kFloat:
      return v.real != 0;
    case Kind::kString:
      return v.size != 0;
    case Kind::kList:
    case Kind::kTuple:
      return !v.list->items.empty();
    case Kind::kIterator:
      return v.list->one_shot || !v.list->items.empty();
    case Kind::kDict:
      return !v.dict->items.empty();
    default:
      return true;
  }
}

bool Equal(Runtime& rt, const Value& a, const Value& b) {
  DepthGuard guard(rt);
  if (!guard.ok() || !rt.Step()) return false;
  if (IsNumber(a) && IsNumber(b)) return AsWide(a) == AsWide(b);
  if (a.kind != b.kind) return false;
  switch (a.kind) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
    case Kind::kBigInt:
      rt.Step(std::min(a.size, b.size) / 64);
      return a.str() == b.str();
    case Kind::kList:
    case Kind::kTuple: {
      const auto& x = a.list->items;
      const auto& y = b.list->items;
      if (x.size() != y.size()) return false;
      for (size_t i = 0; i < x.size(); ++i) {
        if (!Equal(rt, x[i], y[i])) return false;
      }
      return true;
    }
    case Kind::kDict:
      return a.dict == b.dict || EqualDicts(rt, a, b);
    case Kind::kNamespace:
      return a.dict == b.dict;
    default:
      return a.list == b.list;
  }
}

int Order(Runtime& rt, const Value& a, const Value& b) {
  DepthGuard guard(rt);
  if (!guard.ok() || !rt.Step()) return 0;
  if (IsNumber(a) && IsNumber(b)) {
    return AsWide(a) < AsWide(b) ? -1 : AsWide(a) > AsWide(b) ? 1 : 0;
  }
  if (a.is_string() && b.is_string()) {
    // UTF-8 sorts as its code points do.
    const int order = a.str().compare(b.str());
    return order < 0 ? -1 : order > 0 ? 1 : 0;
  }
  if (a.kind != b.kind || !a.is_sequence()) {
    rt.Fail("these values have no order");
    return 0;
  }
  const auto& x = a.list->items;
  const auto& y = b.list->items;
  for (size_t i = 0; i < x.size() && i < y.size(); ++i) {
    if (!Equal(rt, x[i], y[i])) return rt.failed() ? 0 : Order(rt, x[i], y[i]);
  }
  return x.size() < y.size() ? -1 : x.size() > y.size() ? 1 : 0;
}

bool Contains(Runtime& rt, const Value& container, const Value& item) {
  if (container.is_string()) {
    if (!item.is_string()) {
      rt.Fail("only a string can be in a string");
      return false;
    }
    rt.Step(1 + container.size / 64);
    // memmem is linear; std::string::find is not.
    return item.size == 0 ||
           memmem(container.chars, container.size, item.chars, item.size) != nullptr;
  }
  if (container.is(Kind::kDict)) {
    if (!Hashable(item)) rt.Fail("this value cannot be a key");
    return FindItem(rt, container, item) != nullptr;
  }
  const std::vector<Value>* items = Items(rt, container);
  if (items == nullptr) return false;
  for (const Value& candidate : *items) {
    if (Equal(rt, candidate, item)) return true;
    if (rt.failed()) return false;
  }
  return false;
}

const std::vector<Value>* Items(Runtime& rt, const Value& what) {
  static const std::vector<Value> kNoItems;
  switch (what.kind) {
    case Kind::kUndefined:
      return &kNoItems;
    case Kind::kIterator:
      if (what.list->one_shot && std::exchange(what.list->consumed, true)) return &kNoItems;
      return &what.list->items;
    case Kind::kList:
    case Kind::kTuple:
      return &what.list->items;
    case Kind::kDict: {
      Value keys = rt.NewList(Kind::kList);
      for (const auto& item : what.dict->items) Push(rt, keys, item.first);
      return rt.failed() ? nullptr : &keys.list->items;
    }
    case Kind::kString: {
      Value list = rt.NewList(Kind::kList);
      for (size_t at = 0; at < what.size && !rt.failed();) {
        const size_t length = CharLength(what.str().substr(at));
        Push(rt, list, what.Sub(at, length));
        at += length;
      }
      return rt.failed() ? nullptr : &list.list->items;
    }
    default:
      rt.Fail("this value cannot be walked over");
      return nullptr;
  }
}

int64_t Length(Runtime& rt, const Value& v) {
  switch (v.kind) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      rt.Step(1 + v.size / 64);
      return static_cast<int64_t>(CountChars(v.str()));
    case Kind::kList:
    case Kind::kTuple:
      return static_cast<int64_t>(v.list->items.size());
    case Kind::kDict:
      return static_cast<int64_t>(v.dict->items.size());
    case Kind::kIterator:
      if (!v.list->one_shot) return static_cast<int64_t>(v.list->items.size());
      break;
    case Kind::kLoop:
      return static_cast<int64_t>(v.loop->items->size());
    default:
      break;
  }
  rt.Fail("this value has no length");
  return 0;
}

void Push(Runtime& rt, const Value& list, const Value& item) {
  if (rt.failed() || !rt.Charge(sizeof(Value))) return;
  list.list->items.push_back(item);
}

const Value* FindItem(Runtime& rt, const Value& dict, const Value& key) {
  const DictRep& rep = *dict.dict;
  if (key.is_string() && !rep.index.empty()) {
    auto it = rep.index.find(key.str());
    return it == rep.index.end() ? nullptr : &rep.items[it->second].second;
  }
  if (!rt.Step(1 + rep.items.size() / 16)) return nullptr;
  for (const auto& item : rep.items) {
    if (key.is_string()) {
      if (item.first.is_string() && item.first.str() == key.str()) return &item.second;
    } else if (!item.first.is_string() && Equal(rt, item.first, key)) {
      return &item.second;
    }
  }
  return nullptr;
}

void SetItem(Runtime& rt, const Value& dict, const Value& key, const Value& value) {
  if (rt.failed()) return;
  if (!Hashable(key)) {
    rt.Fail("this value cannot be a key");
    return;
  }
  if (const Value* old = FindItem(rt, dict, key); old != nullptr) {
    *const_cast<Value*>(old) = value;  // ours: found in `dict` above
    return;
  }
  if (rt.failed() || !rt.Charge(sizeof(std::pair<Value, Value>))) return;
  DictRep& rep = *dict.dict;
  rep.items.emplace_back(key, value);
  if (rep.items.size() < kIndexFrom) return;
  for (size_t i = rep.index.empty() ? 0 : rep.items.size() - 1; i < rep.items.size(); ++i) {
    const Value& k = rep.items[i].first;
    if (k.is_string()) rep.index.try_emplace(k.str(), static_cast<uint32_t>(i));
  }
}

Value Arithmetic(Runtime& rt, Op op, const Value& a, const Value& b) {
  if (!rt.Step()) return Value();
  if (IsNumber(a) && IsNumber(b)) return NumberArithmetic(rt, op, a, b);
  if (op == Op::kAdd && a.is_string() && b.is_string()) {
    TextBuilder out(rt);
    out.Append(a);
    out.Append(b);
    return out.Finish();
  }
  if (op == Op::kAdd && a.kind == b.kind && a.is_sequence()) {
    Value list = rt.NewList(a.kind);
    rt.Step((a.list->items.size() + b.list->items.size()) / 16);
    for (const Value* from : {&a, &b}) {
      for (const Value& item : from->list->items) Push(rt, list, item);
    }
    return list;
  }
  const bool a_repeats = a.is_string() || a.is_sequence();
  const bool b_repeats = b.is_string() || b.is_sequence();
  if (op == Op::kMul && a_repeats && IsIntegral(b)) return Repeat(rt, a, b.integer);
  if (op == Op::kMul && b_repeats && IsIntegral(a)) return Repeat(rt, b, a.integer);
  if (op == Op::kMod && a.is_string()) {
    return Format(rt, a, b.is(Kind::kTuple) ? b.list->items : std::vector<Value>{b});
  }
  if (a.is(Kind::kUndefined) || b.is(Kind::kUndefined)) return rt.Fail("a value is undefined");
  if (a.is(Kind::kBigInt) || b.is(Kind::kBigInt)) return rt.Fail("integer too large");
  return rt.Fail("these values do not have this operation");
}

Value Negate(Runtime& rt, const Value& value) {
  if (value.is(Kind::kFloat)) return Value::Float(-value.real);
  if (!IsIntegral(value)) return rt.Fail("this value cannot be negated");
  return IntegerArithmetic(rt, Op::kSub, 0, value.integer);
}

Value GetAttr(Runtime& rt, const Value& object, std::string_view name) {
  if (!rt.Step()) return Value();
  if (object.is(Kind::kUndefined)) return rt.Fail("a value is undefined");
  if (object.is(Kind::kLoop)) return LoopAttr(rt, object, name);
  if (object.is(Kind::kNamespace)) {
    const Value* member = FindItem(rt, object, Value::String(name, Origin::kTemplate));
    return member != nullptr ? *member : Value();
  }
  // A method hides a member of that name, as in Python.
  const int method = FindMethod(object.kind, name);
  if (method >= 0) {
    FunctionRep function;
    function.type = FunctionRep::kMethod;
    function.id = method;
    function.self = object;
    return rt.NewFunction(function);
  }
  if (!object.is(Kind::kDict)) return Value();
  const Value* member = FindItem(rt, object, Value::String(name, Origin::kTemplate));
  return member != nullptr ? *member : Value();
}

Value GetItem(Runtime& rt, const Value& object, const Value& key) {
  if (!rt.Step()) return Value();
  if (object.is(Kind::kUndefined)) return rt.Fail("a value is undefined");
  if (key.is(Kind::kSlice)) {
    if (object.is_string()) return SliceString(rt, object, key);
    return object.is_sequence() ? SliceList(rt, object, key) : Value();
  }
  if (object.is(Kind::kDict)) {
    const Value* member = Hashable(key) ? FindItem(rt, object, key) : nullptr;
    if (member != nullptr) return *member;
  }
  if (IsIntegral(key) && object.is_string()) return CharAt(rt, object, key.integer);
  if (IsIntegral(key) && object.is_sequence()) {
    const int64_t length = static_cast<int64_t>(object.list->items.size());
    const int64_t at = key.integer < 0 ? key.integer + length : key.integer;
    return at >= 0 && at < length ? object.list->items[at] : Value();
  }
  return key.is_string() ? GetAttr(rt, object, key.str()) : Value();
}

}  // namespace millrace::text
