#include "model/hf_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/gguf.h"

namespace millrace::model {
namespace {

constexpr size_t kMaxFileName = 255;     // what a directory entry holds
constexpr size_t kMaxEntries = 1 << 20;  // of a directory

// The path of what is open, as the kernel knows it; empty when it does not say.
std::string OpenedPath(int fd) {
  char path[PATH_MAX];
  const std::string link = absl::StrCat("/proc/self/fd/", fd);
  const ssize_t size = ::readlink(link.c_str(), path, sizeof(path));
  // "/" at the front: not a pipe or socket. The kernel marks a file that was removed meanwhile.
  if (size <= 0 || size == PATH_MAX || path[0] != '/') return {};
  return std::string(path, static_cast<size_t>(size));
}

bool IsInside(const std::string& path, const std::string& folder) {
  return !folder.empty() && path.size() > folder.size() + 1 && path.rfind(folder, 0) == 0 &&
         path[folder.size()] == '/';
}

}  // namespace

bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxFileName && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

absl::StatusOr<std::unique_ptr<HfDirectory>> HfDirectory::Open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) {
    const std::string why = absl::StrCat(path, ": cannot open: ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(why) : absl::InvalidArgumentError(why);
  }
  std::unique_ptr<HfDirectory> out(new HfDirectory(fd, path));
  out->real_ = OpenedPath(fd);
  const std::filesystem::path real(out->real_);
  if (real.parent_path().filename() == "snapshots") {
    out->blobs_ = (real.parent_path().parent_path() / "blobs").string();
  }
  return out;
}

HfDirectory::~HfDirectory() {
  ::close(fd_);
}

std::string HfDirectory::Shown(std::string_view name) const {
  return (std::filesystem::path(path_) / std::string(name)).string();
}

bool HfDirectory::Has(const std::string& name) const {
  struct stat info {};
  return IsPlainFileName(name) && ::fstatat(fd_, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0;
}

absl::StatusOr<std::vector<std::string>> HfDirectory::List(std::string_view suffix) const {
  // A descriptor of its own: reading moves the position, and closing closes.
  const int fd = ::openat(fd_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* listing = fd < 0 ? nullptr : ::fdopendir(fd);
  if (listing == nullptr) {
    if (fd >= 0) ::close(fd);
    return absl::InvalidArgumentError(absl::StrCat(path_, ": cannot list the directory"));
  }
  std::vector<std::string> names;
  size_t entries = 0;
  while (const dirent* entry = ::readdir(listing)) {
    if (++entries > kMaxEntries) break;
    const std::string_view name = entry->d_name;
    if (name.size() >= suffix.size() && name.substr(name.size() - suffix.size()) == suffix) {
      names.emplace_back(name);
    }
  }
  ::closedir(listing);
  std::sort(names.begin(), names.end());
  return names;
}

// Where the file that is open lies.
absl::Status HfDirectory::CheckWhere(int file, const std::string& name) const {
  struct stat info {};
  if (::fstatat(fd_, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISLNK(info.st_mode)) {
    // Not a link, so it lies here; unless it was exchanged since, which the inode tells.
    struct stat opened {};
    if (::fstat(file, &opened) == 0 && opened.st_ino == info.st_ino &&
        opened.st_dev == info.st_dev) {
      return absl::OkStatus();
    }
  }
  const std::string path = OpenedPath(file);
  if (IsInside(path, real_) || IsInside(path, blobs_)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(Shown(name),
                   ": a link that leaves the model's directory; only links inside it "
                   "and those of a Hugging Face cache to its blobs are followed"));
}

absl::StatusOr<std::unique_ptr<MappedFile>> HfDirectory::Map(const std::string& name) const {
  if (!IsPlainFileName(name)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": ", QuoteName(name), " is no plain name of a file in it"));
  }
  const std::string shown = Shown(name);
  // Non-blocking, so that a FIFO does not hang us before fstat tells.
  const int fd = ::openat(fd_, name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const std::string why = absl::StrCat(shown, ": cannot open: ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(why) : absl::InvalidArgumentError(why);
  }
  if (absl::Status inside = CheckWhere(fd, name); !inside.ok()) {
    ::close(fd);
    return inside;
  }
  return MappedFile::FromDescriptor(fd, shown);
}

absl::StatusOr<Json> HfDirectory::ReadJson(const std::string& name,
                                           const JsonLimits& limits) const {
  ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, Map(name));
  const std::span<const std::byte> bytes = file->bytes();
  absl::StatusOr<Json> json =
      Json::Parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, limits);
  if (!json.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(Shown(name), ": ", std::string(json.status().message())));
  }
  if (!json->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(Shown(name), ": not a JSON object"));
  }
  return json;
}

}  // namespace millrace::model
