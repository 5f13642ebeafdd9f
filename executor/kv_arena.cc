#include "executor/kv_arena.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace millrace::executor {

absl::StatusOr<std::unique_ptr<KvArena>> KvArena::Create(const kernels::KvLayout& layout,
                                                         int32_t blocks) {
  std::unique_ptr<KvArena> arena(new KvArena(layout, blocks));
  size_t bytes = 0;
  if (blocks < 1 || __builtin_mul_overflow(layout.BlockBytes(), size_t(blocks) + 1, &bytes)) {
    return absl::InvalidArgumentError(absl::StrCat("KV arena of ", blocks, " blocks"));
  }
  // A mapping is page-aligned, which covers what any kernel asks for.
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("KV arena of ", bytes, " bytes: ", std::strerror(errno)));
  }
  // Advice only: attention walks whole blocks, and huge pages spare it most TLB misses.
  ::madvise(data, bytes, MADV_HUGEPAGE);
  arena->data_ = static_cast<std::byte*>(data);
  arena->bytes_ = bytes;
  return arena;
}

KvArena::~KvArena() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

}  // namespace millrace::executor
