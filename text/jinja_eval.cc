#include "text/jinja_eval.h"

#include "text/jinja_functions.h"

namespace millrace::text {

Evaluator::Evaluator(const Ast& ast, Runtime& runtime) : ast_(ast), rt_(runtime) {
  loop_name_ = NameIndex("loop");
  caller_name_ = NameIndex("caller");
  varargs_name_ = NameIndex("varargs");
  kwargs_name_ = NameIndex("kwargs");
  scope_ = PushScope(nullptr);
}

// -1 for a name that the template never says: setting it has no effect.
int Evaluator::NameIndex(std::string_view name) const {
  for (size_t i = 0; i < ast_.names.size(); ++i) {
    if (ast_.names[i] == name) return static_cast<int>(i);
  }
  return -1;
}

void Evaluator::SetGlobal(std::string_view name, const Value& value) {
  SetVariable(NameIndex(name), value);
}

void Evaluator::Run(TextBuilder& out) {
  out_ = &out;
  // The globals' scope stays below: a template may hide a name, not change it for macros above.
  Exec(ast_.root);
}

Scope* Evaluator::PushScope(Scope* parent) {
  Scope* scope = nullptr;
  if (!free_scopes_.empty()) {
    scope = free_scopes_.back();
    free_scopes_.pop_back();
  } else {
    rt_.Charge(sizeof(Scope) + 4 * sizeof(Value));
    scopes_.emplace_back();
    scope = &scopes_.back();
  }
  scope->parent = parent;
  return scope;
}

// Leaves the current scope for `to`; its memory is used again unless a macro still needs it.
void Evaluator::PopScope(Scope* to) {
  if (!scope_->captured) {
    scope_->variables.clear();
    free_scopes_.push_back(scope_);
  }
  scope_ = to;
}

void Evaluator::SetVariable(int name, const Value& value) {
  if (name < 0) return;
  for (auto& variable : scope_->variables) {
    if (variable.first != name) continue;
    variable.second = value;
    return;
  }
  if (rt_.Charge(sizeof(Value))) scope_->variables.emplace_back(name, value);
}

void Evaluator::Assign(int target, const Value& value) {
  const Node& node = ast_.nodes[target];
  if (rt_.failed()) return;
  if (node.kind == NodeKind::kName) return SetVariable(node.name, value);
  if (node.kind == NodeKind::kNsRef) {
    const Value ns = EvalName(node);
    if (!ns.is(Kind::kNamespace)) {
      rt_.Fail("only a namespace has attributes to set");
    } else if (node.text[0] == '_') {
      rt_.Fail("a namespace attribute cannot begin with an underscore");
    } else {
      SetItem(rt_, ns, Value::String(node.text, Origin::kTemplate), value);
    }
    return;
  }
  const std::vector<Value>* items = Items(rt_, value);
  if (items == nullptr) return;
  if (items->size() != node.kids.size()) {
    rt_.Fail("the number of values to unpack differs");
    return;
  }
  for (size_t i = 0; i < node.kids.size(); ++i) Assign(node.kids[i], (*items)[i]);
}

// --- Statements ----------------------------------------------------------------------------------

Evaluator::Flow Evaluator::Exec(int index) {
  if (index < 0 || rt_.failed()) return Flow::kNext;
  DepthGuard guard(rt_);
  if (!guard.ok()) return Flow::kNext;
  const Node& node = ast_.nodes[index];
  if (!rt_.Step()) return Flow::kNext;
  rt_.line = node.line;
  Flow flow = Flow::kNext;
  switch (node.kind) {
    case NodeKind::kBlock:
      for (size_t i = 0; i < node.kids.size() && flow == Flow::kNext && !rt_.failed(); ++i) {
        flow = Exec(node.kids[i]);
      }
      return flow;
    case NodeKind::kData:
      out_->Append(node.text, Origin::kTemplate);
      return flow;
    case NodeKind::kPrint:
      AppendStr(rt_, *out_, Eval(node.kids[0]));
      return flow;
    case NodeKind::kIf:
      return ExecIf(node);
    case NodeKind::kFor:
      return ExecFor(node);
    case NodeKind::kSet:
      Assign(node.kids[0], Eval(node.kids[1]));
      return flow;
    case NodeKind::kSetBlock: {
      const Value text = Capture(node.kids[2], &flow);
      Assign(node.kids[0], Filtered(node.kids[1], text));
      return flow;
    }
    case NodeKind::kFilterBlock: {
      const Value text = Capture(node.kids[1], &flow);
      AppendStr(rt_, *out_, Filtered(node.kids[0], text));
      return flow;
    }
    case NodeKind::kMacro:
      ExecMacro(node);
      return flow;
    case NodeKind::kCallBlock:
      ExecCallBlock(node);
      return flow;
    case NodeKind::kWith:
      return ExecWith(node);
    case NodeKind::kScoped:
      return ExecScoped(node);
    case NodeKind::kBreak:
      return Flow::kBreak;
    case NodeKind::kContinue:
      return Flow::kContinue;
    default:
      rt_.Fail("not a statement");
      return flow;
  }
}

Evaluator::Flow Evaluator::ExecIf(const Node& node) {
  size_t i = 0;
  for (; i + 1 < node.kids.size(); i += 2) {
    const bool holds = Truthy(Eval(node.kids[i]));
    if (rt_.failed()) return Flow::kNext;
    if (holds) return Exec(node.kids[i + 1]);
  }
  return Exec(node.kids[i]);
}

Evaluator::Flow Evaluator::ExecFor(const Node& node) {
  const Value iterable = Eval(node.kids[1]);
  if (rt_.failed()) return Flow::kNext;
  const std::vector<Value>* items = Items(rt_, iterable);
  if (items == nullptr) return Flow::kNext;
  Value kept;
  if (node.kids[2] >= 0) {  // "for x in y if z": loop counts what is kept
    kept = rt_.NewList(Kind::kList);
    Scope* outer = scope_;
    for (size_t i = 0; i < items->size() && !rt_.failed(); ++i) {
      scope_ = PushScope(outer);
      Assign(node.kids[0], (*items)[i]);
      if (Truthy(Eval(node.kids[2]))) Push(rt_, kept, (*items)[i]);
      PopScope(outer);
    }
    if (rt_.failed()) return Flow::kNext;
    items = &kept.list->items;
  }
  if (items->empty()) {
    Scope* outer = scope_;
    scope_ = PushScope(outer);
    const Flow flow = Exec(node.kids[4]);
    PopScope(outer);
    return flow;
  }
  return ExecForItems(node, *items);
}

Evaluator::Flow Evaluator::ExecForItems(const Node& node, const std::vector<Value>& items) {
  Value loop = Value::Of(Kind::kLoop);
  loop.loop = rt_.NewLoop();
  loop.loop->items = &items;
  Scope* outer = scope_;
  for (size_t i = 0; i < items.size() && rt_.Step(); ++i) {
    loop.loop->index = i;
    scope_ = PushScope(outer);
    SetVariable(loop_name_, loop);
    Assign(node.kids[0], items[i]);
    const Flow flow = Exec(node.kids[3]);
    PopScope(outer);
    if (flow == Flow::kBreak) break;
  }
  return Flow::kNext;
}

Evaluator::Flow Evaluator::ExecScoped(const Node& node) {
  Scope* outer = scope_;
  scope_ = PushScope(outer);
  const Flow flow = Exec(node.kids[0]);
  PopScope(outer);
  return flow;
}

Evaluator::Flow Evaluator::ExecWith(const Node& node) {
  std::vector<Value> values;  // all seen from outside
  for (size_t i = 0; i + 2 < node.kids.size(); i += 2) values.push_back(Eval(node.kids[i + 1]));
  Scope* outer = scope_;
  scope_ = PushScope(outer);
  for (size_t i = 0; i < values.size(); ++i) Assign(node.kids[2 * i], values[i]);
  const Flow flow = Exec(node.kids.back());
  PopScope(outer);
  return flow;
}

Value Evaluator::Capture(int body, Flow* flow) {
  TextBuilder text(rt_);
  TextBuilder* outer_out = out_;
  Scope* outer = scope_;
  out_ = &text;
  scope_ = PushScope(outer);
  const Flow result = Exec(body);
  if (flow != nullptr) *flow = result;
  PopScope(outer);
  out_ = outer_out;
  return text.Finish();
}

// A chain of filters over a block: the innermost has no input of its own.
Value Evaluator::Filtered(int filter, const Value& input) {
  if (filter < 0 || rt_.failed()) return input;
  const Node& node = ast_.nodes[filter];
  DepthGuard guard(rt_);
  if (!guard.ok()) return Value();
  const Value inner = Filtered(node.kids[0], input);
  return EvalFilter(node, &inner);
}

void Evaluator::ExecMacro(const Node& node) {
  for (Scope* scope = scope_; scope != nullptr && !scope->captured; scope = scope->parent) {
    scope->captured = true;
  }
  FunctionRep function;
  function.type = FunctionRep::kMacro;
  function.node = &node;
  function.scope = scope_;
  SetVariable(node.name, rt_.NewFunction(function));
}

void Evaluator::ExecCallBlock(const Node& node) {
  for (Scope* scope = scope_; scope != nullptr && !scope->captured; scope = scope->parent) {
    scope->captured = true;
  }
  FunctionRep function;
  function.type = FunctionRep::kCaller;
  function.node = &node;
  function.scope = scope_;
  const Value caller = rt_.NewFunction(function);
  AppendStr(rt_, *out_, EvalCall(ast_.nodes[node.kids[0]], &caller));
}

// --- Calls ---------------------------------------------------------------------------------------

bool Evaluator::EvalArgs(const Node& node, size_t first, CallArgs& args) {
  for (size_t i = first; i < node.kids.size(); ++i) args.positional.push_back(Eval(node.kids[i]));
  for (const auto& named : node.named) {
    args.named.emplace_back(ast_.names[named.first], Eval(named.second));
  }
  if (node.star >= 0 && !rt_.failed()) {
    const std::vector<Value>* items = Items(rt_, Eval(node.star));
    if (items == nullptr || !rt_.Charge(items->size() * sizeof(Value))) return false;
    args.positional.insert(args.positional.end(), items->begin(), items->end());
  }
  if (node.star_star >= 0 && !rt_.failed()) {
    const Value members = Eval(node.star_star);
    if (!members.is(Kind::kDict)) {
      rt_.Fail("a mapping is needed after **");
      return false;
    }
    if (!rt_.Step(members.dict->items.size())) return false;
    for (const auto& item : members.dict->items) {
      if (!item.first.is_string()) {
        rt_.Fail("keywords are strings");
        return false;
      }
      args.named.emplace_back(item.first.str(), item.second);
    }
  }
  return !rt_.failed();
}

Value Evaluator::EvalCall(const Node& node, const Value* caller) {
  const Value callee = Eval(node.kids[0]);
  CallArgs args;
  if (rt_.failed() || !EvalArgs(node, 1, args)) return Value();
  rt_.line = node.line;
  if (callee.is(Kind::kUndefined)) return rt_.Fail("what is called is undefined");
  if (!callee.is(Kind::kFunction)) return rt_.Fail("this value cannot be called");
  return CallFunction(*callee.function, args, caller);
}

Value Evaluator::CallFunction(const FunctionRep& function, CallArgs& args, const Value* caller) {
  const bool macro = function.type == FunctionRep::kMacro || function.type == FunctionRep::kCaller;
  if (macro) return CallMacro(function, args, caller);
  if (caller != nullptr) return rt_.Fail("only a macro takes a caller");
  if (function.type == FunctionRep::kGlobal) return CallGlobal(rt_, function.id, args);
  if (function.type == FunctionRep::kMethod) {
    return CallMethod(rt_, function.id, function.self, args);
  }
  LoopRep& loop = *function.self.loop;
  if (!args.named.empty()) return rt_.Fail("no keyword arguments here");
  if (function.type == FunctionRep::kCycle) {
    if (args.positional.empty()) return rt_.Fail("nothing to cycle through");
    return args.positional[loop.index % args.positional.size()];
  }
  bool changed = !loop.has_changed || loop.changed.size() != args.positional.size();
  for (size_t i = 0; !changed && i < loop.changed.size(); ++i) {
    changed = !Equal(rt_, loop.changed[i], args.positional[i]);
  }
  loop.has_changed = true;
  loop.changed = args.positional;
  return Value::Bool(changed);
}

Value Evaluator::CallMacro(const FunctionRep& function, CallArgs& args, const Value* caller) {
  const Node& node = *function.node;
  if (++macro_depth_ > rt_.limits.depth_max) rt_.Fail("macros call too deeply");
  Scope* outer = scope_;
  TextBuilder text(rt_);
  TextBuilder* outer_out = out_;
  Value result;
  scope_ = PushScope(function.scope);
  if (!rt_.failed() && BindMacro(node, args, caller)) {
    out_ = &text;
    Exec(function.type == FunctionRep::kMacro ? node.kids[0] : node.kids[1]);
    out_ = outer_out;
    result = text.Finish();
  }
  PopScope(outer);
  --macro_depth_;
  return result;
}

// Parameters from positions, names, then defaults, which see the parameters before them. One that
// is given by none is undefined.
bool Evaluator::BindMacro(const Node& macro, CallArgs& args, const Value* caller) {
  std::vector<bool> used(args.named.size(), false);
  for (size_t i = 0; i < macro.named.size(); ++i) {
    const int name = macro.named[i].first;
    bool given = i < args.positional.size();
    Value value = given ? args.positional[i] : Value();
    for (size_t k = 0; k < args.named.size(); ++k) {
      if (args.named[k].first != ast_.names[name]) continue;
      if (given) {
        rt_.Fail("an argument is given twice");
        return false;
      }
      value = args.named[k].second;
      given = true;
      used[k] = true;
    }
    if (!given && macro.named[i].second >= 0) value = Eval(macro.named[i].second);
    if (rt_.failed()) return false;
    SetVariable(name, value);
  }
  size_t kept = 0;
  for (size_t k = 0; k < args.named.size(); ++k) {
    if (!used[k]) args.named[kept++] = args.named[k];
  }
  args.named.resize(kept);
  return BindSpecial(macro, args, macro.named.size(), caller);
}

// caller, varargs and kwargs exist where the macro speaks of them; else extra arguments are errors.
bool Evaluator::BindSpecial(const Node& macro, CallArgs& args, size_t used, const Value* caller) {
  if (caller != nullptr && (macro.integer & kUsesCaller) == 0) rt_.Fail("no caller is expected");
  if ((macro.integer & kUsesCaller) != 0) {
    bool is_parameter = false;
    for (const auto& named : macro.named) is_parameter |= named.first == caller_name_;
    if (!is_parameter) SetVariable(caller_name_, caller != nullptr ? *caller : Value());
  }
  if ((macro.integer & kUsesKwargs) != 0) {
    const Value dict = rt_.NewDict();
    for (const auto& named : args.named) {
      SetItem(rt_, dict, Value::String(named.first, Origin::kTemplate), named.second);
    }
    SetVariable(kwargs_name_, dict);
  } else if (!args.named.empty()) {
    rt_.Fail("unexpected keyword argument");
  }
  if ((macro.integer & kUsesVarargs) != 0) {
    const Value rest = rt_.NewList(Kind::kTuple);
    for (size_t i = used; i < args.positional.size(); ++i) Push(rt_, rest, args.positional[i]);
    SetVariable(varargs_name_, rest);
  } else if (args.positional.size() > used) {
    rt_.Fail("too many arguments");
  }
  return !rt_.failed();
}

}  // namespace millrace::text
