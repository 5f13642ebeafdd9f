#pragma once
// Walks the Ast of a template and writes its text.

#include <deque>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_ast.h"
#include "text/jinja_ops.h"
#include "text/jinja_runtime.h"

namespace millrace::text {

// Names and values of one block that has a scope of its own. Inner ones are searched first.
struct Scope {
  Scope* parent = nullptr;
  bool captured = false;  // a macro that outlives the block was defined in it
  std::vector<std::pair<int, Value>> variables;
};

// One render. Errors are in the runtime. Thread: one owner at a time.
class Evaluator {
 public:
  Evaluator(const Ast& ast, Runtime& runtime);
  void SetGlobal(std::string_view name, const Value& value);
  void Run(TextBuilder& out);

 private:
  enum class Flow { kNext, kBreak, kContinue };

  Flow Exec(int index);
  Flow ExecIf(const Node& node);
  Flow ExecFor(const Node& node);
  Flow ExecForItems(const Node& node, const std::vector<Value>& items);
  Flow ExecScoped(const Node& node);
  Flow ExecWith(const Node& node);
  void ExecMacro(const Node& node);
  void ExecCallBlock(const Node& node);
  // What `body` writes, as a value.
  Value Capture(int body, Flow* flow);
  Value Filtered(int filter, const Value& input);
  void Assign(int target, const Value& value);

  Value Eval(int index);
  Value EvalLiteral(const Node& node);
  Value EvalName(const Node& node);
  Value EvalItems(const Node& node);
  Value EvalDict(const Node& node);
  Value EvalLogic(const Node& node);
  Value EvalCompare(const Node& node);
  Value EvalArith(const Node& node);
  Value EvalConcat(const Node& node);
  Value EvalCall(const Node& node, const Value* caller);
  Value EvalFilter(const Node& node, const Value* input);
  bool EvalArgs(const Node& node, size_t first, CallArgs& args);

  Value CallFunction(const FunctionRep& function, CallArgs& args, const Value* caller);
  Value CallMacro(const FunctionRep& function, CallArgs& args, const Value* caller);
  bool BindMacro(const Node& macro, CallArgs& args, const Value* caller);
  bool BindSpecial(const Node& macro, CallArgs& args, size_t used, const Value* caller);

  Scope* PushScope(Scope* parent);
  void PopScope(Scope* to);
  void SetVariable(int name, const Value& value);
  int NameIndex(std::string_view name) const;

  const Ast& ast_;
  Runtime& rt_;
  TextBuilder* out_ = nullptr;
  std::deque<Scope> scopes_;
  std::vector<Scope*> free_scopes_;
  Scope* scope_ = nullptr;
  int macro_depth_ = 0;
  int loop_name_ = -1;
  int caller_name_ = -1;
  int varargs_name_ = -1;
  int kwargs_name_ = -1;
};

}  // namespace millrace::text
