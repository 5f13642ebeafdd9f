#pragma once
// Typed access to the members of one JSON object of a checkpoint's configuration. Errors are one
// line that names the file and the key.

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/json.h"

namespace millrace::model {

// Remembers which keys were asked for, so that the rest can be listed. Does not own.
// Thread: one caller.
class HfKeys {
 public:
  // `prefix` stands before keys in messages ("quantization_config."). Both outlive this.
  HfKeys(const Json& object, std::string file, std::string prefix = {})
      : object_(object), file_(std::move(file)), prefix_(std::move(prefix)) {}

  // The value; null when the key is absent or JSON null.
  const Json* Find(std::string_view key) const;
  bool Has(std::string_view key) const { return Find(key) != nullptr; }
  // True when the key is there, be it with null.
  bool Mentions(std::string_view key) const;

  // Each leaves *out as it is when the key is absent or null, and fails on another type.
  absl::Status Int(std::string_view key, int64_t* out) const;
  absl::Status Float(std::string_view key, double* out) const;
  absl::Status Bool(std::string_view key, bool* out) const;
  absl::Status String(std::string_view key, std::string* out) const;
  // InvalidArgument unless the key is absent, null, or of one of these values: what would change
  // the answers and is not computed here. Values are compared as JSON ("1.0" is "1").
  absl::Status Neutral(std::string_view key, const JsonArray& values) const;

  absl::Status Error(std::string_view key, std::string_view why) const;
  const std::string& file() const { return file_; }
  std::string Name(std::string_view key) const { return absl::StrCat(prefix_, std::string(key)); }
  // Keys that nobody asked for, in the document's order.
  std::vector<std::string> Unread() const;

 private:
  const Json& object_;
  std::string file_;
  std::string prefix_;
  mutable std::set<std::string, std::less<>> read_;
};

}  // namespace millrace::model
