#include "model/packed_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/crc32c.h"
#include "base/status_macros.h"
#include "kernels/payload.h"
#include "model/gguf.h"

namespace millrace::model {
namespace {

constexpr uint64_t kPage = 4096;
constexpr char kMagic[8] = {'M', 'I', 'L', 'L', 'P', 'A', 'C', 'K'};
constexpr uint32_t kFileVersion = 1;
constexpr uint32_t kMaxSections = 1 << 16;  // as many as a checkpoint may have tensors
constexpr size_t kPiece = size_t{4} << 20;  // read and written at a time

constexpr int kPopulateRead = 22;  // MADV_POPULATE_READ, Linux 5.14
// The kernel reads a file that is mapped so into folios of 2 MiB where the file system has them,
// and they stay when the file is mapped again: decoding from 4 KiB pages took 6.5 % more CPU time.
void AskForHugePages(void* data, size_t bytes) {
  ::madvise(data, bytes, MADV_HUGEPAGE);
}

struct DiskHeader {
  char magic[8];
  uint32_t file_version;
  uint32_t layout_version;
  uint8_t key[32];
  uint64_t content_hash;
  uint64_t file_bytes;
  uint32_t sections;
  uint32_t table_crc;
  uint8_t unused[20];
  uint32_t header_crc;  // of all before
};
static_assert(sizeof(DiskHeader) == kPackedHeaderBytes);

struct DiskSection {
  char name[48];  // zeros after it, at least one
  uint32_t crc;
  uint16_t type;
  uint16_t kind;
  int64_t rows;
  int64_t cols;
  uint64_t offset;
  uint64_t bytes;
  uint8_t unused[8];
};
static_assert(sizeof(DiskSection) == 96);

uint64_t RoundUp(uint64_t bytes) {
  return (bytes + kPage - 1) / kPage * kPage;
}

std::span<const std::byte> BytesOf(const void* data, size_t bytes) {
  return {static_cast<const std::byte*>(data), bytes};
}

uint32_t HeaderCrc(const DiskHeader& header) {
  return Crc32c(BytesOf(&header, offsetof(DiskHeader, header_crc)));
}

absl::Status Errno(std::string_view what) {
  return absl::DataLossError(absl::StrCat(std::string(what), ": ", std::strerror(errno)));
}

absl::Status ReadAt(int fd, std::span<std::byte> out, uint64_t offset) {
  while (!out.empty()) {
    const ssize_t n = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Errno("cannot read");
    if (n == 0) return absl::DataLossError("the file is shorter than it says");
    out = out.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

// One section of the table, which must begin at or after `end`.
absl::Status ReadSection(const DiskSection& disk, uint64_t file_bytes, uint64_t* end,
                         PackedTable* table) {
  if (std::memchr(disk.name, 0, sizeof(disk.name)) == nullptr || disk.name[0] == 0) {
    return absl::DataLossError("a section has no name");
  }
  PackedSection section;
  section.type = static_cast<kernels::WeightType>(disk.type);
  section.kind = disk.kind;
  section.rows = disk.rows;
  section.cols = disk.cols;
  section.offset = disk.offset;
  section.bytes = disk.bytes;
  section.crc = disk.crc;
  if (disk.offset % kPage != 0 || disk.offset < *end || disk.bytes == 0 ||
      disk.bytes > file_bytes || disk.offset > file_bytes - disk.bytes) {
    return absl::DataLossError(absl::StrCat("section ", QuoteName(disk.name), " lies at ",
                                            disk.offset, " with ", disk.bytes, " bytes of ",
                                            file_bytes));
  }
  *end = disk.offset + disk.bytes;
  if (!table->sections.emplace(disk.name, section).second) {
    return absl::DataLossError(absl::StrCat("section ", QuoteName(disk.name), " is there twice"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<size_t> PackedFrontBytes(std::span<const std::byte> header, uint64_t file_bytes,
                                        const PackedKey& key) {
  DiskHeader disk;
  if (header.size() < sizeof(disk)) return absl::DataLossError("the file has no header");
  std::memcpy(&disk, header.data(), sizeof(disk));
  if (std::memcmp(disk.magic, kMagic, sizeof(kMagic)) != 0) {
    return absl::DataLossError("the file does not begin as packed weights do");
  }
  if (HeaderCrc(disk) != disk.header_crc) return absl::DataLossError("the header is damaged");
  if (disk.file_version != kFileVersion || disk.layout_version != kernels::kPackedLayoutVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the file is of version ", disk.file_version, ".", disk.layout_version,
                     "; this program's is ", kFileVersion, ".", kernels::kPackedLayoutVersion));
  }
  if (std::memcmp(disk.key, key.digest.data(), sizeof(disk.key)) != 0) {
    return absl::FailedPreconditionError("the file is of another model");
  }
  if (disk.file_bytes != file_bytes) {
    return absl::DataLossError(
        absl::StrCat("the file has ", file_bytes, " bytes and says ", disk.file_bytes));
  }
  const size_t front = sizeof(disk) + disk.sections * sizeof(DiskSection);
  if (disk.sections > kMaxSections || front > file_bytes) {
    return absl::DataLossError(
        absl::StrCat("the file says that it has ", disk.sections, " sections"));
  }
  return front;
}

absl::StatusOr<PackedTable> ParsePackedFront(std::span<const std::byte> front, uint64_t file_bytes,
                                             const PackedKey& key) {
  ASSIGN_OR_RETURN(const size_t bytes, PackedFrontBytes(front, file_bytes, key));
  if (front.size() < bytes) return absl::DataLossError("the table is cut short");
  DiskHeader header;
  std::memcpy(&header, front.data(), sizeof(header));
  const std::span<const std::byte> records = front.subspan(sizeof(header), bytes - sizeof(header));
  if (Crc32c(records) != header.table_crc) return absl::DataLossError("the table is damaged");
  PackedTable table;
  table.content_hash = header.content_hash;
  uint64_t end = bytes;
  for (size_t at = 0; at < records.size(); at += sizeof(DiskSection)) {
    DiskSection section;
    std::memcpy(&section, records.data() + at, sizeof(section));
    RETURN_IF_ERROR(ReadSection(section, file_bytes, &end, &table));
  }
  return table;
}

absl::StatusOr<std::unique_ptr<PackedFile>> PackedFile::Open(int fd, const PackedKey& key,
                                                             const std::string& shown) {
  std::unique_ptr<PackedFile> file(new PackedFile(fd, shown));
  struct stat info {};
  if (::fstat(fd, &info) != 0) return Errno(shown);
  const auto bytes = static_cast<uint64_t>(info.st_size);
  const auto named = [&shown](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(shown, ": ", std::string(status.message())));
  };
  // Read, not mapped: what is checked cannot change afterwards.
  std::vector<std::byte> front(std::min<uint64_t>(bytes, kPackedHeaderBytes));
  if (absl::Status status = ReadAt(fd, front, 0); !status.ok()) return named(status);
  const auto size = PackedFrontBytes(front, bytes, key);
  if (!size.ok()) return named(size.status());
  front.resize(*size);
  if (absl::Status status = ReadAt(fd, front, 0); !status.ok()) return named(status);
  auto table = ParsePackedFront(front, bytes, key);
  if (!table.ok()) return named(table.status());
  file->table_ = *std::move(table);
  void* data = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return named(Errno("cannot map"));
  file->data_ = static_cast<const std::byte*>(data);
  file->size_ = bytes;
  return file;
}

PackedFile::~PackedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  ::close(fd_);
}

std::span<const std::byte> PackedFile::Find(std::string_view name,
                                            const kernels::PackedMatrix& described) const {
  const auto it = table_.sections.find(name);
  if (it == table_.sections.end()) return {};
  const PackedSection& s = it->second;
  if (s.type != described.type() || s.rows != described.rows() || s.cols != described.cols() ||
      s.kind != static_cast<uint32_t>(described.payload().kind) || s.bytes != described.bytes()) {
    return {};
  }
  return {data_ + s.offset, static_cast<size_t>(s.bytes)};
}

bool PackedFile::Populate(ThreadPool& pool) const {
  AskForHugePages(const_cast<std::byte*>(data_), size_);
  constexpr size_t kPart = size_t{16} << 20;  // pages are read by several threads
  pool.ParallelFor((size_ + kPart - 1) / kPart, 1, [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i) {
      // Advice only: an older kernel reads the pages when they are touched.
      ::madvise(const_cast<std::byte*>(data_) + i * kPart, std::min(kPart, size_ - i * kPart),
                kPopulateRead);
    }
  });
  return ::mlock(data_, size_) == 0;
}

absl::Status PackedFile::Verify(ThreadPool& pool) const {
  std::vector<std::pair<std::string_view, const PackedSection*>> all;
  for (const auto& item : table_.sections) all.emplace_back(item.first, &item.second);
  std::atomic<size_t> damaged = all.size();
  pool.ParallelFor(all.size(), 1, [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i) {
      const PackedSection& s = *all[i].second;
      if (Crc32c({data_ + s.offset, static_cast<size_t>(s.bytes)}) == s.crc) continue;
      size_t first = damaged;
      while (i < first && !damaged.compare_exchange_weak(first, i)) {
      }
    }
  });
  if (damaged == all.size()) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(shown_, ": section '", std::string(all[damaged].first), "' is damaged"));
}

PackedFileWriter::PackedFileWriter(int fd, const PackedKey& key, uint64_t content_hash,
                                   size_t sections_max)
    : fd_(fd), key_(key), sections_max_(sections_max) {
  end_ = RoundUp(sizeof(DiskHeader) + sections_max * sizeof(DiskSection));
  table_.content_hash = content_hash;
}

uint64_t PackedFileWriter::FileBytes(const ModelDescription& description) {
  uint64_t bytes = RoundUp(sizeof(DiskHeader) + description.tensors.size() * sizeof(DiskSection));
  for (const auto& item : description.tensors) {
    if (item.second.matrix.rows == 1) continue;
    bytes += RoundUp(DescribePacked(description, item.first).bytes());
  }
  return bytes;
}

absl::Status PackedFileWriter::WriteAt(std::span<const std::byte> bytes, uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t n =
        ::pwrite(fd_, bytes.data(), std::min(bytes.size(), kPiece), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Errno("cannot write");
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

absl::Status PackedFileWriter::Add(std::string_view name, const kernels::PackedMatrix& matrix) {
  if (name.empty() || name.size() >= sizeof(DiskSection::name) ||
      table_.sections.size() >= sections_max_ || sections_max_ > kMaxSections) {
    return absl::FailedPreconditionError(absl::StrCat("no room for ", QuoteName(name)));
  }
  PackedSection section;
  section.type = matrix.type();
  section.kind = static_cast<uint32_t>(matrix.payload().kind);
  section.rows = matrix.rows();
  section.cols = matrix.cols();
  section.offset = end_;
  section.bytes = matrix.bytes();
  section.crc = Crc32c(matrix.strips());
  RETURN_IF_ERROR(WriteAt(matrix.strips(), section.offset));
  end_ = RoundUp(end_ + section.bytes);
  ::sync_file_range(fd_, static_cast<off_t>(section.offset), static_cast<off_t>(section.bytes),
                    SYNC_FILE_RANGE_WRITE);
  table_.sections.emplace(name, section);
  return absl::OkStatus();
}

// A mapping brings the pages in as the next start wants them, a window at a time, for they count as
// memory of ours. It is not looked at: unlike a look, its advice cannot end in SIGBUS. What was
// read is then copied out.
absl::Status PackedFileWriter::ReadBack(const std::atomic<bool>& stop) {
  constexpr uint64_t kWindow = uint64_t{16} << 20;
  for (uint64_t at = 0; at < end_ && !stop; at += kWindow) {
    const uint64_t bytes = std::min(kWindow, end_ - at);
    void* const data = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd_, static_cast<off_t>(at));
    if (data == MAP_FAILED) break;
    AskForHugePages(data, bytes);
    ::madvise(data, bytes, kPopulateRead);
    ::munmap(data, bytes);
  }
  std::vector<std::byte> piece(kPiece);
  for (const auto& [name, section] : table_.sections) {
    uint32_t crc = 0;
    for (uint64_t done = 0; done < section.bytes;) {
      if (stop) return absl::CancelledError("the node ends");
      const std::span<std::byte> part =
          std::span(piece).first(std::min<uint64_t>(kPiece, section.bytes - done));
      RETURN_IF_ERROR(ReadAt(fd_, part, section.offset + done));
      crc = Crc32c(part, crc);
      done += part.size();
    }
    if (crc != section.crc) {
      return absl::DataLossError(absl::StrCat("section '", name, "' was not read as written"));
    }
  }
  return absl::OkStatus();
}

absl::Status PackedFileWriter::Finish(const std::atomic<bool>& stop) {
  constexpr uint64_t kPart = uint64_t{16} << 20;
  for (uint64_t at = 0; at < end_; at += kPart) {  // in parts, so that it can be stopped
    if (stop) return absl::CancelledError("the node ends");
    ::sync_file_range(
        fd_, static_cast<off_t>(at), static_cast<off_t>(kPart),
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
  }
  if (::ftruncate(fd_, static_cast<off_t>(end_)) != 0) return Errno("cannot cut to size");
  if (::fsync(fd_) != 0) return Errno("cannot sync");
  ::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);  // or memory would answer for the disk
  RETURN_IF_ERROR(ReadBack(stop));

  std::vector<std::byte> front(sizeof(DiskHeader) + table_.sections.size() * sizeof(DiskSection));
  std::vector<std::pair<std::string_view, const PackedSection*>> order;
  for (const auto& item : table_.sections) order.emplace_back(item.first, &item.second);
  std::sort(order.begin(), order.end(),
            [](const auto& a, const auto& b) { return a.second->offset < b.second->offset; });
  std::byte* at = front.data() + sizeof(DiskHeader);
  for (const auto& [name, section] : order) {
    DiskSection disk{};
    name.copy(disk.name, sizeof(disk.name) - 1);
    disk.crc = section->crc;
    disk.type = static_cast<uint16_t>(section->type);
    disk.kind = static_cast<uint16_t>(section->kind);
    disk.rows = section->rows;
    disk.cols = section->cols;
    disk.offset = section->offset;
    disk.bytes = section->bytes;
    std::memcpy(at, &disk, sizeof(disk));
    at += sizeof(disk);
  }
  DiskHeader header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.file_version = kFileVersion;
  header.layout_version = kernels::kPackedLayoutVersion;
  std::memcpy(header.key, key_.digest.data(), sizeof(header.key));
  header.content_hash = table_.content_hash;
  header.file_bytes = end_;
  header.sections = static_cast<uint32_t>(order.size());
  header.table_crc = Crc32c(std::span(front).subspan(sizeof(header)));
  header.header_crc = HeaderCrc(header);
  std::memcpy(front.data(), &header, sizeof(header));
  RETURN_IF_ERROR(WriteAt(front, 0));
  return ::fsync(fd_) == 0 ? absl::OkStatus() : Errno("cannot sync");
}

}  // namespace millrace::model
