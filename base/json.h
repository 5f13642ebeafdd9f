#pragma once
// One ordered JSON value with limits. It serves request bodies, template values and configuration.
// The parser (simdjson) is hidden in json.cc. Strict RFC 8259; duplicate keys are refused at every
// depth; numbers keep their text; nothing here recurses without a bound, destructors included.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace millrace {

struct JsonLimits {
  size_t bytes_max = 8 << 20;
  // A container nested deeper than this is refused. The root container has depth 1.
  int depth_max = 64;
  // Values in the whole document (keys not counted).
  size_t values_max = 200'000;
  size_t keys_per_object_max = 65'536;
};

class Json;
using JsonArray = std::vector<Json>;
using JsonMember = std::pair<std::string, Json>;
// Members in document order.
using JsonObject = std::vector<JsonMember>;

// A number keeps its text, so that 0.1, 1e2 and 18446744073709551616 print as they were written.
struct JsonNumber {
  std::string text;
  friend bool operator==(const JsonNumber&, const JsonNumber&) = default;
};

// Thread: immutable once built; a plain value otherwise.
class Json {
 public:
  enum class Type { kNull, kBool, kNumber, kString, kArray, kObject };

  Json() = default;  // null
  Json(std::nullptr_t) {}
  Json(bool value) : value_(value) {}
  Json(int value) : Json(static_cast<int64_t>(value)) {}
  Json(int64_t value);
  Json(uint64_t value);
  Json(double value);  // REQUIRES: finite. Shortest text that reads back as the same double.
  Json(const char* value) : value_(std::string(value)) {}
  Json(std::string value) : value_(std::move(value)) {}
  Json(std::string_view value) : value_(std::string(value)) {}
  Json(JsonNumber value) : value_(std::move(value)) {}
  Json(JsonArray value) : value_(std::move(value)) {}
  Json(JsonObject value) : value_(std::move(value)) {}

  // InvalidArgument with the byte offset and the reason; never echoes the document.
  static absl::StatusOr<Json> Parse(std::string_view text, const JsonLimits& limits = {});

  Type type() const { return static_cast<Type>(value_.index()); }
  bool is_null() const { return type() == Type::kNull; }
  bool is_bool() const { return type() == Type::kBool; }
  bool is_number() const { return type() == Type::kNumber; }
  bool is_string() const { return type() == Type::kString; }
  bool is_array() const { return type() == Type::kArray; }
  bool is_object() const { return type() == Type::kObject; }

  // REQUIRES: the type matches.
  bool bool_value() const { return std::get<bool>(value_); }
  const std::string& string_value() const { return std::get<std::string>(value_); }
  const std::string& number_text() const { return std::get<JsonNumber>(value_).text; }
  const JsonArray& array() const { return std::get<JsonArray>(value_); }
  JsonArray& array() { return std::get<JsonArray>(value_); }
  const JsonObject& object() const { return std::get<JsonObject>(value_); }
  JsonObject& object() { return std::get<JsonObject>(value_); }

  // The member of an object, or nullptr when this is no object or has no such key.
  const Json* Find(std::string_view key) const;
  // Appends a member. REQUIRES: this is an object without `key`.
  void Add(std::string key, Json value);

  // The number as an integer when its value is one and fits ("1.0" and "1e2" do; "1.5" does not).
  // False otherwise, or when this is no number.
  bool GetInt64(int64_t* out) const;
  bool GetUint64(uint64_t* out) const;
  // The nearest double; false when this is no number or its value overflows to infinity.
  bool GetDouble(double* out) const;

  // Compact text, members in order, non-ASCII kept as UTF-8.
  std::string Dump() const;

  friend bool operator==(const Json&, const Json&) = default;

 private:
  std::variant<std::monostate, bool, JsonNumber, std::string, JsonArray, JsonObject> value_;
};

}  // namespace millrace
