#pragma once
// The forward pass of a decoder over a ragged batch: T tokens of many sequences at once.
//
//   tokens    [ a7 a8 a9 | b42 | c13 ]      T rows of the hidden state
//   rows      [ A: 0..2  | B: 3 | C: 4 ]    runs of consecutive positions of one sequence
//   logits    asked for by token row, in groups: the head is the largest matrix, and most rows of a
//             prefill need none of it
//
// Owns packed weights and nothing of a request. KV memory and workspace belong to the caller.

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "kernels/stream.h"
#include "model/config.h"

namespace millrace::model {

// Keys and values of one KV group, and the batch's rows with the block tables of that group.
struct KvView {
  const kernels::KvLayout* layout = nullptr;
  std::byte* arena = nullptr;
  std::span<const kernels::AttentionRow> rows;
};

// Geometry of the KV memory of one group of layers.
struct KvGroupLayout {
  kernels::KvLayout layout;
  int32_t window = 0;  // positions that a token sees, its own included; 0: all are kept
};

struct Batch {
  std::span<const int32_t> tokens;     // [T], each in the vocabulary
  std::span<const int32_t> positions;  // [T]
  // One for all layers, or one for each of LayerGroups(config) with that group's layers. A window
  // is the layers' own business: rows need not say it.
  std::span<const KvView> kv;
  // Sequences may outgrow rope.original_context: longrope's other factors. The same for all steps
  // of an executor, as keys are kept turned.
  bool long_context = false;
};

// fp32 memory of one forward pass, for at most `max_tokens` tokens. What lies where is the
// architecture's own business, but for the hidden state, which comes first.
struct Workspace {
  float* data = nullptr;  // 64-byte aligned
  size_t floats = 0;
  int64_t max_tokens = 0;
};

// The largest step that there will be, for ScratchBytes.
struct StepBounds {
  int64_t tokens = 0;
  int64_t logits_rows = 0;
  int64_t positions = 0;  // that a sequence has, at most
  int32_t block_tokens = 32;
  kernels::StreamShape stream;
};

// Thread: immutable. A workspace and a stream serve one caller at a time.
class Transformer {
 public:
  virtual ~Transformer() = default;

  virtual const ModelConfig& config() const = 0;
  // Bytes of packed weights that one forward pass reads, the embedding table not counted unless it
  // is the head.
  virtual size_t WeightBytes() const = 0;

  // Floats of workspace for this many tokens.
  virtual size_t WorkspaceFloats(int64_t max_tokens) const = 0;

  // Bytes of the stream's scratch that the ops of such a step take, at most.
  virtual size_t ScratchBytes(const StepBounds& step) const = 0;

  // Runs all layers; leaves the hidden states in the workspace and the keys and values in the
  // arena.
  virtual absl::Status Forward(const Batch& batch, Workspace& workspace,
                               kernels::Stream& stream) const = 0;

  // out[i] = logits of token row token_rows[i] of the last Forward in this workspace.
  // REQUIRES: at most workspace.max_tokens rows; out is [token_rows.size(), vocab_size].
  virtual absl::Status Logits(std::span<const int32_t> token_rows, Workspace& workspace, float* out,
                              kernels::Stream& stream) const = 0;
};

}  // namespace millrace::model
