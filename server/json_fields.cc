#include "server/json_fields.h"

#include <utility>

#include "server/unsupported.h"

namespace millrace::server {

const Json* JsonFields::Get(std::string_view name) {
  known_.insert(name);
  const Json* value = object_.Find(name);
  return value == nullptr || value->is_null() ? nullptr : value;
}

void JsonFields::Read(std::string_view name, bool& out) {
  const Json* value = Get(name);
  if (value == nullptr) return;
  if (!value->is_bool()) return Fail(name, "a boolean");
  out = value->bool_value();
}

void JsonFields::Read(std::string_view name, std::optional<bool>& out) {
  const Json* value = Get(name);
  if (value == nullptr) return;
  if (!value->is_bool()) return Fail(name, "a boolean");
  out = value->bool_value();
}

void JsonFields::Read(std::string_view name, std::optional<int64_t>& out) {
  const Json* value = Get(name);
  if (value == nullptr) return;
  int64_t number = 0;
  if (!value->GetInt64(&number)) return Fail(name, "an integer");
  out = number;
}

void JsonFields::Read(std::string_view name, std::optional<double>& out) {
  const Json* value = Get(name);
  if (value == nullptr) return;
  double number = 0;
  if (!value->GetDouble(&number)) return Fail(name, "a number");
  out = number;
}

void JsonFields::Read(std::string_view name, std::optional<std::string>& out) {
  const Json* value = Get(name);
  if (value == nullptr) return;
  if (!value->is_string()) return Fail(name, "a string");
  out = value->string_value();
}

void JsonFields::Read(std::string_view name, std::vector<int64_t>& out) {
  const Json* value = Get(name);
  if (value == nullptr) return;
  if (!value->is_array()) return Fail(name, "an array of integers");
  for (const Json& item : value->array()) {
    int64_t number = 0;
    if (!item.GetInt64(&number)) return Fail(name, "an array of integers");
    out.push_back(number);
  }
}

void JsonFields::Fail(std::string_view name, std::string_view wanted) {
  Fail(InvalidField(name, "'" + std::string(name) + "' must be " + std::string(wanted) + "."));
}

void JsonFields::Fail(ApiError error) {
  if (!error_) error_ = std::move(error);
}

int32_t JsonFields::Finish(const std::set<std::string_view>& ignored) {
  int32_t unknown = 0;
  for (const JsonMember& member : object_.object()) {
    if (member.second.is_null()) continue;
    const UnsupportedParameter* row = FindUnsupported(member.first);
    if (row != nullptr && row->http) {
      if (!row->harmless(member.second)) Fail(UnsupportedError(row->name));
      continue;
    }
    if (known_.count(member.first) == 0 && ignored.count(member.first) == 0) ++unknown;
  }
  return unknown;
}

}  // namespace millrace::server
