#include "base/json.h"

#include <simdjson.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/json_writer.h"
#include "base/status_macros.h"

namespace millrace {
namespace {

namespace ondemand = simdjson::ondemand;

// The parser's recursion is one frame a level; no limit may exceed this.
constexpr int kDepthCeiling = 1024;

absl::Status Bad(std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("invalid JSON: ", std::string(what)));
}

bool IsDigit(char c) {
  return c >= '0' && c <= '9';
}

// RFC 8259 section 6: -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?
bool IsNumber(std::string_view text) {
  size_t i = 0;
  const auto digits = [&] {
    const size_t begin = i;
    while (i < text.size() && IsDigit(text[i])) ++i;
    return i - begin;
  };
  if (i < text.size() && text[i] == '-') ++i;
  const size_t first = i;
  const size_t whole = digits();
  if (whole == 0 || (whole > 1 && text[first] == '0')) return false;
  if (i < text.size() && text[i] == '.') {
    ++i;
    if (digits() == 0) return false;
  }
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    ++i;
    if (i < text.size() && (text[i] == '+' || text[i] == '-')) ++i;
    if (digits() == 0) return false;
  }
  return i == text.size();
}

std::string_view TrimRight(std::string_view text) {
  while (!text.empty() && (text.back() == ' ' || text.back() == '\n' || text.back() == '\r' ||
                           text.back() == '\t')) {
    text.remove_suffix(1);
  }
  return text;
}

std::string_view Trim(std::string_view text) {
  text = TrimRight(text);
  const size_t begin = text.find_first_not_of(" \n\r\t");
  return begin == std::string_view::npos ? std::string_view() : text.substr(begin);
}

// A number as sign, significant digits without leading or trailing zeros, and a power of ten.
struct Decimal {
  bool negative = false;
  std::string digits;  // empty: zero
  int64_t exponent = 0;
};

Decimal ToDecimal(std::string_view text) {
  Decimal d;
  size_t i = 0;
  if (text[i] == '-') d.negative = true, ++i;
  bool fraction = false;
  for (; i < text.size() && text[i] != 'e' && text[i] != 'E'; ++i) {
    if (text[i] == '.') {
      fraction = true;
      continue;
    }
    if (!(d.digits.empty() && text[i] == '0')) d.digits.push_back(text[i]);
    if (fraction) --d.exponent;
  }
  if (i < text.size()) {
    const bool plus = text[i + 1] == '+';
    int64_t power = 0;
    const char* begin = text.data() + i + 1 + (plus ? 1 : 0);
    const auto read = std::from_chars(begin, text.data() + text.size(), power);
    // Far past any number that fits; the sign decides between zero and infinity.
    if (read.ec != std::errc()) power = *begin == '-' ? -(int64_t{1} << 40) : int64_t{1} << 40;
    d.exponent += power;
  }
  while (!d.digits.empty() && d.digits.back() == '0') d.digits.pop_back(), ++d.exponent;
  return d;
}

// |d| when it is an integer of at most 64 bits.
bool Magnitude(const Decimal& d, uint64_t& out) {
  out = 0;
  if (d.digits.empty()) return true;
  if (d.exponent < 0 || d.exponent + static_cast<int64_t>(d.digits.size()) > 20) return false;
  const std::string text = d.digits + std::string(static_cast<size_t>(d.exponent), '0');
  return std::from_chars(text.data(), text.data() + text.size(), out).ec == std::errc();
}

bool HasDuplicate(const JsonObject& object) {
  if (object.size() < 2) return false;
  std::vector<std::string_view> keys;
  keys.reserve(object.size());
  for (const JsonMember& member : object) keys.push_back(member.first);
  std::sort(keys.begin(), keys.end());
  return std::adjacent_find(keys.begin(), keys.end()) != keys.end();
}

// Builds our value from simdjson's stream of tokens. Works on its document and value types alike.
class Builder {
 public:
  explicit Builder(const JsonLimits& limits)
      : limits_(limits), depth_max_(std::min(limits.depth_max, kDepthCeiling)) {}

  template <typename Source>
  absl::StatusOr<Json> Build(Source& source, int depth) {
    if (++values_ > limits_.values_max) {
      return Bad(absl::StrCat("more than ", limits_.values_max, " values"));
    }
    ondemand::json_type type;
    if (source.type().get(type)) return Bad("unexpected character");
    switch (type) {
      case ondemand::json_type::array:
        return depth > depth_max_ ? TooDeep() : BuildArray(source, depth);
      case ondemand::json_type::object:
        return depth > depth_max_ ? TooDeep() : BuildObject(source, depth);
      case ondemand::json_type::string:
        return BuildString(source);
      case ondemand::json_type::number:
      case ondemand::json_type::boolean:
      case ondemand::json_type::null:
        return BuildLiteral(Token(source));
    }
    return Bad("unexpected character");
  }

  // A number, true, false or null, without white space around it.
  static absl::StatusOr<Json> BuildLiteral(std::string_view token) {
    if (token == "null") return Json();
    if (token == "true") return Json(true);
    if (token == "false") return Json(false);
    if (IsNumber(token)) return Json(JsonNumber{std::string(token)});
    return Bad("bad literal");
  }

 private:
  absl::StatusOr<Json> TooDeep() { return Bad(absl::StrCat("nested deeper than ", depth_max_)); }

  // The text of a scalar. It stays where it is: the iteration steps over what was not taken.
  static std::string_view Token(ondemand::value& source) {
    return TrimRight(source.raw_json_token());
  }
  // A document that is one scalar does not come here: see Parse.
  static std::string_view Token(ondemand::document&) { return {}; }

  template <typename Source>
  absl::StatusOr<Json> BuildString(Source& source) {
    std::string_view text;
    if (source.get_string().get(text)) return Bad("bad string");
    return Json(std::string(text));
  }

  template <typename Source>
  absl::StatusOr<Json> BuildArray(Source& source, int depth) {
    ondemand::array array;
    if (source.get_array().get(array)) return Bad("bad array");
    JsonArray out;
    for (auto element : array) {
      ondemand::value value;
      if (element.get(value)) return Bad("bad array");
      ASSIGN_OR_RETURN(Json built, Build(value, depth + 1));
      out.push_back(std::move(built));
    }
    return Json(std::move(out));
  }

  template <typename Source>
  absl::StatusOr<Json> BuildObject(Source& source, int depth) {
    ondemand::object object;
    if (source.get_object().get(object)) return Bad("bad object");
    JsonObject out;
    for (auto field : object) {
      std::string_view key;
      if (field.unescaped_key().get(key)) return Bad("bad key");
      if (out.size() >= limits_.keys_per_object_max) {
        return Bad(absl::StrCat("more than ", limits_.keys_per_object_max, " keys in an object"));
      }
      std::string name(key);
      ondemand::value value;
      if (field.value().get(value)) return Bad("bad object");
      ASSIGN_OR_RETURN(Json built, Build(value, depth + 1));
      out.emplace_back(std::move(name), std::move(built));
    }
    if (HasDuplicate(out)) return Bad("duplicate key in an object");
    return Json(std::move(out));
  }

  const JsonLimits& limits_;
  const int depth_max_;
  size_t values_ = 0;
};

void DumpTo(const Json& json, std::string& out) {
  switch (json.type()) {
    case Json::Type::kNull:
      out += "null";
      return;
    case Json::Type::kBool:
      out += json.bool_value() ? "true" : "false";
      return;
    case Json::Type::kNumber:
      out += json.number_text();
      return;
    case Json::Type::kString:
      AppendJsonString(json.string_value(), out);
      return;
    case Json::Type::kArray: {
      char separator = '[';
      for (const Json& element : json.array())
        out += separator, DumpTo(element, out), separator = ',';
      out += json.array().empty() ? "[]" : "]";
      return;
    }
    case Json::Type::kObject: {
      char separator = '{';
      for (const auto& [key, value] : json.object()) {
        out += separator;
        AppendJsonString(key, out);
        out += ':';
        DumpTo(value, out);
        separator = ',';
      }
      out += json.object().empty() ? "{}" : "}";
      return;
    }
  }
}

template <typename T>
JsonNumber NumberOf(T value) {
  char buffer[32];
  return {std::string(buffer, std::to_chars(buffer, buffer + sizeof(buffer), value).ptr)};
}

}  // namespace

Json::Json(int64_t value) : value_(NumberOf(value)) {}
Json::Json(uint64_t value) : value_(NumberOf(value)) {}
Json::Json(double value) : value_(NumberOf(value)) {
  CHECK(std::isfinite(value));
}

absl::StatusOr<Json> Json::Parse(std::string_view text, const JsonLimits& limits) {
  if (text.size() > limits.bytes_max) {
    return Bad(absl::StrCat(text.size(), " bytes, at most ", limits.bytes_max));
  }
  // simdjson skips a byte order mark; RFC 8259 lets us refuse it, and a gateway might.
  if (text.substr(0, 3) == "\xEF\xBB\xBF") return Bad("byte order mark");
  const simdjson::padded_string padded(text);
  ondemand::parser parser;
  ondemand::document document;
  if (const auto error = parser.iterate(padded).get(document)) {
    return Bad(error == simdjson::UTF8_ERROR ? "not UTF-8"
               : error == simdjson::EMPTY    ? "empty"
                                             : "unbalanced or unclosed text");
  }
  const std::string_view trimmed = Trim(text);
  if (trimmed.find_first_of("[{\"") != 0) return Builder::BuildLiteral(trimmed);
  Builder builder(limits);
  absl::StatusOr<Json> json = builder.Build(document, 1);
  // The library reports a location only while something is left.
  const char* rest;
  const bool somewhere = !document.current_location().get(rest);
  if (json.ok() && !somewhere) return json;
  const std::string at =
      somewhere ? absl::StrCat(" near byte ", rest - padded.data()) : " at the end";
  return json.ok() ? Bad("text after the value" + at)
                   : absl::InvalidArgumentError(std::string(json.status().message()) + at);
}

const Json* Json::Find(std::string_view key) const {
  if (!is_object()) return nullptr;
  for (const JsonMember& member : object()) {
    if (member.first == key) return &member.second;
  }
  return nullptr;
}

void Json::Add(std::string key, Json value) {
  object().emplace_back(std::move(key), std::move(value));
}

bool Json::GetInt64(int64_t* out) const {
  if (!is_number()) return false;
  const Decimal d = ToDecimal(number_text());
  uint64_t magnitude;
  if (!Magnitude(d, magnitude)) return false;
  const uint64_t limit = (uint64_t{1} << 63) - (d.negative ? 0 : 1);
  if (magnitude > limit) return false;
  *out = static_cast<int64_t>(d.negative ? ~magnitude + 1 : magnitude);
  return true;
}

bool Json::GetUint64(uint64_t* out) const {
  if (!is_number()) return false;
  const Decimal d = ToDecimal(number_text());
  uint64_t magnitude;
  if (!Magnitude(d, magnitude) || (d.negative && magnitude != 0)) return false;
  *out = magnitude;
  return true;
}

bool Json::GetDouble(double* out) const {
  if (!is_number()) return false;
  const std::string& text = number_text();
  const auto read = std::from_chars(text.data(), text.data() + text.size(), *out);
  if (read.ec == std::errc()) return true;
  // Out of range: underflow is zero, overflow is refused.
  const Decimal d = ToDecimal(text);
  if (d.exponent + static_cast<int64_t>(d.digits.size()) > 0) return false;
  *out = d.negative ? -0.0 : 0.0;
  return true;
}

std::string Json::Dump() const {
  std::string out;
  DumpTo(*this, out);
  return out;
}

}  // namespace millrace
