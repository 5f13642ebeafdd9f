#include "model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace millrace::model {

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  // Non-blocking, so that a FIFO given by mistake does not hang us before fstat tells.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const std::string why = absl::StrCat(path, ": cannot open: ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(why) : absl::InvalidArgumentError(why);
  }
  return FromDescriptor(fd, path);
}

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::FromDescriptor(int fd,
                                                                       const std::string& shown) {
  struct stat info {};
  std::string error;
  if (::fstat(fd, &info) != 0) {
    error = std::strerror(errno);
  } else if (!S_ISREG(info.st_mode)) {
    error = "not a regular file";
  } else if (info.st_size <= 0) {
    error = "the file is empty";
  }
  void* data = MAP_FAILED;
  if (error.empty()) {
    data = ::mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) error = absl::StrCat("cannot map: ", std::strerror(errno));
  }
  ::close(fd);  // the mapping keeps the file
  if (!error.empty()) return absl::InvalidArgumentError(absl::StrCat(shown, ": ", error));
  const FileIdentity identity = {info.st_ino,
                                 info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec,
                                 static_cast<uint64_t>(info.st_size)};
  return std::unique_ptr<MappedFile>(new MappedFile(static_cast<const std::byte*>(data), identity));
}

MappedFile::~MappedFile() {
  ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::Drop(std::span<const std::byte> part) const {
  const uintptr_t page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(part.data()) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(part.data()) + part.size()) / page * page;
  // Advice only: a kernel that does not take it costs memory, not answers.
  if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace millrace::model
