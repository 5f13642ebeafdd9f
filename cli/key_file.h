#pragma once
// The file of API keys while the node runs: read again when it changes, or when told to. A file
// that cannot be used leaves the keys as they are, and is said once.

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "server/auth.h"

namespace millrace::cli {

// Thread: the owner's; `keys` may be used by any meanwhile.
class KeyFile {
 public:
  // `path` may be "": then there is nothing to read, ever. `keys` outlives it.
  KeyFile(std::string path, server::ApiKeys& keys);

  bool given() const { return !path_.empty(); }
  // The first time. An error is the caller's to tell.
  absl::Status Load();
  // Reads the file when it is another one than was read last, or its content is (by time and size:
  // a secret that Kubernetes mounts is a link that changes).
  void Poll();
  // Reads the file; says how it went in one line.
  void Reload();

 private:
  // Device, inode, size, change time; all zero when there is no such file.
  using Identity = std::array<int64_t, 5>;
  Identity Look() const;

  const std::string path_;
  server::ApiKeys& keys_;
  Identity read_{};
};

}  // namespace millrace::cli
