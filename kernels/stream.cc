#include "kernels/stream.h"

#include "base/check.h"

namespace millrace::kernels {

Stream::Stream(ThreadPool& pool, ComputeMode mode, IsaTier tier)
    : pool_(&pool), mode_(mode), tier_(tier) {
  CHECK(RunsIsaTier(tier));
}

void* Stream::Scratch(size_t bytes) {
  constexpr size_t kAlign = 64;
  if (scratch_.size() < bytes + kAlign) {
    std::vector<std::byte>().swap(scratch_);  // the old ones go first: nobody needs their contents
    scratch_.resize(bytes + kAlign);
    asked_ = bytes;
  }
  const auto address = reinterpret_cast<uintptr_t>(scratch_.data());
  return scratch_.data() + (kAlign - address % kAlign) % kAlign;
}

}  // namespace millrace::kernels
