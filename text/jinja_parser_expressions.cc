// The expressions of a template: see jinja_parser_state.h.

#include "text/jinja_functions.h"
#include "text/jinja_parser_state.h"

namespace millrace::text {

bool JinjaParser::IsTupleEnd(std::string_view end_word) const {
  return Cur().type == TokenType::kVariableEnd || Cur().type == TokenType::kBlockEnd || IsOp(")") ||
         (!end_word.empty() && IsWord(end_word));
}

int JinjaParser::Tuple(bool simple, bool conditional, std::string_view end_word, bool parens) {
  const int line = Cur().line;
  std::vector<int> items;
  bool is_tuple = false;
  while (ok()) {
    if (!items.empty()) ExpectOp(",");
    if (IsTupleEnd(end_word)) break;
    items.push_back(simple ? Primary(namespace_targets_) : Expression(conditional));
    if (!IsOp(",")) break;
    is_tuple = true;
  }
  if (!ok()) return -1;
  if (!is_tuple && !items.empty()) return items[0];
  if (!is_tuple && !parens) return Fail("expected an expression");
  return AddKids(NodeKind::kTuple, line, std::move(items));
}

int JinjaParser::Expression(bool conditional) {
  Nested nested(*this);
  if (!ok()) return -1;
  return conditional ? Conditional() : Or();
}

int JinjaParser::Conditional() {
  const int line = Cur().line;
  const size_t unknown = unknown_.size();
  int value = Or();
  while (ok() && SkipWord("if")) {
    const int condition = Or();
    const int other = SkipWord("else") ? Expression() : -1;
    unknown_.resize(unknown);
    value = AddKids(NodeKind::kCond, line, {condition, value, other});
  }
  return value;
}

int JinjaParser::Or() {
  const int line = Cur().line;
  std::vector<int> operands = {And()};
  while (ok() && SkipWord("or")) operands.push_back(And());
  return operands.size() == 1 ? operands[0] : AddKids(NodeKind::kOr, line, std::move(operands));
}

int JinjaParser::And() {
  const int line = Cur().line;
  std::vector<int> operands = {Not()};
  while (ok() && SkipWord("and")) operands.push_back(Not());
  return operands.size() == 1 ? operands[0] : AddKids(NodeKind::kAnd, line, std::move(operands));
}

int JinjaParser::Not() {
  const int line = Cur().line;
  if (!SkipWord("not")) return Compare();
  Nested nested(*this);
  if (!ok()) return -1;
  const int operand = Not();
  return AddKids(NodeKind::kNot, line, {operand});
}

int JinjaParser::Compare() {
  static constexpr std::pair<std::string_view, Op> kOps[] = {{"==", Op::kEq}, {"!=", Op::kNe},
                                                             {"<", Op::kLt},  {"<=", Op::kLe},
                                                             {">", Op::kGt},  {">=", Op::kGe}};
  Node node = Make(NodeKind::kCompare, Cur().line);
  node.kids = {Additive()};
  while (ok()) {
    const Op* op = nullptr;
    for (const auto& row : kOps) {
      if (IsOp(row.first)) op = &row.second;
    }
    if (op != nullptr) {
      node.ops.push_back(*op);
    } else if (IsWord("in")) {
      node.ops.push_back(Op::kIn);
    } else if (IsWord("not") && Look().type == TokenType::kName && Look().text == "in") {
      Next();
      node.ops.push_back(Op::kNotIn);
    } else {
      break;
    }
    Next();
    node.kids.push_back(Additive());
  }
  return node.ops.empty() ? node.kids[0] : Add(std::move(node));
}

int JinjaParser::Chain(int (JinjaParser::*part)(),
                       std::initializer_list<std::pair<std::string_view, Op>> ops) {
  Node node = Make(NodeKind::kArith, Cur().line);
  node.kids = {(this->*part)()};
  for (bool more = true; ok() && more;) {
    more = false;
    for (const auto& op : ops) {
      if (!IsOp(op.first)) continue;
      Next();
      node.ops.push_back(op.second);
      node.kids.push_back((this->*part)());
      more = true;
      break;
    }
  }
  return node.ops.empty() ? node.kids[0] : Add(std::move(node));
}

int JinjaParser::Additive() {
  return Chain(&JinjaParser::Concat, {{"+", Op::kAdd}, {"-", Op::kSub}});
}

int JinjaParser::Concat() {
  const int line = Cur().line;
  std::vector<int> operands = {Multiplicative()};
  while (ok() && SkipOp("~")) operands.push_back(Multiplicative());
  return operands.size() == 1 ? operands[0] : AddKids(NodeKind::kConcat, line, std::move(operands));
}

int JinjaParser::Multiplicative() {
  return Chain(&JinjaParser::Power,
               {{"*", Op::kMul}, {"/", Op::kDiv}, {"//", Op::kFloorDiv}, {"%", Op::kMod}});
}

// From left to right, unlike Python: that is what Jinja does.
int JinjaParser::Power() {
  const int line = Cur().line;
  int left = Unary(true);
  while (ok() && SkipOp("**")) {
    Node node = Make(NodeKind::kArith, line, {left, Unary(true)});
    node.ops = {Op::kPow};
    left = Add(std::move(node));
  }
  return left;
}

int JinjaParser::Unary(bool with_filter) {
  const int line = Cur().line;
  int node = -1;
  if (IsOp("-") || IsOp("+")) {
    Nested nested(*this);
    if (!ok()) return -1;
    const NodeKind kind = IsOp("-") ? NodeKind::kNegate : NodeKind::kPlus;
    Next();
    node = AddKids(kind, line, {Unary(false)});
  } else {
    node = Primary(false);
  }
  node = Postfix(node);
  return with_filter ? FilterChain(node) : node;
}

int JinjaParser::Primary(bool with_namespace) {
  if (!ok()) return -1;
  Node node = Make(NodeKind::kNone, Cur().line);
  node.text = Cur().text;
  if (Cur().type == TokenType::kName) {
    Next();
    const std::string& word = node.text;
    if (word == "true" || word == "True" || word == "false" || word == "False") {
      node.kind = NodeKind::kBool;
      node.integer = word == "true" || word == "True";
    } else if (word != "none" && word != "None") {
      node.kind = NodeKind::kName;
      node.name = NameIndex(word);
      if (word == "caller") special_names_ |= kUsesCaller;
      if (word == "varargs") special_names_ |= kUsesVarargs;
      if (word == "kwargs") special_names_ |= kUsesKwargs;
      if (with_namespace && SkipOp(".")) {
        node.kind = NodeKind::kNsRef;
        node.text = ExpectName();
      }
    }
  } else if (Cur().type == TokenType::kString) {
    node.kind = NodeKind::kString;
    for (Next(); Cur().type == TokenType::kString; Next()) node.text += Cur().text;
  } else if (Cur().type == TokenType::kInteger || Cur().type == TokenType::kFloat) {
    node.kind = Cur().type == TokenType::kFloat ? NodeKind::kFloat : NodeKind::kInteger;
    node.integer = Cur().integer;
    node.real = Cur().real;
    Next();
  } else if (SkipOp("(")) {
    const int inner = Tuple(false, true, {}, true);
    ExpectOp(")");
    return inner;
  } else if (IsOp("[")) {
    return List();
  } else if (IsOp("{")) {
    return Dict();
  } else {
    return Fail("expected an expression");
  }
  return Add(std::move(node));
}

int JinjaParser::List() {
  Node node = Make(NodeKind::kList, Cur().line);
  Next();
  while (ok() && !IsOp("]")) {
    if (!node.kids.empty()) ExpectOp(",");
    if (IsOp("]")) break;
    node.kids.push_back(Expression());
  }
  ExpectOp("]");
  return Add(std::move(node));
}

int JinjaParser::Dict() {
  Node node = Make(NodeKind::kDict, Cur().line);
  Next();
  while (ok() && !IsOp("}")) {
    if (!node.kids.empty()) ExpectOp(",");
    if (IsOp("}")) break;
    node.kids.push_back(Expression());
    ExpectOp(":");
    node.kids.push_back(Expression());
  }
  ExpectOp("}");
  return Add(std::move(node));
}

int JinjaParser::Postfix(int node) {
  while (ok()) {
    if (IsOp(".") || IsOp("[")) {
      node = Subscript(node);
    } else if (IsOp("(")) {
      node = Call(node);
    } else {
      break;
    }
  }
  return node;
}

int JinjaParser::FilterChain(int node) {
  while (ok()) {
    if (SkipOp("|")) {
      node = Filter(node);
    } else if (IsWord("is")) {
      node = Test(node);
    } else if (IsOp("(")) {
      node = Call(node);
    } else {
      break;
    }
  }
  return node;
}

// At the name of the filter.
int JinjaParser::Filter(int input) {
  Node node = Make(NodeKind::kFilter, Cur().line, {input});
  node.text = ExpectName();
  node.integer = FindFilter(node.text);
  if (node.integer < 0) NoteUnknown("no filter named '" + node.text + "'");
  if (IsOp("(")) Arguments(node);
  return Add(std::move(node));
}

int JinjaParser::Test(int input) {
  Node node = Make(NodeKind::kTest, Cur().line, {input});
  Next();
  const bool negated = SkipWord("not");
  node.text = ExpectName();
  node.integer = FindTest(node.text);
  if (node.integer < 0) NoteUnknown("no test named '" + node.text + "'");
  const TokenType type = Cur().type;
  const bool literal = type == TokenType::kName || type == TokenType::kString ||
                       type == TokenType::kInteger || type == TokenType::kFloat || IsOp("[") ||
                       IsOp("{");
  if (IsOp("(")) {
    Arguments(node);
  } else if (literal && !IsWord("else") && !IsWord("or") && !IsWord("and")) {
    if (IsWord("is")) return Fail("tests cannot be chained with 'is'");
    const int argument = Primary(false);
    node.kids.push_back(Postfix(argument));
  }
  const int line = node.line;
  const int test = Add(std::move(node));
  return negated ? AddKids(NodeKind::kNot, line, {test}) : test;
}

int JinjaParser::Subscript(int object) {
  const int line = Cur().line;
  if (SkipOp(".")) {
    Node node = Make(NodeKind::kAttr, line, {object});
    node.text = Cur().text;
    if (Cur().type == TokenType::kInteger) {
      Node index = Make(NodeKind::kInteger, line);
      index.integer = Cur().integer;
      Next();
      const int key = Add(std::move(index));
      return AddKids(NodeKind::kItem, line, {object, key});
    }
    ExpectName();
    return Add(std::move(node));
  }
  Next();
  std::vector<int> keys;
  while (ok() && !IsOp("]")) {
    if (!keys.empty()) ExpectOp(",");
    keys.push_back(Subscribed());
  }
  ExpectOp("]");
  if (!ok()) return -1;
  const int key = keys.size() == 1 ? keys[0] : AddKids(NodeKind::kTuple, line, std::move(keys));
  return AddKids(NodeKind::kItem, line, {object, key});
}

int JinjaParser::Subscribed() {
  const int line = Cur().line;
  int parts[3] = {-1, -1, -1};
  if (!IsOp(":")) {
    parts[0] = Expression();
    if (!IsOp(":")) return parts[0];
  }
  Next();
  if (!IsOp(":") && !IsOp("]") && !IsOp(",")) parts[1] = Expression();
  if (SkipOp(":") && !IsOp("]") && !IsOp(",")) parts[2] = Expression();
  return AddKids(NodeKind::kSlice, line, {parts[0], parts[1], parts[2]});
}

int JinjaParser::Call(int callee) {
  Node node = Make(NodeKind::kCall, Cur().line, {callee});
  Arguments(node);
  return Add(std::move(node));
}

void JinjaParser::Arguments(Node& node) {
  ExpectOp("(");
  for (bool first = true; ok() && !IsOp(")"); first = false) {
    if (!first) ExpectOp(",");
    if (!first && IsOp(")")) break;
    if (SkipOp("*")) {
      if (node.star >= 0 || node.star_star >= 0) Fail("invalid call");
      node.star = Expression();
    } else if (SkipOp("**")) {
      if (node.star_star >= 0) Fail("invalid call");
      node.star_star = Expression();
    } else if (Cur().type == TokenType::kName && Look().type == TokenType::kOperator &&
               Look().text == "=") {
      if (node.star_star >= 0) Fail("invalid call");
      const int name = NameIndex(Cur().text);
      Next();
      Next();
      for (const auto& other : node.named) {
        if (other.first == name) Fail("keyword argument repeated");
      }
      node.named.emplace_back(name, Expression());
    } else {
      if (node.star >= 0 || node.star_star >= 0 || !node.named.empty()) Fail("invalid call");
      node.kids.push_back(Expression());
    }
  }
  ExpectOp(")");
}

}  // namespace millrace::text
