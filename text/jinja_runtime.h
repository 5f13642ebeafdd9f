#pragma once
// The values of a template while it renders. All of them live until the render ends, in the
// Runtime, whose limits bound their number and size; a Value is a small handle to copy.
//
// A string knows which of its bytes came from the request: wholly (kContent), not at all
// (kTemplate), or by ranges (kMixed). Parts of a string are views that share its bytes and marks.

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "text/chat_template.h"

namespace millrace::text {

enum class Kind : uint8_t {
  // clang-format off
  kUndefined, kNone, kBool, kInt, kFloat, kBigInt, kString, kList, kTuple, kDict,
  // clang-format on
  kIterator,  // of a filter, or a view of a dict
  kNamespace,
  kLoop,
  kFunction,
  kSlice,
};
enum class Origin : uint8_t { kTemplate, kContent, kMixed };

struct Node;
struct Scope;
struct ListRep;
struct DictRep;
struct LoopRep;
struct FunctionRep;
struct MixedText {
  std::string bytes;
  std::vector<TextRange> content;
};

struct Value {
  Kind kind = Kind::kUndefined;
  Origin origin = Origin::kTemplate;
  uint32_t size = 0;  // of `chars`
  union {
    int64_t integer = 0;  // kBool, kInt
    double real;
    const char* chars;  // kString, kBigInt (an integer beyond 64 bits, as text)
    ListRep* list;      // kList, kTuple, kIterator, kSlice (three items)
    DictRep* dict;      // kDict, kNamespace
    LoopRep* loop;
    FunctionRep* function;
  };
  const MixedText* mixed = nullptr;  // kMixed: `chars` points into its bytes

  static Value None() { return Of(Kind::kNone); }
  static Value Bool(bool b) { return Int(b, Kind::kBool); }
  static Value Int(int64_t i, Kind kind = Kind::kInt);
  static Value Float(double d);
  // `text` must outlive the render.
  static Value String(std::string_view text, Origin origin);
  static Value Of(Kind kind);
  static Value Of(Kind kind, ListRep* list);

  bool is(Kind k) const { return kind == k; }
  bool is_string() const { return kind == Kind::kString; }
  bool is_sequence() const { return kind == Kind::kList || kind == Kind::kTuple; }
  std::string_view str() const { return {chars, size}; }
  // A part of this string.
  Value Sub(size_t begin, size_t length) const;
  // This string cut down to `part`, which points into str().
  Value Sub(std::string_view part) const { return Sub(part.data() - chars, part.size()); }
};

struct ListRep {
  std::vector<Value> items;
  bool one_shot = false;  // an iterator that can be walked once
  bool consumed = false;
};
struct DictRep {
  std::vector<std::pair<Value, Value>> items;
  absl::flat_hash_map<std::string_view, uint32_t> index;  // of string keys, once there are many
};
struct LoopRep {
  const std::vector<Value>* items = nullptr;
  size_t index = 0;
  std::vector<Value> changed;
  bool has_changed = false;
};
struct FunctionRep {
  enum Type { kMacro, kCaller, kGlobal, kMethod, kCycle, kChanged };
  Type type = kGlobal;
  int id = -1;                 // kGlobal, kMethod: index into its table
  Value self;                  // kMethod, kCycle, kChanged
  const Node* node = nullptr;  // kMacro, kCaller
  Scope* scope = nullptr;      // where that was defined
};
struct CallArgs {
  std::vector<Value> positional;
  std::vector<std::pair<std::string_view, Value>> named;
};

// Limits, memory and the first error of one render. After an error every operation is a cheap no-op
// that returns undefined. Thread: one owner at a time.
class Runtime {
 public:
  Runtime(const TemplateLimits& limits, int64_t unix_seconds)
      : limits(limits), unix_seconds(unix_seconds) {}

  bool failed() const { return !error.ok(); }
  // Records the first error. `what` never holds content of the request.
  Value Fail(std::string_view what);
  // Counts work; false once the budget is spent.
  bool Step(size_t count = 1);
  // Counts memory; false once the budget is spent.
  bool Charge(size_t bytes);

  Value NewString(std::string bytes, Origin origin);
  Value NewMixed(std::string bytes, std::vector<TextRange> content);
  Value NewList(Kind kind, size_t reserve = 0);
  Value NewDict(Kind kind = Kind::kDict);
  Value NewFunction(FunctionRep function);
  LoopRep* NewLoop();

  const TemplateLimits& limits;
  const int64_t unix_seconds;
  int line = 0;
  int depth = 0;  // of nested evaluation, see DepthGuard
  absl::Status error;

 private:
  size_t steps_ = 0;
  size_t bytes_ = 0;
  // Deques: what a Value points to must not move.
  std::deque<std::string> strings_;
  std::deque<MixedText> mixed_;
  std::deque<ListRep> lists_;
  std::deque<DictRep> dicts_;
  std::deque<LoopRep> loops_;
  std::deque<FunctionRep> functions_;
};

}  // namespace millrace::text
