#pragma once
// The parsed form of a chat template: nodes in one array that name each other by index, so that
// neither building nor destroying a tree recurses.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace millrace::text {

enum class NodeKind : uint8_t {
  // Statements. `kids` is listed; -1 stands for an absent kid.
  kBlock,        // statements
  kData,         // text
  kPrint,        // expression
  kIf,           // condition, block, condition, block, ..., else block
  kFor,          // target, iterable, filter, body, else block
  kSet,          // target, value
  kSetBlock,     // target, filter, body
  kMacro,        // body; `named` are parameters with their defaults
  kCallBlock,    // call, body; `named` are the parameters of caller
  kFilterBlock,  // filter, body
  kWith,         // target, value, ..., body
  kScoped,       // body (the generation tag)
  kBreak,
  kContinue,
  // Expressions.
  kNone,
  kBool,     // integer
  kInteger,  // integer
  kFloat,    // real
  kString,   // text
  kName,     // name
  kNsRef,    // name, text: the attribute (only as a target)
  kTuple,    // items
  kList,     // items
  kDict,     // key, value, ...
  kCond,     // condition, value, other value
  kOr,       // operands
  kAnd,      // operands
  kNot,      // operand
  kCompare,  // operands; ops between them
  kArith,    // operands; ops between them, applied from left to right
  kConcat,   // operands
  kNegate,   // operand
  kPlus,     // operand
  kAttr,     // object; text
  kItem,     // object, index
  kSlice,    // begin, end, step
  kCall,     // callee, arguments
  kFilter,   // input (-1 in a filter or set block), arguments; integer: which
  kTest,     // input, arguments; integer: which
};

enum class Op : uint8_t {
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kIn,
  kNotIn,
  kAdd,
  kSub,
  kMul,
  kDiv,
  kFloorDiv,
  kMod,
  kPow,
};

// Node::integer of kMacro and kCallBlock: which special names the body refers to.
enum MacroUse : int64_t { kUsesCaller = 1, kUsesVarargs = 2, kUsesKwargs = 4 };

struct Node {
  NodeKind kind = NodeKind::kNone;
  int line = 0;
  int height = 1;  // of the tree below, this included
  int name = -1;   // index into Ast::names
  int star = -1;   // call: *args
  int star_star = -1;
  std::vector<int> kids;
  std::vector<Op> ops;
  std::vector<std::pair<int, int>> named;  // name index, node (or -1)
  std::string text;
  int64_t integer = 0;
  double real = 0;
};

// Thread: immutable once parsed.
struct Ast {
  std::vector<Node> nodes;
  std::vector<std::string> names;
  int root = -1;
};

}  // namespace millrace::text
