#include "model/hf_keys.h"

#include "model/gguf.h"

namespace millrace::model {
namespace {

// Equal as values: numbers by what they count, not by how they are written.
bool SameValue(const Json& a, const Json& b) {
  double x = 0;
  double y = 0;
  if (a.GetDouble(&x) && b.GetDouble(&y)) return x == y;
  return a == b;
}

}  // namespace

const Json* HfKeys::Find(std::string_view key) const {
  read_.emplace(key);
  const Json* value = object_.Find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

bool HfKeys::Mentions(std::string_view key) const {
  return object_.Find(key) != nullptr;
}

absl::Status HfKeys::Error(std::string_view key, std::string_view why) const {
  return absl::InvalidArgumentError(
      absl::StrCat(file_, ": key ", QuoteName(Name(key)), " ", std::string(why)));
}

absl::Status HfKeys::Int(std::string_view key, int64_t* out) const {
  const Json* value = Find(key);
  if (value == nullptr || value->GetInt64(out)) return absl::OkStatus();
  return Error(key, "is no whole number of 64 bits");
}

absl::Status HfKeys::Float(std::string_view key, double* out) const {
  const Json* value = Find(key);
  if (value == nullptr || value->GetDouble(out)) return absl::OkStatus();
  return Error(key, "is no number");
}

absl::Status HfKeys::Bool(std::string_view key, bool* out) const {
  const Json* value = Find(key);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_bool()) return Error(key, "is neither true nor false");
  *out = value->bool_value();
  return absl::OkStatus();
}

absl::Status HfKeys::String(std::string_view key, std::string* out) const {
  const Json* value = Find(key);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_string()) return Error(key, "is no string");
  *out = value->string_value();
  return absl::OkStatus();
}

absl::Status HfKeys::Neutral(std::string_view key, const JsonArray& values) const {
  const Json* value = Find(key);
  if (value == nullptr) return absl::OkStatus();
  for (const Json& neutral : values) {
    if (SameValue(*value, neutral)) return absl::OkStatus();
  }
  const std::string text = value->Dump();
  return Error(key, absl::StrCat("is ", QuoteName(text), ", which is not supported"));
}

std::vector<std::string> HfKeys::Unread() const {
  std::vector<std::string> out;
  for (const JsonMember& member : object_.object()) {
    if (!read_.contains(member.first)) out.push_back(member.first);
  }
  return out;
}

}  // namespace millrace::model
