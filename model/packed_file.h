#pragma once
// A model's packed weights as a file: what kernels::PackedMatrix::Pack made, mapped at the next
// start instead of being made again. Little-endian; every part begins at a multiple of 4,096.
//
//   | header 96 B | table: 96 B a section | ... | strips of "embedding" | strips of "layers.0.q" |
//   ..
//
// The header has a CRC-32C of itself and of the table, the table one of each section. The header is
// written last, after all else is on the disk and has been read back: a file that has one is whole.
// Nothing in a section is an index or a length, so what a disk changes there changes answers, never
// memory; `Verify` finds it. Who may write such a file at all is packed_cache.h's business.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/thread_pool.h"
#include "kernels/weights.h"
#include "model/load_model.h"

namespace millrace::model {

// SHA-256 of all that decides what the strips are: of each source file its size, mtime, inode, the
// bytes before the first tensor and 64 blocks spread over it; where each tensor lies and how it is
// read; which version of the layout this program packs.
struct PackedKey {
  std::array<uint8_t, 32> digest{};
  std::string Hex() const;
};
// Reads some 64 pages of each file and lets them go.
PackedKey PackedKeyOf(const ModelFile& file);

struct PackedSection {
  kernels::WeightType type = kernels::WeightType::kF32;  // packed: Q8_0 for an int8 head
  uint32_t kind = 0;                                     // kernels::PayloadKind
  int64_t rows = 0;
  int64_t cols = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint32_t crc = 0;
};

// What a file says of itself. Neutral tensor name -> section.
struct PackedTable {
  uint64_t content_hash = 0;  // ModelFile::ContentHash
  std::map<std::string, PackedSection, std::less<>> sections;
};
constexpr size_t kPackedHeaderBytes = 96;
// Bytes of header and table together, from the header alone.
// DataLoss: not whole; FailedPrecondition: of another model or another version of this program.
absl::StatusOr<size_t> PackedFrontBytes(std::span<const std::byte> header, uint64_t file_bytes,
                                        const PackedKey& key);
// `front`: as many bytes as PackedFrontBytes said. Every section lies inside the file, beside the
// others.
absl::StatusOr<PackedTable> ParsePackedFront(std::span<const std::byte> front, uint64_t file_bytes,
                                             const PackedKey& key);

// Thread: immutable.
class PackedFile : public StoredWeights {
 public:
  // Takes `fd` in every case and keeps it open: its lock says that the file is in use. `shown`
  // names it in messages. Errors as PackedFrontBytes.
  static absl::StatusOr<std::unique_ptr<PackedFile>> Open(int fd, const PackedKey& key,
                                                          const std::string& shown);
  ~PackedFile() override;
  PackedFile(const PackedFile&) = delete;
  PackedFile& operator=(const PackedFile&) = delete;

  // Empty unless there is a section of this name, shape and layout.
  std::span<const std::byte> Find(std::string_view name,
                                  const kernels::PackedMatrix& described) const override;
  // Brings all pages in, on all workers, and locks them where the limit on that allows. True: they
  // are locked.
  bool Populate(ThreadPool& pool) const;
  // DataLoss names the first section that is not what was written.
  absl::Status Verify(ThreadPool& pool) const;
  uint64_t content_hash() const { return table_.content_hash; }
  uint64_t bytes() const { return size_; }

 private:
  PackedFile(int fd, std::string shown) : fd_(fd), shown_(std::move(shown)) {}
  int fd_;
  std::string shown_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  PackedTable table_;
};

// Thread: one caller at a time.
class PackedFileWriter {
 public:
  // Writes to `fd`, which it does not own. `sections_max`: room in the table.
  PackedFileWriter(int fd, const PackedKey& key, uint64_t content_hash, size_t sections_max);

  // Bytes of a file of such matrices.
  static uint64_t FileBytes(const ModelDescription& description);
  // Appends a matrix, and starts the disk on it.
  absl::Status Add(std::string_view name, const kernels::PackedMatrix& matrix);
  // Waits for the disk, reads all of it back, and then writes the header. Cancelled soon after
  // `stop` is set: the file then has no header.
  absl::Status Finish(const std::atomic<bool>& stop);

 private:
  absl::Status WriteAt(std::span<const std::byte> bytes, uint64_t offset);
  absl::Status ReadBack(const std::atomic<bool>& stop);

  int fd_;
  PackedKey key_;
  size_t sections_max_;
  uint64_t end_;
  PackedTable table_;
};

}  // namespace millrace::model
