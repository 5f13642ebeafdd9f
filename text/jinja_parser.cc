#include "text/jinja_parser.h"

#include "text/jinja_parser_state.h"

namespace millrace::text {

absl::StatusOr<Ast> JinjaParser::Run() {
  ast_.root = Statements({});
  if (ok() && Cur().type != TokenType::kEnd) Fail("unexpected end of a block");
  if (ok() && !unknown_.empty()) error_ = absl::InvalidArgumentError(unknown_[0]);
  RETURN_IF_ERROR(error_);
  return std::move(ast_);
}

int JinjaParser::Fail(std::string_view what) {
  if (ok()) error_ = JinjaError(Cur().line, what);
  return -1;
}

void JinjaParser::NoteUnknown(std::string_view what) {
  if (conditions_ > 0) return;
  unknown_.emplace_back(JinjaError(Cur().line, what).message());
}

void JinjaParser::Expect(TokenType type, std::string_view what) {
  if (Cur().type != type) {
    Fail("expected " + std::string(what));
  } else {
    Next();
  }
}

std::string JinjaParser::ExpectName() {
  std::string name = Cur().text;
  Expect(TokenType::kName, "a name");
  return name;
}

int JinjaParser::NameIndex(const std::string& name) {
  auto added = names_.try_emplace(name, static_cast<int>(ast_.names.size()));
  if (added.second) ast_.names.push_back(name);
  return added.first->second;
}

int JinjaParser::Add(Node node) {
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
int JinjaParser::Statements(std::initializer_list<std::string_view> ends) {
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

int JinjaParser::Body(std::initializer_list<std::string_view> ends, bool drop_end) {
  SkipOp(":");
  Expect(TokenType::kBlockEnd, "end of statement block");
  const int body = Statements(ends);
  if (drop_end) Next();
  return body;
}

int JinjaParser::Statement() {
  if (Cur().type != TokenType::kName) return Fail("tag name expected");
  struct Tag {
    std::string_view name;
    int (JinjaParser::*parse)();
  };
  static constexpr Tag kTags[] = {{"if", &JinjaParser::If},
                                  {"for", &JinjaParser::For},
                                  {"set", &JinjaParser::Set},
                                  {"macro", &JinjaParser::Macro},
                                  {"call", &JinjaParser::CallBlock},
                                  {"filter", &JinjaParser::FilterBlock},
                                  {"with", &JinjaParser::With},
                                  {"print", &JinjaParser::Print},
                                  {"break", &JinjaParser::LoopControl},
                                  {"continue", &JinjaParser::LoopControl},
                                  {"generation", &JinjaParser::Generation}};
  for (const Tag& tag : kTags) {
    if (IsWord(tag.name)) return (this->*tag.parse)();
  }
  return Fail("unknown or unsupported tag '" + Cur().text.substr(0, 64) + "'");
}

int JinjaParser::If() {
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

int JinjaParser::For() {
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

int JinjaParser::Set() {
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
int JinjaParser::FunctionBody(std::string_view end, int64_t* uses) {
  const int loops = std::exchange(loops_, 0);
  const int outer_names = std::exchange(special_names_, 0);
  const int body = Body({end}, true);
  if (uses != nullptr) *uses = special_names_;
  special_names_ |= outer_names;
  loops_ = loops;
  return body;
}

void JinjaParser::Signature(Node& node) {
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

int JinjaParser::Macro() {
  Node node = Make(NodeKind::kMacro, Cur().line);
  Next();
  node.name = NameIndex(ExpectName());
  Signature(node);
  node.kids = {FunctionBody("endmacro", &node.integer)};
  return Add(std::move(node));
}

int JinjaParser::CallBlock() {
  Node node = Make(NodeKind::kCallBlock, Cur().line);
  Next();
  if (IsOp("(")) Signature(node);
  const int call = Expression();
  if (ok() && ast_.nodes[call].kind != NodeKind::kCall) return Fail("expected call");
  node.kids = {call, FunctionBody("endcall", &node.integer)};
  return Add(std::move(node));
}

int JinjaParser::FilterBlock() {
  const int line = Cur().line;
  Next();
  int filter = Filter(-1);
  while (ok() && SkipOp("|")) filter = Filter(filter);
  const int body = Body({"endfilter"}, true);
  return AddKids(NodeKind::kFilterBlock, line, {filter, body});
}

int JinjaParser::With() {
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

int JinjaParser::Print() {
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
int JinjaParser::Generation() {
  const int line = Cur().line;
  Next();
  const int body = FunctionBody("endgeneration", nullptr);
  return AddKids(NodeKind::kScoped, line, {body});
}

int JinjaParser::LoopControl() {
  if (loops_ == 0) return Fail("'" + Cur().text + "' outside of a loop");
  const NodeKind kind = IsWord("break") ? NodeKind::kBreak : NodeKind::kContinue;
  const int line = Cur().line;
  Next();
  return AddKids(kind, line, {});
}

bool JinjaParser::CanAssign(int node) const {
  const Node& target = ast_.nodes[node];
  if (target.kind == NodeKind::kTuple) {
    return std::all_of(target.kids.begin(), target.kids.end(),
                       [this](int kid) { return CanAssign(kid); });
  }
  return target.kind == NodeKind::kName || target.kind == NodeKind::kNsRef;
}

int JinjaParser::AssignTarget(std::string_view end_word, bool with_namespace) {
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

absl::StatusOr<Ast> ParseJinja(std::string_view source, int depth_max) {
  ASSIGN_OR_RETURN(std::vector<JinjaToken> tokens, LexJinja(source));
  return JinjaParser(std::move(tokens), depth_max).Run();
}

}  // namespace millrace::text
