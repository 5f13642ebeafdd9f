#pragma once
// The table of architectures. A new one is one file arch_<name>.cc, one line here and one in the
// table of architectures.cc.

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/stream.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace millrace::model {

// Called after each packed tensor: bytes of the file that are done, of all. Thread: the loader's.
using LoadProgress = std::function<void(size_t done, size_t total)>;

struct PackArgs {
  kernels::Stream* stream = nullptr;
  LoadProgress progress;  // may be empty
  // Called with each tensor that is packed and not needed in the file's form any more; may be
  // empty.
  std::function<void(const kernels::RawMatrix&)> packed;
};

struct Architecture {
  std::string_view name;
  // Every tensor there, of the right shape, and none over. Reads no weights: instant.
  absl::Status (*check)(const ModelDescription& description);
  // As check, then packs the weights.
  absl::StatusOr<std::unique_ptr<Transformer>> (*make)(const ModelDescription& description,
                                                       const PackArgs& args);
  // Transformer::WorkspaceFloats, before there is one.
  size_t (*workspace_floats)(const ModelConfig& config, int64_t max_tokens);
};

// Null when there is none of this name.
const Architecture* FindArchitecture(std::string_view name);
// "llama", comma-separated, for messages.
std::string ArchitectureNames();

size_t LlamaWorkspaceFloats(const ModelConfig& config, int64_t max_tokens);
absl::Status CheckLlama(const ModelDescription& description);
absl::StatusOr<std::unique_ptr<Transformer>> MakeLlama(const ModelDescription& description,
                                                       const PackArgs& args);

}  // namespace millrace::model
