#include "base/huge_page_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>

#include "base/check.h"

namespace millrace {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kMappingBytes = size_t{256} << 20;  // what is not touched costs nothing
constexpr size_t kAlign = 64;

struct Mapping {
  size_t bytes = 0;
  size_t used = 0;  // from its begin; pieces that were freed count
  int live = 0;     // pieces
};

struct Mappings {
  std::mutex mutex;
  std::map<std::byte*, Mapping> all;  // by begin
  std::byte* current = nullptr;       // new pieces come from it
};

// Never destroyed: matrices of static life may be freed after it.
Mappings& Shared() {
  static Mappings* const mappings = new Mappings;
  return *mappings;
}

// Begins at a huge page. Null: no memory.
std::byte* Map(size_t bytes) {
  void* data = ::mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  auto* const first = static_cast<std::byte*>(data);
  const size_t before = -reinterpret_cast<uintptr_t>(first) % kHugePage;
  if (before > 0) ::munmap(first, before);
  if (before < kHugePage) ::munmap(first + before + bytes, kHugePage - before);
  ::madvise(first + before, bytes, MADV_HUGEPAGE);  // advice only
  return first + before;
}

}  // namespace

std::byte* AllocateOnHugePages(size_t bytes) {
  Mappings& m = Shared();
  if (bytes > SIZE_MAX / 2) return nullptr;
  const size_t wanted = (bytes + kAlign - 1) / kAlign * kAlign;
  std::lock_guard lock(m.mutex);
  auto it = m.all.find(m.current);
  if (it == m.all.end() || it->second.bytes - it->second.used < wanted) {
    const size_t size = std::max(kMappingBytes, (wanted + kHugePage - 1) / kHugePage * kHugePage);
    std::byte* const begin = Map(size);
    if (begin == nullptr) return nullptr;
    it = m.all.emplace(begin, Mapping{size, 0, 0}).first;
    m.current = begin;
  }
  std::byte* const piece = it->first + it->second.used;
  it->second.used += wanted;
  ++it->second.live;
  return piece;
}

void FreeOnHugePages(std::byte* data) {
  Mappings& m = Shared();
  std::lock_guard lock(m.mutex);
  auto it = m.all.upper_bound(data);
  CHECK(it != m.all.begin());
  --it;
  CHECK(data < it->first + it->second.used && it->second.live > 0);
  if (--it->second.live > 0) return;
  ::munmap(it->first, it->second.bytes);
  if (m.current == it->first) m.current = nullptr;
  m.all.erase(it);
}

}  // namespace millrace
