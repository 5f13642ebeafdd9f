// The expressions of a template: see jinja_eval.h.

#include "text/jinja_eval.h"
#include "text/jinja_functions.h"

namespace millrace::text {

Value Evaluator::Eval(int index) {
  if (rt_.failed() || index < 0) return Value();
  DepthGuard guard(rt_);
  if (!guard.ok() || !rt_.Step()) return Value();
  const Node& node = ast_.nodes[index];
  rt_.line = node.line;
  switch (node.kind) {
    case NodeKind::kName:
      return EvalName(node);
    case NodeKind::kTuple:
    case NodeKind::kList:
    case NodeKind::kSlice:
      return EvalItems(node);
    case NodeKind::kDict:
      return EvalDict(node);
    case NodeKind::kCond: {
      const bool holds = Truthy(Eval(node.kids[0]));
      return Eval(holds ? node.kids[1] : node.kids[2]);
    }
    case NodeKind::kOr:
    case NodeKind::kAnd:
      return EvalLogic(node);
    case NodeKind::kNot:
      return Value::Bool(!Truthy(Eval(node.kids[0])));
    case NodeKind::kCompare:
      return EvalCompare(node);
    case NodeKind::kArith:
      return EvalArith(node);
    case NodeKind::kConcat:
      return EvalConcat(node);
    case NodeKind::kNegate:
      return Negate(rt_, Eval(node.kids[0]));
    case NodeKind::kPlus: {
      const Value value = Eval(node.kids[0]);
      if (value.is(Kind::kInt) || value.is(Kind::kFloat)) return value;
      return value.is(Kind::kBool) ? Value::Int(value.integer) : rt_.Fail("a number is required");
    }
    case NodeKind::kAttr: {
      const Value object = Eval(node.kids[0]);
      return rt_.failed() ? Value() : GetAttr(rt_, object, node.text);
    }
    case NodeKind::kItem: {
      const Value object = Eval(node.kids[0]);
      const Value key = Eval(node.kids[1]);
      return rt_.failed() ? Value() : GetItem(rt_, object, key);
    }
    case NodeKind::kCall:
      return EvalCall(node, nullptr);
    case NodeKind::kFilter:
      return EvalFilter(node, nullptr);
    case NodeKind::kTest: {
      CallArgs args;
      args.positional.push_back(Eval(node.kids[0]));
      if (!EvalArgs(node, 1, args)) return Value();
      return Value::Bool(CallTest(rt_, static_cast<int>(node.integer), args));
    }
    default:
      return EvalLiteral(node);
  }
}

Value Evaluator::EvalLiteral(const Node& node) {
  switch (node.kind) {
    case NodeKind::kNone:
      return Value::None();
    case NodeKind::kBool:
      return Value::Bool(node.integer != 0);
    case NodeKind::kInteger:
      return Value::Int(node.integer);
    case NodeKind::kFloat:
      return Value::Float(node.real);
    case NodeKind::kString:
      return Value::String(node.text, Origin::kTemplate);
    default:
      return rt_.Fail("not an expression");
  }
}

Value Evaluator::EvalName(const Node& node) {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    for (const auto& variable : scope->variables) {
      if (variable.first == node.name) return variable.second;
    }
  }
  FunctionRep function;
  function.type = FunctionRep::kGlobal;
  function.id = FindGlobal(ast_.names[node.name]);
  return function.id >= 0 ? rt_.NewFunction(function) : Value();
}

Value Evaluator::EvalItems(const Node& node) {
  const Kind kind = node.kind == NodeKind::kTuple  ? Kind::kTuple
                    : node.kind == NodeKind::kList ? Kind::kList
                                                   : Kind::kSlice;
  const Value list = rt_.NewList(kind, node.kids.size());
  for (int kid : node.kids) {
    const Value item = kid < 0 ? Value::None() : Eval(kid);
    if (rt_.failed()) return Value();
    list.list->items.push_back(item);
  }
  return list;
}

Value Evaluator::EvalDict(const Node& node) {
  const Value dict = rt_.NewDict();
  for (size_t i = 0; i < node.kids.size() && !rt_.failed(); i += 2) {
    const Value key = Eval(node.kids[i]);
    SetItem(rt_, dict, key, Eval(node.kids[i + 1]));
  }
  return dict;
}

// The operand that decides, as in Python; not its truth.
Value Evaluator::EvalLogic(const Node& node) {
  Value value;
  for (size_t i = 0; i < node.kids.size(); ++i) {
    value = Eval(node.kids[i]);
    if (rt_.failed()) return Value();
    if (Truthy(value) == (node.kind == NodeKind::kOr)) break;
  }
  return value;
}

// a < b < c means a < b and b < c.
Value Evaluator::EvalCompare(const Node& node) {
  Value left = Eval(node.kids[0]);
  for (size_t i = 0; i < node.ops.size(); ++i) {
    const Value right = Eval(node.kids[i + 1]);
    if (rt_.failed()) return Value();
    bool holds = false;
    switch (node.ops[i]) {
      case Op::kEq:
        holds = Equal(rt_, left, right);
        break;
      case Op::kNe:
        holds = !Equal(rt_, left, right);
        break;
      case Op::kIn:
        holds = Contains(rt_, right, left);
        break;
      case Op::kNotIn:
        holds = !Contains(rt_, right, left);
        break;
      case Op::kLt:
        holds = Order(rt_, left, right) < 0;
        break;
      case Op::kLe:
        holds = Order(rt_, left, right) <= 0;
        break;
      case Op::kGt:
        holds = Order(rt_, left, right) > 0;
        break;
      default:
        holds = Order(rt_, left, right) >= 0;
    }
    if (!holds || rt_.failed()) return Value::Bool(false);
    left = right;
  }
  return Value::Bool(true);
}

Value Evaluator::EvalArith(const Node& node) {
  Value value = Eval(node.kids[0]);
  // A sum of strings is collected, not copied at each plus: chains of them are what templates are
  // made of, and their cost stays linear.
  TextBuilder sum(rt_);
  bool summing = false;
  for (size_t i = 0; i < node.ops.size() && !rt_.failed(); ++i) {
    const Value right = Eval(node.kids[i + 1]);
    if (rt_.failed()) return Value();
    if (node.ops[i] == Op::kAdd && value.is_string() && right.is_string()) {
      if (!summing) sum.Append(value);
      sum.Append(right);
      summing = true;
      continue;
    }
    if (summing) value = sum.Finish();
    summing = false;
    value = Arithmetic(rt_, node.ops[i], value, right);
  }
  return summing ? sum.Finish() : value;
}

Value Evaluator::EvalConcat(const Node& node) {
  TextBuilder text(rt_);
  for (int kid : node.kids) AppendStr(rt_, text, Eval(kid));
  return text.Finish();
}

Value Evaluator::EvalFilter(const Node& node, const Value* input) {
  CallArgs args;
  args.positional.push_back(input != nullptr ? *input : Eval(node.kids[0]));
  if (rt_.failed() || !EvalArgs(node, 1, args)) return Value();
  rt_.line = node.line;
  return CallFilter(rt_, static_cast<int>(node.integer), args);
}

}  // namespace millrace::text
