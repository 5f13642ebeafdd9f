#include "model/packed_cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/gguf.h"
#include "model/memory_plan.h"

namespace millrace::model {
namespace {

constexpr size_t kHexDigits = 64;
constexpr char kWhole[] = ".packed";
constexpr char kUnfinished[] = ".tmp";

absl::Status Untrusted(std::string_view path, std::string_view why) {
  return absl::FailedPreconditionError(absl::StrCat(std::string(path), ": ", std::string(why)));
}

absl::Status FromErrno(std::string_view path, std::string_view what) {
  return Untrusted(path, absl::StrCat(std::string(what), ": ", std::strerror(errno)));
}

// A key's name with `suffix`: nothing else in the directory is ours to touch.
bool IsName(std::string_view name, std::string_view suffix) {
  return name.size() == kHexDigits + suffix.size() && name.substr(kHexDigits) == suffix &&
         name.find_first_not_of("0123456789abcdef") == kHexDigits;
}

// Closes at the end of a scope. Thread: one caller.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int Take() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// Ours alone, by owner and mode; said in one line if not. `allowed`: bits of the mode that others
// may have.
absl::Status CheckOurs(const struct stat& info, mode_t allowed, std::string_view shown) {
  if (info.st_uid != ::geteuid()) {
    return Untrusted(shown, absl::StrCat("belongs to user ", info.st_uid));
  }
  if ((info.st_mode & 077 & ~allowed) != 0) {
    return Untrusted(shown, "others have rights to it; take them away (chmod go-rwx)");
  }
  return absl::OkStatus();
}

// Makes every missing directory of an absolute or relative path, each for us alone.
absl::Status MakeDirectories(const std::string& path) {
  std::filesystem::path so_far;
  for (const std::filesystem::path& part : std::filesystem::path(path)) {
    so_far /= part;
    if (::mkdir(so_far.c_str(), 0700) == 0 || errno == EEXIST) continue;
    // Another error, as EROFS or EACCES of a directory that is there, is not one.
    struct stat info {};
    if (const int error = errno; ::stat(so_far.c_str(), &info) != 0) {
      errno = error;
      return FromErrno(so_far.string(), "cannot make the directory");
    }
  }
  return absl::OkStatus();
}

// A file or directory entry, for eviction.
struct Item {
  std::string name;
  uint64_t bytes = 0;
  timespec used{};
};

// All that count against the limit but for `except`.
std::vector<Item> ListItems(int dir, const std::string& except) {
  std::vector<Item> items;
  const int copy = ::openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* const stream = copy >= 0 ? ::fdopendir(copy) : nullptr;
  if (stream == nullptr) {
    if (copy >= 0) ::close(copy);
    return items;
  }
  while (const dirent* entry = ::readdir(stream)) {
    const std::string name = entry->d_name;
    struct stat info {};
    if (name == except || !(IsName(name, kWhole) || IsName(name, kUnfinished))) continue;
    if (::fstatat(dir, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
    items.push_back({name, static_cast<uint64_t>(info.st_blocks) * 512, info.st_mtim});
  }
  ::closedir(stream);
  return items;
}

// Removes an entry unless someone has it locked. One that is no regular file has no users.
bool RemoveUnused(int dir, const std::string& name) {
  const Descriptor fd(::openat(dir, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() >= 0 && ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return false;
  if (fd.get() < 0 && errno == ENOENT) return true;
  return ::unlinkat(dir, name.c_str(), 0) == 0;
}

// The unfinished file of this name under our exclusive lock, empty; -1 with errno, where
// EWOULDBLOCK means that a living process has it.
int OpenUnfinished(int dir, const std::string& name) {
  for (int attempt = 0; attempt < 8; ++attempt) {
    Descriptor fd(
        ::openat(dir, name.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600));
    if (fd.get() < 0) {
      // A link or a directory has no business here.
      if (errno != ELOOP && errno != EISDIR) return -1;
      if (::unlinkat(dir, name.c_str(), 0) != 0) return -1;
      continue;
    }
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return -1;
    // Between the two calls its writer may have published or removed it.
    struct stat ours {
    }, named{};
    if (::fstat(fd.get(), &ours) != 0) return -1;
    if (::fstatat(dir, name.c_str(), &named, AT_SYMLINK_NOFOLLOW) != 0 ||
        named.st_ino != ours.st_ino) {
      continue;
    }
    if (!S_ISREG(ours.st_mode) || ours.st_nlink != 1 || ours.st_uid != ::geteuid()) {
      if (::unlinkat(dir, name.c_str(), 0) != 0) return -1;
      continue;
    }
    if (::ftruncate(fd.get(), 0) != 0 || ::fchmod(fd.get(), 0600) != 0) return -1;
    return fd.Take();
  }
  errno = EWOULDBLOCK;
  return -1;
}

}  // namespace

PackedCacheEntry::PackedCacheEntry(int dir, int fd, std::string name)
    : dir_(dir), fd_(fd), name_(std::move(name)) {}

PackedCacheEntry::~PackedCacheEntry() {
  // The lock is still ours: nobody else's file has this name.
  if (!published_) ::unlinkat(dir_, absl::StrCat(name_, kUnfinished).c_str(), 0);
  ::close(fd_);
  ::close(dir_);
}

void PackedCacheEntry::Add(std::string_view name, const kernels::PackedMatrix& matrix) {
  if (written_.ok()) written_ = writer_->Add(name, matrix);
}

absl::Status PackedCacheEntry::Publish(const std::atomic<bool>& stop) {
  RETURN_IF_ERROR(written_);
  RETURN_IF_ERROR(writer_->Finish(stop));
  const std::string from = absl::StrCat(name_, kUnfinished), to = absl::StrCat(name_, kWhole);
  if (::renameat(dir_, from.c_str(), dir_, to.c_str()) != 0) {
    return FromErrno(to, "cannot be given its name");
  }
  published_ = true;
  ::flock(fd_, LOCK_SH);  // who finds it may share it from now on
  return ::fsync(dir_) == 0 ? absl::OkStatus() : FromErrno(to, "cannot sync the directory");
}

absl::StatusOr<std::unique_ptr<PackedCache>> PackedCache::Open(const PackedCacheOptions& options) {
  // A slash at the end would follow a link.
  const std::string path = options.dir.substr(0, options.dir.find_last_not_of('/') + 1);
  if (path.empty()) return Untrusted(options.dir, "is no directory for a cache");
  RETURN_IF_ERROR(MakeDirectories(path));
  Descriptor dir(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (dir.get() < 0) return FromErrno(options.dir, "cannot open the directory");
  struct stat info {};
  if (::fstat(dir.get(), &info) != 0) return FromErrno(options.dir, "cannot look");
  RETURN_IF_ERROR(CheckOurs(info, 0, options.dir));
  return std::unique_ptr<PackedCache>(new PackedCache(dir.Take(), options));
}

PackedCache::~PackedCache() {
  ::close(dir_);
}

absl::StatusOr<std::unique_ptr<PackedFile>> PackedCache::Find(const ModelFile& file,
                                                              const PackedKey& key) {
  const std::string name = absl::StrCat(key.Hex(), kWhole);
  const std::string shown = absl::StrCat(options_.dir, "/", name);
  Descriptor fd(::openat(dir_, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0 && errno == ENOENT) return absl::NotFoundError(shown);
  if (fd.get() < 0) return FromErrno(shown, "cannot open");
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return FromErrno(shown, "cannot look");
  if (!S_ISREG(info.st_mode)) return Untrusted(shown, "not a regular file");
  RETURN_IF_ERROR(CheckOurs(info, 044, shown));
  // For as long as it is mapped: eviction asks for the exclusive lock.
  if (::flock(fd.get(), LOCK_SH | LOCK_NB) != 0) return FromErrno(shown, "is being removed");
  ::futimens(fd.get(), nullptr);  // last used
  ASSIGN_OR_RETURN(std::unique_ptr<PackedFile> packed, PackedFile::Open(fd.Take(), key, shown));
  if (!CoversModel(*packed, file.description())) {
    return absl::DataLossError(absl::StrCat(shown, ": does not have the tensors of the model"));
  }
  return packed;
}

void PackedCache::Remove(const PackedKey& key) {
  RemoveUnused(dir_, absl::StrCat(key.Hex(), kWhole));
}

absl::Status PackedCache::MakeRoom(uint64_t bytes, const std::string& name) {
  std::vector<Item> items = ListItems(dir_, name);
  const auto dead = [&](const Item& item) {
    return absl::EndsWith(item.name, kUnfinished) && RemoveUnused(dir_, item.name);
  };
  items.erase(std::remove_if(items.begin(), items.end(), dead), items.end());
  std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return std::pair(a.used.tv_sec, a.used.tv_nsec) < std::pair(b.used.tv_sec, b.used.tv_nsec);
  });
  uint64_t held = 0;
  for (const Item& item : items) held += item.bytes;
  // One that cannot fit alone costs no other its place.
  for (const Item& item : items) {
    if (bytes > options_.bytes_max || held + bytes <= options_.bytes_max) break;
    if (RemoveUnused(dir_, item.name)) held -= item.bytes;
  }
  if (held + bytes > options_.bytes_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat(options_.dir, ": ", HumanBytes(bytes), " beside ", HumanBytes(held),
                     " in use would exceed --packed-cache-bytes ", options_.bytes_max));
  }
  struct statvfs system {};
  if (::fstatvfs(dir_, &system) != 0) return FromErrno(options_.dir, "cannot look");
  const uint64_t available = uint64_t{system.f_bavail} * system.f_frsize;
  if (available < bytes + uint64_t{system.f_blocks} * system.f_frsize / 20) {
    return absl::ResourceExhaustedError(
        absl::StrCat(options_.dir, ": ", HumanBytes(bytes), " of the ", HumanBytes(available),
                     " that are free would leave less than a twentieth of the disk"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PackedCacheEntry>> PackedCache::Begin(const ModelFile& file,
                                                                     const PackedKey& key,
                                                                     uint64_t content_hash) {
  const std::string hex = key.Hex();
  const std::string shown = absl::StrCat(options_.dir, "/", hex, kUnfinished);
  Descriptor fd(OpenUnfinished(dir_, absl::StrCat(hex, kUnfinished)));
  if (fd.get() < 0 && errno == EWOULDBLOCK) {
    return absl::AbortedError(absl::StrCat(shown, ": another process is writing it"));
  }
  if (fd.get() < 0) return FromErrno(shown, "cannot begin");
  const int dir = ::fcntl(dir_, F_DUPFD_CLOEXEC, 0);
  if (dir < 0) return FromErrno(shown, "cannot begin");
  const int raw = fd.Take();
  std::unique_ptr<PackedCacheEntry> entry(new PackedCacheEntry(dir, raw, hex));
  if (Find(file, key).ok()) {
    return absl::AbortedError(absl::StrCat(shown, ": another process has just written it"));
  }
  RemoveUnused(dir_, absl::StrCat(hex, kWhole));  // it would be replaced, and must not count
  const uint64_t bytes = PackedFileWriter::FileBytes(file.description());
  RETURN_IF_ERROR(MakeRoom(bytes, absl::StrCat(hex, kUnfinished)));
  // All of it now, so that a full disk is found before the work.
  if (const int error = ::posix_fallocate(raw, 0, static_cast<off_t>(bytes)); error != 0) {
    errno = error;
    return FromErrno(shown, "cannot take the space");
  }
  entry->writer_ =
      std::make_unique<PackedFileWriter>(raw, key, content_hash, file.description().tensors.size());
  return entry;
}

}  // namespace millrace::model
