#pragma once
// A directory of packed weights (packed_file.h), shared by every process of one user.
//
//   <64 hex digits of the key>.packed   whole; mtime: last used; shared lock: someone has it mapped
//   <the same>.tmp                      being written under an exclusive lock, or left by a crash
//
// What lies there becomes the weights of a model, so it must be ours: the directory belongs to this
// user and has no rights for others, and a file in it is regular, ours and not writable by others,
// or it is not used. A file that is not used is one line in the log and packing as ever: no state
// of this directory can keep a model from being served.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/packed_file.h"

namespace millrace::model {

struct PackedCacheOptions {
  std::string dir;         // made with mode 0700 where it is missing, with what leads to it
  uint64_t bytes_max = 0;  // of all files; the longest unused go first, never one that is in use
};

// A file that is being written, for one model. Removed unless it was published.
// Thread: one caller at a time.
class PackedCacheEntry {
 public:
  ~PackedCacheEntry();
  PackedCacheEntry(const PackedCacheEntry&) = delete;
  PackedCacheEntry& operator=(const PackedCacheEntry&) = delete;

  // Appends a matrix. After an error, which Publish returns, this does nothing.
  void Add(std::string_view name, const kernels::PackedMatrix& matrix);
  // Makes the file durable, reads it back and gives it its name. Takes as long as the disk does;
  // returns Cancelled soon after `stop` is set.
  absl::Status Publish(const std::atomic<bool>& stop);

 private:
  friend class PackedCache;
  PackedCacheEntry(int dir, int fd, std::string name);

  int dir_;
  int fd_;
  std::string name_;  // of the whole file
  std::unique_ptr<PackedFileWriter> writer_;
  absl::Status written_;
  bool published_ = false;
};

// Thread: one caller at a time; any number of processes.
class PackedCache {
 public:
  // FailedPrecondition when the directory cannot be trusted or made.
  static absl::StatusOr<std::unique_ptr<PackedCache>> Open(const PackedCacheOptions& options);
  ~PackedCache();
  PackedCache(const PackedCache&) = delete;
  PackedCache& operator=(const PackedCache&) = delete;

  // NotFound: there is none. Another error says in one line why what is there is not used.
  absl::StatusOr<std::unique_ptr<PackedFile>> Find(const ModelFile& file, const PackedKey& key);
  // Makes room and begins a file. Aborted: another process is writing it; ResourceExhausted: it
  // would exceed bytes_max, or leave less than a twentieth of the file system.
  absl::StatusOr<std::unique_ptr<PackedCacheEntry>> Begin(const ModelFile& file,
                                                          const PackedKey& key,
                                                          uint64_t content_hash);
  // Removes the file of this key unless someone has it mapped: it was found to be damaged.
  void Remove(const PackedKey& key);

 private:
  PackedCache(int dir, const PackedCacheOptions& options) : dir_(dir), options_(options) {}
  absl::Status MakeRoom(uint64_t bytes, const std::string& name);

  int dir_;
  PackedCacheOptions options_;
};

}  // namespace millrace::model
