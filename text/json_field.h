#pragma once
// A place in a JSON file, with its path, so that an error names file and field in one line.

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/json.h"

namespace millrace::text {

// Thread: as its Json.
class JsonField {
 public:
  // `root` and `file_name` outlive this and all fields made from it.
  JsonField(const Json& root, const std::string& file_name) : json_(&root), file_(&file_name) {}

  // A member of an object or an element of an array; absent() if there is none.
  JsonField operator[](std::string_view key) const;
  JsonField At(size_t index) const;
  // Null counts as absent, as in the reference.
  bool absent() const { return json_ == nullptr || json_->is_null(); }
  // REQUIRES: !absent().
  const Json& json() const { return *json_; }

  // InvalidArgument: "file: path: what".
  absl::Status Wrong(std::string_view what) const;
  // The value, or `otherwise` where it is absent. InvalidArgument for another type.
  absl::StatusOr<bool> Bool(bool otherwise) const;
  absl::StatusOr<std::string> String(std::string_view otherwise) const;
  absl::StatusOr<int64_t> Int(int64_t low, int64_t high) const;  // must be there
  absl::StatusOr<double> Double(double low, double high) const;  // must be there
  absl::Status IsObject() const;
  absl::Status IsArray() const;
  // InvalidArgument that names a member which is not among `known`.
  absl::Status HasOnly(std::initializer_list<std::string_view> known) const;

 private:
  const Json* json_;
  const std::string* file_;
  std::string path_;
};

// For a message: at most 64 bytes, printable.
std::string Quoted(std::string_view text);

}  // namespace millrace::text
