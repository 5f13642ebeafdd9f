#pragma once
// The memory of one KV group: block ids become addresses here and nowhere else.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/ops.h"

namespace millrace::executor {

// One anonymous mapping of blocks 0 .. blocks of each layer; block 0 is the null block, whose
// memory exists so that a stray read cannot leave the arena. Pages are committed when first
// written. Thread: engine.
class KvArena {
 public:
  // ResourceExhausted when the address space or the machine has no room.
  static absl::StatusOr<std::unique_ptr<KvArena>> Create(const kernels::KvLayout& layout,
                                                         int32_t blocks);
  ~KvArena();
  KvArena(const KvArena&) = delete;
  KvArena& operator=(const KvArena&) = delete;

  std::byte* data() { return data_; }
  const kernels::KvLayout& layout() const { return layout_; }
  int32_t blocks() const { return static_cast<int32_t>(layout_.blocks - 1); }
  size_t bytes() const { return bytes_; }

 private:
  KvArena(const kernels::KvLayout& layout, int32_t blocks) : layout_(layout) {
    layout_.blocks = int64_t{blocks} + 1;
  }
  kernels::KvLayout layout_;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace millrace::executor
