#pragma once
// Where an op runs: on CPU a thread pool and scratch memory. Opaque to callers, so that a device's
// stream can take its place.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/thread_pool.h"

namespace millrace::kernels {

// How numbers are computed.
//   kExact  dequantized fp32; every output element is one fp32 reduction whose order depends on the
//           reduced length only (attention: on absolute position in fixed blocks). Equal bytes for
//           any batch, chunk, thread count, split, block placement or instruction set.
//   kFast   integer dot products on activations quantized to 8 bits per 32 values; on the tiles of
//           kAmx, where the products have enough tokens, bf16. Attention over bf16 keys and values
//           rounds queries and weights to bf16 too (docs/numerics.md).
enum class ComputeMode : uint8_t { kExact, kFast };

// Instruction-set tiers, chosen from CPUID and XGETBV bits, never from the model name.
// In the order of preference; a CPU may run one and not all before it (Zen 4 has no kAvxVnni).
// kAvxVnni has products of its own and the rest from kAvx2, as kAvx512Vnni has it from kAvx512.
//   All up to kAvx512Vnni give the same bytes. kAmx is kAvx512Vnni but for fast products of many
// tokens, which run on the matrix unit and have other bytes. kAmxEmulated gives the bytes of kAmx
// on any machine, slowly: for tests, and to see what kAmx will answer. Never chosen by itself.
enum class IsaTier : uint8_t { kScalar, kAvx2, kAvxVnni, kAvx512, kAvx512Vnni, kAmx, kAmxEmulated };
bool RunsIsaTier(IsaTier tier);  // on this machine
// The best of the tiers with the same bytes that this machine runs.
IsaTier DetectIsaTier();
// The tier whose bytes do not depend on how many tokens a product has: `tier` itself, or what it is
// beside the matrix unit.
IsaTier BatchInvariantTier(IsaTier tier);
const char* IsaTierName(IsaTier tier);
// The tier of that name; "auto": the best, kAmx included. InvalidArgument, which names those that
// this machine runs, when it is none of them. Call it before threads start: the first call may ask
// the operating system for the matrix unit.
absl::StatusOr<IsaTier> FindIsaTier(std::string_view name);

// What the scratch of an op depends on, for those who plan memory before there is a stream.
struct StreamShape {
  ComputeMode mode = ComputeMode::kFast;
  IsaTier tier = IsaTier::kScalar;
  int workers = 1;
};

// Thread: one caller at a time.
class Stream {
 public:
  // `pool` outlives the stream. REQUIRES: RunsIsaTier(tier).
  Stream(ThreadPool& pool, ComputeMode mode, IsaTier tier = DetectIsaTier());
  ThreadPool& pool() const { return *pool_; }
  ComputeMode mode() const { return mode_; }
  IsaTier tier() const { return tier_; }
  StreamShape shape() const { return {mode_, tier_, pool_->workers()}; }

  // 64-byte aligned scratch of at least `bytes`, valid until the next op on this stream. Grows
  // only.
  void* Scratch(size_t bytes);
  // The most that an op has asked for so far.
  size_t scratch_bytes() const { return asked_; }

 private:
  ThreadPool* pool_;
  ComputeMode mode_;
  IsaTier tier_;
  std::vector<std::byte> scratch_;
  size_t asked_ = 0;
};

}  // namespace millrace::kernels
