#pragma once
// API keys: a file with one key per line, `name:key` or `key`. Only SHA-256 digests are kept, and
// they are compared in constant time. Keys never reach a log; their names do.

#include <array>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace millrace::server {

// What a route or a gRPC method asks of its caller.
enum class AuthClass : uint8_t {
  kPublic,  // health and metrics
  kKey,     // any valid key, when keys are configured
};

// Thread: any.
class ApiKeys {
 public:
  // No keys: everyone may enter (the binds are loopback only then; see CheckBindAllowed).
  ApiKeys() = default;

  // Replaces the set; the old one stays when the text is bad. InvalidArgument names the line of a
  // bad file (never its text): no key at all, a key shorter than 8 or longer than 512 characters, a
  // name given twice. `#` begins a comment line.
  absl::Status Load(std::string_view file_text);
  absl::Status LoadFile(const std::string& path);

  bool required() const;
  // The name of the key in "Bearer <key>" (scheme in any case), or nullopt. With no keys
  // configured, "" for everyone.
  std::optional<std::string> Authenticate(std::string_view authorization) const;

 private:
  struct Key {
    std::string name;
    std::array<uint8_t, 32> digest{};
  };
  static absl::StatusOr<std::vector<Key>> Parse(std::string_view file_text);

  mutable std::mutex mutex_;
  std::vector<Key> keys_;
};

// FailedPrecondition when `host` is not loopback and there are no keys.
absl::Status CheckBindAllowed(std::string_view host, bool keys_required);

}  // namespace millrace::server
