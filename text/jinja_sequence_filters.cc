// Filters over sequences. Those that are generators in Jinja give an iterator that can be walked
// once; it is filled at once, which no template can tell apart but by its errors' order.

#include <algorithm>

#include "text/jinja_functions.h"
#include "text/jinja_ops.h"
#include "text/jinja_strings.h"

namespace millrace::text::sequence_filters {
namespace {

using Bound = std::vector<Value>;

bool IsNone(const Value& v) {
  return v.is(Kind::kUndefined) || v.is(Kind::kNone);
}

Value NewIterator(Runtime& rt) {
  Value iterator = rt.NewList(Kind::kIterator);
  if (!rt.failed()) iterator.list->one_shot = true;
  return iterator;
}

// The value at a path such as "function.name" or "0.text"; an undefined path is the item itself.
Value AtPath(Runtime& rt, const Value& item, const Value& path) {
  if (IsNone(path)) return item;
  if (path.is(Kind::kInt)) return GetItem(rt, item, path);
  if (!path.is_string()) return rt.Fail("an attribute is a string or a number");
  Value value = item;
  std::string_view rest = path.str();
  for (bool more = true; more && !rt.failed();) {
    const size_t dot = rest.find('.');
    const std::string_view part = rest.substr(0, dot);
    more = dot != std::string_view::npos;
    if (more) rest = rest.substr(dot + 1);
    const bool digits = !part.empty() && part.size() < 10 &&
                        part.find_first_not_of("0123456789") == std::string_view::npos;
    const Value key = digits ? Value::Int(std::atoi(std::string(part).c_str())) : path.Sub(part);
    value = GetItem(rt, value, key);
  }
  return value;
}

// What sorting and comparing sees: strings in lower case unless case counts.
Value SortKey(Runtime& rt, const Value& value, bool case_sensitive) {
  return value.is_string() && !case_sensitive ? StringCase(rt, value, Case::kLower) : value;
}

// select, reject and their attr forms: `first` is where the test's name stands.
Value Filtered(Runtime& rt, CallArgs& args, bool keep, bool by_attribute) {
  if (args.positional.empty() || (by_attribute && args.positional.size() < 2)) {
    return rt.Fail("an attribute is missing");
  }
  if (!args.named.empty()) return rt.Fail("keyword arguments are not supported here");
  const size_t first = by_attribute ? 2 : 1;
  int test = -1;
  CallArgs test_args;
  if (args.positional.size() > first) {
    const Value& name = args.positional[first];
    test = name.is_string() ? FindTest(name.str()) : -1;
    if (test < 0) return rt.Fail("no such test");
    test_args.positional.assign(args.positional.begin() + static_cast<ptrdiff_t>(first),
                                args.positional.end());
  }
  const std::vector<Value>* items = Items(rt, args.positional[0]);
  Value out = NewIterator(rt);
  for (size_t i = 0; !rt.failed() && i < items->size() && rt.Step(); ++i) {
    const Value& item = (*items)[i];
    const Value subject = by_attribute ? AtPath(rt, item, args.positional[1]) : item;
    bool holds = Truthy(subject);
    if (test >= 0) {
      test_args.positional[0] = subject;
      holds = CallTest(rt, test, test_args);
    }
    if (holds == keep) Push(rt, out, item);
  }
  return out;
}

Value Extreme(Runtime& rt, CallArgs& args, int sign) {
  Bound b;
  if (!Bind(rt, args, {"value", "case_sensitive", "attribute"}, 1, b)) return Value();
  const std::vector<Value>* items = Items(rt, b[0]);
  if (items == nullptr || items->empty()) return Value();
  Value best = (*items)[0];
  Value best_key = SortKey(rt, AtPath(rt, best, b[2]), Truthy(b[1]));
  for (size_t i = 1; i < items->size() && !rt.failed(); ++i) {
    const Value key = SortKey(rt, AtPath(rt, (*items)[i], b[2]), Truthy(b[1]));
    if (Order(rt, key, best_key) * sign <= 0) continue;
    best = (*items)[i];
    best_key = key;
  }
  return rt.failed() ? Value() : best;
}

struct Keyed {
  Value key;
  Value item;
};

// Stable in both directions, as Python's sorted. After a failure all compare equal.
Value SortKeyed(Runtime& rt, std::vector<Keyed> keyed, bool reverse) {
  if (!rt.Charge(keyed.size() * sizeof(Keyed))) return Value();
  std::stable_sort(keyed.begin(), keyed.end(), [&](const Keyed& a, const Keyed& b) {
    const int order = Order(rt, a.key, b.key);
    return !rt.failed() && (reverse ? order > 0 : order < 0);
  });
  Value list = rt.NewList(Kind::kList);
  for (const Keyed& k : keyed) Push(rt, list, k.item);
  return list;
}

}  // namespace

Value DictItems(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"value"}, 1, b)) return Value();
  Value out = NewIterator(rt);
  if (b[0].is(Kind::kUndefined)) return out;
  if (!b[0].is(Kind::kDict)) return rt.Fail("items needs a mapping");
  for (const auto& item : b[0].dict->items) {
    Value pair = rt.NewList(Kind::kTuple);
    Push(rt, pair, item.first);
    Push(rt, pair, item.second);
    Push(rt, out, pair);
    if (!rt.Step()) return Value();
  }
  return out;
}

Value DictSort(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"value", "case_sensitive", "by", "reverse"}, 1, b)) return Value();
  if (!b[0].is(Kind::kDict)) return rt.Fail("dictsort needs a mapping");
  const bool by_value = b[2].is_string() && b[2].str() == "value";
  if (b[2].is_string() && !by_value && b[2].str() != "key") return rt.Fail("by is key or value");
  std::vector<Keyed> keyed;
  for (const auto& item : b[0].dict->items) {
    Value pair = rt.NewList(Kind::kTuple);
    Push(rt, pair, item.first);
    Push(rt, pair, item.second);
    if (!rt.Step()) return Value();
    keyed.push_back({SortKey(rt, by_value ? item.second : item.first, Truthy(b[1])), pair});
  }
  return SortKeyed(rt, std::move(keyed), Truthy(b[3]));
}

Value First(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"seq"}, 1, b)) return Value();
  if (b[0].is_string()) return GetItem(rt, b[0], Value::Int(0));
  const std::vector<Value>* items = Items(rt, b[0]);
  return items == nullptr || items->empty() ? Value() : items->front();
}

Value Last(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"seq"}, 1, b)) return Value();
  if (b[0].is_string()) return GetItem(rt, b[0], Value::Int(-1));
  if (b[0].is(Kind::kIterator) && b[0].list->one_shot) return rt.Fail("cannot be reversed");
  const std::vector<Value>* items = Items(rt, b[0]);
  return items == nullptr || items->empty() ? Value() : items->back();
}

Value JoinItems(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"value", "d", "attribute"}, 1, b)) return Value();
  const std::vector<Value>* items = Items(rt, b[0]);
  if (items == nullptr) return Value();
  const Value separator = ToString(rt, b[1]);
  std::vector<Value> parts;
  for (const Value& item : *items) {
    parts.push_back(AtPath(rt, item, b[2]));
    if (!rt.Charge(sizeof(Value))) return Value();
  }
  return Join(rt, separator.is_string() ? separator : Value::String("", Origin::kTemplate), parts);
}

Value ToList(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"value"}, 1, b)) return Value();
  const std::vector<Value>* items = Items(rt, b[0]);
  Value list = rt.NewList(Kind::kList);
  for (size_t i = 0; !rt.failed() && i < items->size(); ++i) Push(rt, list, (*items)[i]);
  rt.Step(1 + (rt.failed() ? 0 : items->size() / 16));
  return list;
}

Value Map(Runtime& rt, CallArgs& args) {
  Value attribute;
  Value fallback;
  for (const auto& named : args.named) {
    if (named.first == "attribute") attribute = named.second;
    if (named.first == "default") fallback = named.second;
    if (named.first != "attribute" && named.first != "default") {
      return rt.Fail("unexpected keyword argument");
    }
  }
  int filter = -1;
  CallArgs inner;
  if (attribute.is(Kind::kUndefined)) {
    if (args.positional.size() < 2 || !args.positional[1].is_string()) {
      return rt.Fail("map needs a filter");
    }
    filter = FindFilter(args.positional[1].str());
    if (filter < 0) return rt.Fail("no such filter");
    inner.positional.assign(args.positional.begin() + 1, args.positional.end());
  }
  const std::vector<Value>* items = Items(rt, args.positional[0]);
  Value out = NewIterator(rt);
  for (size_t i = 0; !rt.failed() && i < items->size() && rt.Step(); ++i) {
    Value mapped;
    if (filter >= 0) {
      inner.positional[0] = (*items)[i];
      mapped = CallFilter(rt, filter, inner);
    } else {
      mapped = AtPath(rt, (*items)[i], attribute);
      if (mapped.is(Kind::kUndefined)) mapped = fallback;
    }
    Push(rt, out, mapped);
  }
  return out;
}

Value Max(Runtime& rt, CallArgs& args) {
  return Extreme(rt, args, 1);
}
Value Min(Runtime& rt, CallArgs& args) {
  return Extreme(rt, args, -1);
}
Value Reject(Runtime& rt, CallArgs& args) {
  return Filtered(rt, args, false, false);
}
Value RejectAttr(Runtime& rt, CallArgs& args) {
  return Filtered(rt, args, false, true);
}
Value Select(Runtime& rt, CallArgs& args) {
  return Filtered(rt, args, true, false);
}
Value SelectAttr(Runtime& rt, CallArgs& args) {
  return Filtered(rt, args, true, true);
}

Value Reverse(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"value"}, 1, b)) return Value();
  if (b[0].is_string()) {
    const Value slice = rt.NewList(Kind::kSlice);
    Push(rt, slice, Value::None());
    Push(rt, slice, Value::None());
    Push(rt, slice, Value::Int(-1));
    return rt.failed() ? Value() : GetItem(rt, b[0], slice);
  }
  const std::vector<Value>* items = Items(rt, b[0]);
  Value out = NewIterator(rt);
  for (size_t i = rt.failed() ? 0 : items->size(); i > 0; --i) Push(rt, out, (*items)[i - 1]);
  return out;
}

Value Sort(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"value", "reverse", "case_sensitive", "attribute"}, 1, b)) return Value();
  const std::vector<Value>* items = Items(rt, b[0]);
  if (items == nullptr) return Value();
  std::vector<Keyed> keyed;
  for (const Value& item : *items) {
    keyed.push_back({SortKey(rt, AtPath(rt, item, b[3]), Truthy(b[2])), item});
    if (!rt.Step()) return Value();
  }
  return SortKeyed(rt, std::move(keyed), Truthy(b[1]));
}

Value Sum(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"iterable", "attribute", "start"}, 1, b)) return Value();
  const std::vector<Value>* items = Items(rt, b[0]);
  Value sum = b[2].is(Kind::kUndefined) ? Value::Int(0) : b[2];
  if (sum.is_string()) return rt.Fail("strings cannot be summed");
  for (size_t i = 0; !rt.failed() && i < items->size(); ++i) {
    sum = Arithmetic(rt, Op::kAdd, sum, AtPath(rt, (*items)[i], b[1]));
  }
  return sum;
}

Value Unique(Runtime& rt, CallArgs& args) {
  Bound b;
  if (!Bind(rt, args, {"value", "case_sensitive", "attribute"}, 1, b)) return Value();
  const std::vector<Value>* items = Items(rt, b[0]);
  Value seen = rt.NewDict();
  Value out = NewIterator(rt);
  for (size_t i = 0; !rt.failed() && i < items->size() && rt.Step(); ++i) {
    const Value key = SortKey(rt, AtPath(rt, (*items)[i], b[2]), Truthy(b[1]));
    if (rt.failed() || FindItem(rt, seen, key) != nullptr) continue;
    SetItem(rt, seen, key, Value::None());
    Push(rt, out, (*items)[i]);
  }
  return out;
}

}  // namespace millrace::text::sequence_filters
