#pragma once
// Reads the members of a JSON object one by one, by name and type, and remembers the first thing
// that was wrong.

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "server/api_error.h"

namespace millrace::server {

// Thread: one owner.
class JsonFields {
 public:
  // REQUIRES: `object` is an object and outlives this.
  explicit JsonFields(const Json& object) : object_(object) {}

  // The member, or nullptr when it is absent or null. Marks the name as known.
  const Json* Get(std::string_view name);
  // Each leaves `out` alone when the member is absent or null, and fails on another type.
  void Read(std::string_view name, bool& out);
  void Read(std::string_view name, std::optional<bool>& out);
  void Read(std::string_view name, std::optional<int64_t>& out);
  void Read(std::string_view name, std::optional<double>& out);
  void Read(std::string_view name, std::optional<std::string>& out);
  void Read(std::string_view name, std::vector<int64_t>& out);
  void Fail(std::string_view name, std::string_view wanted);
  void Fail(ApiError error);

  // After all reads: refuses what is known and not implemented, counts what is unknown.
  // `ignored` are names that are known and change nothing.
  int32_t Finish(const std::set<std::string_view>& ignored);
  const std::optional<ApiError>& error() const { return error_; }

 private:
  const Json& object_;
  std::set<std::string_view> known_;
  std::optional<ApiError> error_;
};

}  // namespace millrace::server
