#pragma once
// Does it fit? Weights + KV + activations + overhead against the memory there is, from the file's
// tables alone, before a byte is loaded. What the plan says is what the executor allocates.
//
//   total ──────────────────────────────────────────────── the cgroup's limit or the machine
//   available ───────────────────────────────────────
//   | weights | activations | overhead | KV .........|     KV: --kv-cache-bytes, or a quarter of
//   the
//                                                          total, cut to what can be used and is
//                                                          left

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "model/machine_memory.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace millrace::model {

struct PlanRequest {
  int64_t max_model_len = 0;     // 0: the model's context length
  bool force_model_len = false;  // max_model_len may exceed what the model says it can
  int64_t max_num_seqs = 256;
  int64_t tokens_per_step = 512;
  int64_t logits_rows = 64;
  uint64_t kv_cache_bytes = 0;  // 0: the default
  // Where there are several KV groups: the length of a usual sequence, by whose needs the memory is
  // divided between them. 0: four of the smallest windows.
  int64_t kv_reference_len = 0;
  int threads = 1;
  std::vector<KvGroupLayout> kv_groups;  // as the executor will have them; not empty
};

// The part of the plan that is one KV group. What a sequence holds in it grows with its length; in
// a group with a window only until the window and one step's tokens are held.
struct KvGroupPlan {
  KvGroupLayout group;
  int32_t blocks = 0;        // usable
  int32_t per_sequence = 0;  // most blocks that one sequence of max_model_len holds
  size_t bytes = 0;          // the null block included
};

struct MemoryPlan {
  size_t weights = 0;
  size_t weight_files = 0;  // the same tensors as they lie in files; not part of total()
  // Where packed weights are mapped from, for Table; empty: they are packed. They count the same:
  // every step reads all of them, so all of them stay in memory.
  std::string weights_mapped;
  size_t activations = 0;  // workspace, logits, scratch of kernels and sampler
  size_t overhead = 0;     // program, libraries, tokenizer, streams
  size_t kv = 0;           // the arenas, their null blocks included
  size_t total() const { return weights + activations + overhead + kv; }

  std::vector<KvGroupPlan> kv_groups;  // in the request's order
  double kv_sequences = 0;             // of max_model_len that the KV cache holds at once
  int64_t kv_reference_len = 0;        // as resolved
  int64_t max_model_len = 0;           // as resolved
  int64_t max_num_seqs = 0;
  int64_t tokens_per_step = 0;
  int64_t longest_model_len = 0;  // the longest --max-model-len that would fit, others unchanged
  std::string kv_reason;          // what set the size of the KV cache
  MachineMemory memory;

  std::string problem;                // empty: it fits
  std::vector<std::string> remedies;  // flags with numbers, each of which alone makes it fit

  // ResourceExhausted with the problem and the remedies in one line.
  absl::Status Check() const;
  // For people: a line a part, then what fits or what would make it fit.
  std::string Table() const;
};

// REQUIRES: the groups have the same block_tokens and type.
// InvalidArgument when an option is out of range; a plan that does not fit is a plan.
absl::StatusOr<MemoryPlan> PlanMemory(const ModelDescription& description,
                                      const PlanRequest& request, const MachineMemory& memory);

// "1.5 GiB".
std::string HumanBytes(size_t bytes);

}  // namespace millrace::model
