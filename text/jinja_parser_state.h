#pragma once
// The state of parsing one template, for the two files that hold its methods: jinja_parser.cc has
// the statements, jinja_parser_expressions.cc the expressions.

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/status_macros.h"
#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"

namespace millrace::text {

// Recursive descent, one method per level of precedence. After the first error every method returns
// at once with -1, and Run reports it. Thread: one owner at a time.
class JinjaParser {
 public:
  JinjaParser(std::vector<JinjaToken> tokens, int depth_max)
      : tokens_(std::move(tokens)), depth_max_(depth_max) {}

  absl::StatusOr<Ast> Run();

 private:
  // One level of nesting; `ok` is false when there are too many.
  struct Nested {
    explicit Nested(JinjaParser& parser) : p(parser) {
      if (++p.depth_ > p.depth_max_) p.Fail("nested too deeply");
    }
    ~Nested() { --p.depth_; }
    JinjaParser& p;
  };

  bool ok() const { return error_.ok(); }
  int Fail(std::string_view what);
  void NoteUnknown(std::string_view what);
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
  void Expect(TokenType type, std::string_view what);
  std::string ExpectName();
  int NameIndex(const std::string& name);
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
  int Chain(int (JinjaParser::*part)(), std::initializer_list<std::pair<std::string_view, Op>> ops);
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

}  // namespace millrace::text
