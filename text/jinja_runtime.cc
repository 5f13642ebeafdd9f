#include "text/jinja_runtime.h"

#include "text/jinja_lexer.h"
#include "text/jinja_ops.h"

namespace millrace::text {

Value Value::Of(Kind kind) {
  Value value;
  value.kind = kind;
  return value;
}

Value Value::Of(Kind kind, ListRep* list) {
  Value value = Of(kind);
  value.list = list;
  return value;
}

Value Value::Int(int64_t i, Kind kind) {
  Value value = Of(kind);
  value.integer = i;
  return value;
}

Value Value::Float(double d) {
  Value value = Of(Kind::kFloat);
  value.real = d;
  return value;
}

Value Value::String(std::string_view text, Origin origin) {
  Value value = Of(Kind::kString);
  value.origin = origin;
  value.chars = text.data();
  value.size = static_cast<uint32_t>(text.size());
  return value;
}

Value Value::Sub(size_t begin, size_t length) const {
  Value value = *this;
  value.chars = chars + begin;
  value.size = static_cast<uint32_t>(length);
  return value;
}

Value Runtime::Fail(std::string_view what) {
  if (error.ok()) error = JinjaError(line, what);
  return Value();
}

bool Runtime::Step(size_t count) {
  steps_ += count;
  if (steps_ > limits.steps_max) Fail("the template takes too many steps");
  return !failed();
}

bool Runtime::Charge(size_t bytes) {
  bytes_ += bytes;
  if (bytes_ > limits.value_bytes_max) Fail("the template makes too much data");
  return !failed();
}

Value Runtime::NewString(std::string bytes, Origin origin) {
  strings_.push_back(std::move(bytes));
  return Value::String(strings_.back(), origin);
}

Value Runtime::NewMixed(std::string bytes, std::vector<TextRange> content) {
  mixed_.push_back({std::move(bytes), std::move(content)});
  Value value = Value::String(mixed_.back().bytes, Origin::kMixed);
  value.mixed = &mixed_.back();
  return value;
}

Value Runtime::NewList(Kind kind, size_t reserve) {
  if (!Charge(sizeof(ListRep) + reserve * sizeof(Value))) return Value();
  lists_.emplace_back();
  lists_.back().items.reserve(reserve);
  return Value::Of(kind, &lists_.back());
}

Value Runtime::NewDict(Kind kind) {
  if (!Charge(sizeof(DictRep))) return Value();
  dicts_.emplace_back();
  Value value = Value::Of(kind);
  value.dict = &dicts_.back();
  return value;
}

LoopRep* Runtime::NewLoop() {
  Charge(sizeof(LoopRep));
  loops_.emplace_back();
  return &loops_.back();
}

Value Runtime::NewFunction(FunctionRep function) {
  Charge(sizeof(FunctionRep));
  functions_.push_back(function);
  Value value = Value::Of(Kind::kFunction);
  value.function = &functions_.back();
  return value;
}

DepthGuard::DepthGuard(Runtime& runtime)
    // Sixteen levels of ours for each that a template's writer would count: a macro call alone
    // takes about ten. 64 * 16 levels of at most 1 KiB of stack are 1 MiB.
    : rt_(runtime), ok_(++runtime.depth <= 16 * runtime.limits.depth_max) {
  if (!ok_) rt_.Fail("nested too deeply");
}

void TextBuilder::Append(std::string_view text, Origin origin) {
  if (text.empty() || rt_.failed()) return;
  if (output_) {
    if (bytes_.size() + text.size() > rt_.limits.output_bytes_max) {
      rt_.Fail("the prompt is too long");
      return;
    }
  } else if (!rt_.Charge(text.size())) {
    return;
  }
  if (origin == Origin::kContent) {
    const size_t begin = bytes_.size();
    const size_t end = begin + text.size();
    if (!content_.empty() && content_.back().end == begin) {
      content_.back().end = end;
    } else {
      if (!output_ && !rt_.Charge(sizeof(TextRange))) return;
      content_.push_back({begin, end});
    }
  }
  bytes_ += text;
}

void TextBuilder::Append(const Value& string) {
  ForEachPart(string, [this](std::string_view part, Origin origin) { Append(part, origin); });
}

Value TextBuilder::Finish() {
  if (rt_.failed()) return Value();
  std::string bytes = std::exchange(bytes_, std::string());
  std::vector<TextRange> content = std::exchange(content_, {});
  if (content.empty()) return rt_.NewString(std::move(bytes), Origin::kTemplate);
  if (content.size() == 1 && content[0].begin == 0 && content[0].end == bytes.size()) {
    return rt_.NewString(std::move(bytes), Origin::kContent);
  }
  return rt_.NewMixed(std::move(bytes), std::move(content));
}

Value FromJson(Runtime& rt, const Json& json) {
  DepthGuard guard(rt);
  if (!guard.ok() || !rt.Step()) return Value();
  switch (json.type()) {
    case Json::Type::kNull:
      return Value::None();
    case Json::Type::kBool:
      return Value::Bool(json.bool_value());
    case Json::Type::kString:
      return Value::String(json.string_value(), Origin::kContent);
    case Json::Type::kNumber: {
      // Python reads a number with neither point nor exponent as an integer of any size.
      const std::string& text = json.number_text();
      int64_t integer = 0;
      double real = 0;
      if (text.find_first_of(".eE") != std::string::npos) {
        return json.GetDouble(&real) ? Value::Float(real) : rt.Fail("a number is out of range");
      }
      if (json.GetInt64(&integer)) return Value::Int(integer);
      Value big = Value::String(text, Origin::kContent);
      big.kind = Kind::kBigInt;
      return big;
    }
    case Json::Type::kArray: {
      Value list = rt.NewList(Kind::kList, json.array().size());
      for (const Json& item : json.array()) {
        const Value value = FromJson(rt, item);
        if (rt.failed()) return Value();
        list.list->items.push_back(value);
      }
      return list;
    }
    case Json::Type::kObject: {
      Value dict = rt.NewDict();
      for (const JsonMember& member : json.object()) {
        const Value value = FromJson(rt, member.second);
        if (rt.failed()) return Value();
        SetItem(rt, dict, Value::String(member.first, Origin::kContent), value);
      }
      return dict;
    }
  }
  return Value();
}

}  // namespace millrace::text
