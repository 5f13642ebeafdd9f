#include "cli/key_file.h"

#include <sys/stat.h>

#include <string_view>
#include <utility>

#include "base/log.h"

namespace millrace::cli {

KeyFile::KeyFile(std::string path, server::ApiKeys& keys) : path_(std::move(path)), keys_(keys) {}

KeyFile::Identity KeyFile::Look() const {
  struct stat file {};
  if (stat(path_.c_str(), &file) != 0) return {};
  return {static_cast<int64_t>(file.st_dev), static_cast<int64_t>(file.st_ino),
          static_cast<int64_t>(file.st_size), file.st_ctim.tv_sec, file.st_ctim.tv_nsec};
}

absl::Status KeyFile::Load() {
  if (!given()) return absl::OkStatus();
  // Before the file is read: a change in between is seen by the next poll.
  read_ = Look();
  return keys_.LoadFile(path_);
}

void KeyFile::Poll() {
  if (given() && Look() != read_) Reload();
}

void KeyFile::Reload() {
  if (const absl::Status status = Load(); !status.ok()) {
    const std::string reason(status.message());
    Log(LogLevel::kError, "API keys not reloaded: the old ones stay",
        {{"reason", std::string_view(reason)}});
  } else if (given()) {
    Log(LogLevel::kInfo, "API keys reloaded");
  }
}

}  // namespace millrace::cli
