#pragma once
// A whole regular file, mapped read-only.
//
// A file that is truncated while it is mapped cannot be read any more: the kernel sends SIGBUS, the
// process ends. That is meant: weights that change under a running server are no state to go on
// from (docs/model_files.md). Close the mapping once loading is done and it cannot happen.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace millrace::model {

// What tells a file from another, or from itself after a change.
struct FileIdentity {
  uint64_t inode = 0;
  int64_t mtime_ns = 0;
  uint64_t bytes = 0;
};

// Thread: immutable, but for Drop (one caller at a time).
class MappedFile {
 public:
  // One line that names the path when it is absent, unreadable, empty or not a regular file.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  // As Open, of a descriptor that was opened without blocking; `shown` names it in messages. Closes
  // `fd` in every case.
  static absl::StatusOr<std::unique_ptr<MappedFile>> FromDescriptor(int fd,
                                                                    const std::string& shown);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  // When it was opened.
  const FileIdentity& identity() const { return identity_; }
  bool Contains(const void* at) const { return at >= data_ && at < data_ + size_; }
  // Lets go of the pages that lie wholly inside `part`: they were copied and count twice otherwise.
  // They are read again from the file when touched. REQUIRES: `part` lies in this file.
  void Drop(std::span<const std::byte> part) const;

 private:
  MappedFile(const std::byte* data, const FileIdentity& identity)
      : data_(data), size_(static_cast<size_t>(identity.bytes)), identity_(identity) {}
  const std::byte* data_;
  size_t size_;
  FileIdentity identity_;
};

}  // namespace millrace::model
