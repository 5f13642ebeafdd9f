#include "text/json_field.h"

#include <algorithm>

#include "absl/status/status.h"
#include "base/status_macros.h"

namespace millrace::text {

namespace {

// A message is one line, whatever a file has for names.
std::string Printable(std::string_view text) {
  std::string out(text.substr(0, 64));
  for (char& c : out) {
    // Bytes above 0x7F pass: names in files are UTF-8. A cut in a character is replaced on output.
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return text.size() > 64 ? out + "..." : out;
}

}  // namespace

std::string Quoted(std::string_view text) {
  return "'" + Printable(text) + "'";
}

JsonField JsonField::operator[](std::string_view key) const {
  JsonField field = *this;
  field.json_ = json_ == nullptr ? nullptr : json_->Find(key);
  field.path_ += (path_.empty() ? "" : ".") + Printable(key);
  return field;
}

JsonField JsonField::At(size_t index) const {
  JsonField field = *this;
  const bool inside = json_ != nullptr && json_->is_array() && index < json_->array().size();
  field.json_ = inside ? &json_->array()[index] : nullptr;
  field.path_ += "[" + std::to_string(index) + "]";
  return field;
}

absl::Status JsonField::Wrong(std::string_view what) const {
  std::string message = *file_ + ": ";
  if (!path_.empty()) message += path_ + ": ";
  message.append(what);
  return absl::InvalidArgumentError(message);
}

absl::StatusOr<bool> JsonField::Bool(bool otherwise) const {
  if (absent()) return otherwise;
  if (!json_->is_bool()) return Wrong("is not true or false");
  return json_->bool_value();
}

absl::StatusOr<std::string> JsonField::String(std::string_view otherwise) const {
  if (absent()) return std::string(otherwise);
  if (!json_->is_string()) return Wrong("is not a string");
  return json_->string_value();
}

absl::StatusOr<int64_t> JsonField::Int(int64_t low, int64_t high) const {
  int64_t value = 0;
  if (absent()) return Wrong("is missing");
  if (!json_->GetInt64(&value)) return Wrong("is not an integer");
  if (value < low || value > high) {
    return Wrong(std::to_string(value) + " is not between " + std::to_string(low) + " and " +
                 std::to_string(high));
  }
  return value;
}

absl::StatusOr<double> JsonField::Double(double low, double high) const {
  double value = 0;
  if (absent()) return Wrong("is missing");
  if (!json_->GetDouble(&value)) return Wrong("is not a number");
  if (!(value >= low && value <= high)) return Wrong("is outside its range");
  return value;
}

absl::Status JsonField::IsObject() const {
  if (absent()) return Wrong("is missing");
  return json_->is_object() ? absl::OkStatus() : Wrong("is not an object");
}

absl::Status JsonField::IsArray() const {
  if (absent()) return Wrong("is missing");
  return json_->is_array() ? absl::OkStatus() : Wrong("is not an array");
}

absl::Status JsonField::HasOnly(std::initializer_list<std::string_view> known) const {
  RETURN_IF_ERROR(IsObject());
  for (const JsonMember& member : json_->object()) {
    if (std::find(known.begin(), known.end(), member.first) == known.end()) {
      return (*this)[member.first].Wrong("is not supported");
    }
  }
  return absl::OkStatus();
}

}  // namespace millrace::text
