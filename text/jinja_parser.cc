#include "text/jinja_parser.h"

#include <algorithm>
#include <initializer_list>

#include "absl/container/flat_hash_map.h"
#include "base/status_macros.h"
#include "text/jinja_functions.h"
#include "text/jinja_lexer.h"

namespace millrace::text {
namespace {

// Recursive descent, one method per level of precedence. After the first error every method returns
// at once with -1, and Run reports it.
class Parser {
 public:
  Parser(std::vector<JinjaToken> tokens, int depth_max)
      : tokens_(std::move(tokens)), depth_max_(depth_max) {}

  absl::StatusOr<Ast> Run() {
    ast_.root = Statements({});
    if (ok() && Cur().type != TokenType::kEnd) Fail("unexpected end of a block");
    if (ok() && !unknown_.empty()) error_ = absl::InvalidArgumentError(unknown_[0]);
    RETURN_IF_ERROR(error_);
    return std::move(ast_);
  }

 private:
  // One level of nesting; `ok` is false when there are too many.
  struct Nested {
    explicit Nested(Parser& parser) : p(parser) {
      if (++p.depth_ > p.depth_max_) p.Fail("nested too deeply");
    }
    ~Nested() { --p.depth_; }
    Parser& p;
  };

  bool ok() const { return error_.ok(); }
  int Fail(std::string_view what) {
    if (ok()) error_ = JinjaError(Cur().line, what);
    return -1;
  }
  void NoteUnknown(std::string what) {
    if (conditions_ > 0) return;
    unknown_.emplace_back(JinjaError(Cur().line, what).message());
  }
  const JinjaToken& Cur() const { return tokens_[at_]; }
  const JinjaToken& Look() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  void Next() {
    if (at_ + 1 < tokens_.size()) ++at_;
  }
  bool IsOp(std::string_view op) const {
    return Cur().type == TokenType::kOperator && Cur().text == op;
  }
  bool IsWord(std::string_view word) const {
    return Cur().type == TokenType::kName && Cur().text == word;
  }
  bool SkipOp(std::string_view op) {
    if (!IsOp(op)) return false;
    Next();
    return true;
  }
  bool SkipWord(std::string_view word) {
    if (!IsWord(word)) return false;
    Next();
    return true;
  }
  void ExpectOp(std::string_view op) {
    if (!SkipOp(op)) Fail("expected '" + std::string(op) + "'");
  }
  void Expect(TokenType type, std::string_view what) {
    if (Cur().type != type) {
      Fail("expected " + std::string(what));
    } else {
      Next();
    }
  }
  std::string ExpectName() {
    std::string name = Cur().text;
    Expect(TokenType::kName, "a name");
    return name;
  }
  int NameIndex(const std::string& name) {
    auto added = names_.try_emplace(name, static_cast<int>(ast_.names.size()));
    if (added.second) ast_.names.push_back(name);
    return added.first->second;
  }
  static Node Make(NodeKind kind, int line, std::vector<int> kids = {}) {
    Node node;
    node.kind = kind;
    node.line = line;
    node.kids = std::move(kids);
    return node;
  }
  int Add(Node node);
  int AddKids(NodeKind kind, int line, std::vector<int> kids) {
    return Add(Make(kind, line, std::move(kids)));
  }

  // Statements.
  int Statements(std::initializer_list<std::string_view> ends);
  int Body(std::initializer_list<std::string_view> ends, bool drop_end);
  int Statement();
  int If();
  int For();
  int Set();
  int Macro();
  int CallBlock();
  int FilterBlock();
  int With();
  int Print();
  int Generation();
  int LoopControl();
  int FunctionBody(std::string_view end, int64_t* uses);
  void Signature(Node& node);
  int AssignTarget(std::string_view end_word, bool with_namespace);

  // Expressions.
  int Tuple(bool simple, bool conditional, std::string_view end_word, bool parens);
  int Expression(bool conditional = true);
  int Conditional();
  int Or();
  int And();
  int Not();
  int Compare();
  int Additive();
  int Concat();
  int Multiplicative();
  int Power();
  int Unary(bool with_filter);
  int Primary(bool with_namespace);
  int List();
  int Dict();
  int Postfix(int node);
  int FilterChain(int node);
  int Filter(int node);
  int Test(int node);
  int Subscript(int node);
  int Subscribed();
  int Call(int node);
  void Arguments(Node& node);
  int Chain(int (Parser::*part)(), std::initializer_list<std::pair<std::string_view, Op>> ops);
  bool IsTupleEnd(std::string_view end_word) const;
  bool CanAssign(int node) const;

  std::vector<JinjaToken> tokens_;
  size_t at_ = 0;
  int depth_max_;
  int depth_ = 0;
  int loops_ = 0;                   // enclosing loops that break and continue reach
  bool namespace_targets_ = false;  // of the assignment being parsed
  // Unknown filters and tests. Under a condition they are an error only when reached, as templates
  // probe for them; elsewhere at the end of parsing.
  std::vector<std::string> unknown_;
  int conditions_ = 0;     // enclosing if statements
  int special_names_ = 0;  // bits of MacroUse that the function being parsed refers to
  absl::Status error_;
  Ast ast_;
  absl::flat_hash_map<std::string, int> names_;
};

int Parser::Add(Node node) {
  if (!ok()) return -1;
  auto raise = [&](int kid) {
    if (kid >= 0) node.height = std::max(node.height, ast_.nodes[kid].height + 1);
  };
  for (int kid : node.kids) raise(kid);
  for (const auto& named : node.named) raise(named.second);
  raise(node.star);
  raise(node.star_star);
  if (node.height > 4 * depth_max_) return Fail("expression too deep");
  ast_.nodes.push_back(std::move(node));
  return static_cast<int>(ast_.nodes.size()) - 1;
}

// --- Statements ----------------------------------------------------------------------------------

// Parses until a block tag that begins with one of `ends`, with that word as the current token.
int Parser::Statements(std::initializer_list<std::string_view> ends) {
  Nested nested(*this);
  Node block = Make(NodeKind::kBlock, Cur().line);
  while (ok() && Cur().type != TokenType::kEnd) {
    const int line = Cur().line;
    if (Cur().type == TokenType::kData) {
      Node data = Make(NodeKind::kData, line);
      data.text = Cur().text;
      block.kids.push_back(Add(std::move(data)));
      Next();
    } else if (Cur().type == TokenType::kVariableBegin) {
      Next();
      const int value = Tuple(false, true, {}, false);
      Expect(TokenType::kVariableEnd, "end of print statement");
      block.kids.push_back(AddKids(NodeKind::kPrint, line, {value}));
    } else {
      Next();
      for (std::string_view end : ends) {
        if (IsWord(end)) return Add(std::move(block));
      }
      block.kids.push_back(Statement());
      Expect(TokenType::kBlockEnd, "end of statement block");
    }
  }
  if (ok() && ends.size() > 0) return Fail("unexpected end of template, a block is open");
  return Add(std::move(block));
}

int Parser::Body(std::initializer_list<std::string_view> ends, bool drop_end) {
  SkipOp(":");
  Expect(TokenType::kBlockEnd, "end of statement block");
  const int body = Statements(ends);
  if (drop_end) Next();
  return body;
}

int Parser::Statement() {
  if (Cur().type != TokenType::kName) return Fail("tag name expected");
  struct Tag {
    std::string_view name;
    int (Parser::*parse)();
  };
  static constexpr Tag kTags[] = {{"if", &Parser::If},
                                  {"for", &Parser::For},
                                  {"set", &Parser::Set},
                                  {"macro", &Parser::Macro},
                                  {"call", &Parser::CallBlock},
                                  {"filter", &Parser::FilterBlock},
                                  {"with", &Parser::With},
                                  {"print", &Parser::Print},
                                  {"break", &Parser::LoopControl},
                                  {"continue", &Parser::LoopControl},
                                  {"generation", &Parser::Generation}};
  for (const Tag& tag : kTags) {
    if (IsWord(tag.name)) return (this->*tag.parse)();
  }
  return Fail("unknown or unsupported tag '" + Cur().text.substr(0, 64) + "'");
}

int Parser::If() {
  Node node = Make(NodeKind::kIf, Cur().line);
  ++conditions_;
  int else_body = -1;
  while (ok()) {  // at "if" or "elif"
    Next();
    node.kids.push_back(Tuple(false, false, {}, false));
    node.kids.push_back(Body({"elif", "else", "endif"}, false));
    if (IsWord("elif")) continue;
    const bool has_else = IsWord("else");
    Next();
    if (has_else) else_body = Body({"endif"}, true);
    break;
  }
  --conditions_;
  node.kids.push_back(else_body);
  return Add(std::move(node));
}

int Parser::For() {
  const int line = Cur().line;
  Next();
  const int target = AssignTarget("in", false);
  if (!SkipWord("in")) return Fail("expected 'in'");
  const int iterable = Tuple(false, false, "recursive", false);
  const int test = SkipWord("if") ? Expression() : -1;
  if (IsWord("recursive")) return Fail("recursive loops are not supported");
  ++loops_;
  const int body = Body({"endfor", "else"}, false);
  --loops_;
  int else_body = -1;
  const bool has_else = IsWord("else");
  Next();
  if (has_else) else_body = Body({"endfor"}, true);
  return AddKids(NodeKind::kFor, line, {target, iterable, test, body, else_body});
}

int Parser::Set() {
  const int line = Cur().line;
  Next();
  const int target = AssignTarget({}, true);
  if (SkipOp("=")) {
    const int value = Tuple(false, true, {}, false);
    return AddKids(NodeKind::kSet, line, {target, value});
  }
  int filter = -1;
  while (ok() && SkipOp("|")) filter = Filter(filter);
  const int body = Body({"endset"}, true);
  return AddKids(NodeKind::kSetBlock, line, {target, filter, body});
}

// The body of something that becomes a function: loop controls do not reach out of it.
int Parser::FunctionBody(std::string_view end, int64_t* uses) {
  const int loops = std::exchange(loops_, 0);
  const int outer_names = std::exchange(special_names_, 0);
  const int body = Body({end}, true);
  if (uses != nullptr) *uses = special_names_;
  special_names_ |= outer_names;
  loops_ = loops;
  return body;
}

void Parser::Signature(Node& node) {
  ExpectOp("(");
  while (ok() && !IsOp(")")) {
    if (!node.named.empty()) ExpectOp(",");
    const int name = NameIndex(ExpectName());
    for (const auto& other : node.named) {
      if (other.first == name) Fail("duplicate parameter");
    }
    int value = -1;
    if (SkipOp("=")) {
      value = Expression();
    } else if (!node.named.empty() && node.named.back().second >= 0) {
      Fail("parameter without default follows one with");
    }
    node.named.emplace_back(name, value);
  }
  ExpectOp(")");
}

int Parser::Macro() {
  Node node = Make(NodeKind::kMacro, Cur().line);
  Next();
  node.name = NameIndex(ExpectName());
  Signature(node);
  node.kids = {FunctionBody("endmacro", &node.integer)};
  return Add(std::move(node));
}

int Parser::CallBlock() {
  Node node = Make(NodeKind::kCallBlock, Cur().line);
  Next();
  if (IsOp("(")) Signature(node);
  const int call = Expression();
  if (ok() && ast_.nodes[call].kind != NodeKind::kCall) return Fail("expected call");
  node.kids = {call, FunctionBody("endcall", &node.integer)};
  return Add(std::move(node));
}

int Parser::FilterBlock() {
  const int line = Cur().line;
  Next();
  int filter = Filter(-1);
  while (ok() && SkipOp("|")) filter = Filter(filter);
  const int body = Body({"endfilter"}, true);
  return AddKids(NodeKind::kFilterBlock, line, {filter, body});
}

int Parser::With() {
  Node node = Make(NodeKind::kWith, Cur().line);
  Next();
  while (ok() && Cur().type != TokenType::kBlockEnd) {
    if (!node.kids.empty()) ExpectOp(",");
    node.kids.push_back(AssignTarget({}, false));
    ExpectOp("=");
    node.kids.push_back(Expression());
  }
  node.kids.push_back(Body({"endwith"}, true));
  return Add(std::move(node));
}

int Parser::Print() {
  Node block = Make(NodeKind::kBlock, Cur().line);
  Next();
  while (ok() && Cur().type != TokenType::kBlockEnd) {
    if (!block.kids.empty()) ExpectOp(",");
    const int line = Cur().line;
    const int value = Expression();
    block.kids.push_back(AddKids(NodeKind::kPrint, line, {value}));
  }
  return Add(std::move(block));
}

// Marks what the model itself wrote, for training. Here it only opens a scope.
int Parser::Generation() {
  const int line = Cur().line;
  Next();
  const int body = FunctionBody("endgeneration", nullptr);
  return AddKids(NodeKind::kScoped, line, {body});
}

int Parser::LoopControl() {
  if (loops_ == 0) return Fail("'" + Cur().text + "' outside of a loop");
  const NodeKind kind = IsWord("break") ? NodeKind::kBreak : NodeKind::kContinue;
  const int line = Cur().line;
  Next();
  return AddKids(kind, line, {});
}

bool Parser::CanAssign(int node) const {
  const Node& target = ast_.nodes[node];
  if (target.kind == NodeKind::kTuple) {
    return std::all_of(target.kids.begin(), target.kids.end(),
                       [this](int kid) { return CanAssign(kid); });
  }
  return target.kind == NodeKind::kName || target.kind == NodeKind::kNsRef;
}

int Parser::AssignTarget(std::string_view end_word, bool with_namespace) {
  const size_t begin = at_;
  namespace_targets_ = with_namespace;
  const int target = Tuple(true, false, end_word, false);
  namespace_targets_ = false;
  if (!ok()) return -1;
  if (!CanAssign(target)) return Fail("cannot assign to this");
  if (end_word == "in" && tokens_[begin].text == "loop" && at_ == begin + 1) {
    return Fail("cannot assign to the loop variable");
  }
  return target;
}

// --- Expressions ---------------------------------------------------------------------------------

bool Parser::IsTupleEnd(std::string_view end_word) const {
  return Cur().type == TokenType::kVariableEnd || Cur().type == TokenType::kBlockEnd || IsOp(")") ||
         (!end_word.empty() && IsWord(end_word));
}

int Parser::Tuple(bool simple, bool conditional, std::string_view end_word, bool parens) {
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

int Parser::Expression(bool conditional) {
  Nested nested(*this);
  if (!ok()) return -1;
  return conditional ? Conditional() : Or();
}

int Parser::Conditional() {
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

int Parser::Or() {
  const int line = Cur().line;
  std::vector<int> operands = {And()};
  while (ok() && SkipWord("or")) operands.push_back(And());
  return operands.size() == 1 ? operands[0] : AddKids(NodeKind::kOr, line, std::move(operands));
}

int Parser::And() {
  const int line = Cur().line;
  std::vector<int> operands = {Not()};
  while (ok() && SkipWord("and")) operands.push_back(Not());
  return operands.size() == 1 ? operands[0] : AddKids(NodeKind::kAnd, line, std::move(operands));
}

int Parser::Not() {
  const int line = Cur().line;
  if (!SkipWord("not")) return Compare();
  Nested nested(*this);
  if (!ok()) return -1;
  const int operand = Not();
  return AddKids(NodeKind::kNot, line, {operand});
}

int Parser::Compare() {
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

int Parser::Chain(int (Parser::*part)(),
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

int Parser::Additive() {
  return Chain(&Parser::Concat, {{"+", Op::kAdd}, {"-", Op::kSub}});
}

int Parser::Concat() {
  const int line = Cur().line;
  std::vector<int> operands = {Multiplicative()};
  while (ok() && SkipOp("~")) operands.push_back(Multiplicative());
  return operands.size() == 1 ? operands[0] : AddKids(NodeKind::kConcat, line, std::move(operands));
}

int Parser::Multiplicative() {
  return Chain(&Parser::Power,
               {{"*", Op::kMul}, {"/", Op::kDiv}, {"//", Op::kFloorDiv}, {"%", Op::kMod}});
}

// From left to right, unlike Python: that is what Jinja does.
int Parser::Power() {
  const int line = Cur().line;
  int left = Unary(true);
  while (ok() && SkipOp("**")) {
    Node node = Make(NodeKind::kArith, line, {left, Unary(true)});
    node.ops = {Op::kPow};
    left = Add(std::move(node));
  }
  return left;
}

int Parser::Unary(bool with_filter) {
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

int Parser::Primary(bool with_namespace) {
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

int Parser::List() {
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

int Parser::Dict() {
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

int Parser::Postfix(int node) {
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

int Parser::FilterChain(int node) {
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
int Parser::Filter(int input) {
  Node node = Make(NodeKind::kFilter, Cur().line, {input});
  node.text = ExpectName();
  node.integer = FindFilter(node.text);
  if (node.integer < 0) NoteUnknown("no filter named '" + node.text + "'");
  if (IsOp("(")) Arguments(node);
  return Add(std::move(node));
}

int Parser::Test(int input) {
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

int Parser::Subscript(int object) {
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

int Parser::Subscribed() {
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

int Parser::Call(int callee) {
  Node node = Make(NodeKind::kCall, Cur().line, {callee});
  Arguments(node);
  return Add(std::move(node));
}

void Parser::Arguments(Node& node) {
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

}  // namespace

absl::StatusOr<Ast> ParseJinja(std::string_view source, int depth_max) {
  ASSIGN_OR_RETURN(std::vector<JinjaToken> tokens, LexJinja(source));
  return Parser(std::move(tokens), depth_max).Run();
}

}  // namespace millrace::text
