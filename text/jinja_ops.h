#pragma once
// What templates do with values, as Python and Jinja define it.

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja_ast.h"
#include "text/jinja_runtime.h"

namespace millrace::text {

// Bounds native recursion over nested values and nested evaluation. Thread: one owner at a time.
class DepthGuard {
 public:
  explicit DepthGuard(Runtime& runtime);
  ~DepthGuard() { --rt_.depth; }
  DepthGuard(const DepthGuard&) = delete;
  // False when the limit is reached; the runtime has then failed.
  bool ok() const { return ok_; }

 private:
  Runtime& rt_;
  bool ok_;
};

// Collects text with its marks. Thread: one owner at a time.
class TextBuilder {
 public:
  // An output buffer counts against output_bytes_max, others against value_bytes_max.
  explicit TextBuilder(Runtime& runtime, bool output = false) : rt_(runtime), output_(output) {}
  void Append(std::string_view text, Origin origin);
  void Append(const Value& string);
  size_t size() const { return bytes_.size(); }
  Value Finish();
  std::string& bytes() { return bytes_; }
  std::vector<TextRange>& content() { return content_; }

 private:
  Runtime& rt_;
  bool output_;
  std::string bytes_;
  std::vector<TextRange> content_;
};

// Calls `visit(text, origin)` for each part of one origin.
template <typename Visit>
void ForEachPart(const Value& string, Visit visit) {
  if (string.origin != Origin::kMixed) {
    if (string.size > 0) visit(string.str(), string.origin);
    return;
  }
  const std::string_view bytes = string.mixed->bytes;
  size_t at = static_cast<size_t>(string.chars - bytes.data());
  const size_t end = at + string.size;
  for (const TextRange& range : string.mixed->content) {
    if (range.end <= at) continue;
    if (range.begin >= end) break;
    if (range.begin > at) visit(bytes.substr(at, range.begin - at), Origin::kTemplate);
    const size_t begin = range.begin > at ? range.begin : at;
    at = range.end < end ? range.end : end;
    visit(bytes.substr(begin, at - begin), Origin::kContent);
  }
  if (at < end) visit(bytes.substr(at, end - at), Origin::kTemplate);
}

bool Truthy(const Value& value);
bool Equal(Runtime& rt, const Value& a, const Value& b);
// -1, 0, 1; fails for values without an order.
int Order(Runtime& rt, const Value& a, const Value& b);
bool Contains(Runtime& rt, const Value& container, const Value& item);
// The items to walk over: nullptr after a failure. `what` can be walked once if it is an iterator.
const std::vector<Value>* Items(Runtime& rt, const Value& what);
// Items, characters or members; fails for what has no length.
int64_t Length(Runtime& rt, const Value& value);

void Push(Runtime& rt, const Value& list, const Value& item);
// Sets or replaces a member. Fails for a key that cannot be one.
void SetItem(Runtime& rt, const Value& dict, const Value& key, const Value& value);
const Value* FindItem(Runtime& rt, const Value& dict, const Value& key);

Value Arithmetic(Runtime& rt, Op op, const Value& a, const Value& b);
Value Negate(Runtime& rt, const Value& value);
Value GetAttr(Runtime& rt, const Value& object, std::string_view name);
Value GetItem(Runtime& rt, const Value& object, const Value& key);
Value Format(Runtime& rt, const Value& format, const std::vector<Value>& args);  // the % of Python

// str(value) as a string value, and appended.
Value ToString(Runtime& rt, const Value& value);
void AppendStr(Runtime& rt, TextBuilder& out, const Value& value);
void AppendRepr(Runtime& rt, TextBuilder& out, const Value& value);
std::string FormatFloat(double value);

struct JsonStyle {
  int indent = -1;  // -1: on one line
  bool sort_keys = false;
  bool ensure_ascii = false;
  std::string item_separator;  // as given, else ", " (or "," with an indent)
  std::string key_separator = ": ";
  std::string indent_text;
};
void AppendJson(Runtime& rt, TextBuilder& out, const Value& value, const JsonStyle& style);

// Binds a call's arguments to `names`; those not given stay undefined. False after a failure: too
// many, unknown, given twice, or fewer than `required`.
bool Bind(Runtime& rt, const CallArgs& args, std::initializer_list<std::string_view> names,
          size_t required, std::vector<Value>& bound);

// `json` outlives the render. Strings are marked as content.
Value FromJson(Runtime& rt, const Json& json);

}  // namespace millrace::text
