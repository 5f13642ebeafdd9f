#pragma once
// The table of architectures. A new family is one file arch_<name>.cc, which says in a few lines
// what it is, and its line here and in architectures.cc (docs/adding_an_architecture.md).

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/stream.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace millrace::model {

// Called after each packed tensor: bytes of the file that are done, of all. Thread: the loader's.
using LoadProgress = std::function<void(size_t done, size_t total)>;

// Packed weights of an earlier start. Thread: immutable.
class StoredWeights {
 public:
  virtual ~StoredWeights() = default;
  // The strips of the tensor `name`, or none unless they are those of a matrix that is `described`.
  virtual std::span<const std::byte> Find(std::string_view name,
                                          const kernels::PackedMatrix& described) const = 0;
};
using PackedSink = std::function<void(std::string_view name, const kernels::PackedMatrix& matrix)>;

struct PackArgs {
  kernels::Stream* stream = nullptr;
  const StoredWeights* stored = nullptr;  // may be null
  PackedSink made;                        // called with each matrix that was packed; may be empty
  LoadProgress progress;                  // may be empty
  // Called with each tensor that is packed and not needed in the file's form any more; may be
  // empty.
  std::function<void(const kernels::RawMatrix&)> packed;
};

enum class FeedForwardKind : uint8_t {
  kGated,  // down(activation(gate x) * (up x))
};

// What one layer is made of; the parts are in model/decoder_layers.h.
struct LayerSpec {
  int32_t window = 0;       // positions that it attends to, its own included; 0: all
  bool local_rope = false;  // its angles are config.local_rope's
  float query_scale = 0;    // multiplies q . k
  float attention_cap = 0;  // 0: none
  bool qkv_bias = false;
  bool o_bias = false;
  bool qk_norm = false;
  bool post_norms = false;
  kernels::Activation activation = kernels::Activation::kSilu;
  FeedForwardKind feed_forward = FeedForwardKind::kGated;
};
// As the configuration says: what most families need.
LayerSpec DescribeLayer(const ModelConfig& config, int64_t layer);

absl::Status CheckDecoder(const ModelDescription& description);
absl::StatusOr<std::unique_ptr<Transformer>> MakeDecoder(const ModelDescription& description,
                                                         const PackArgs& args);
absl::StatusOr<std::unique_ptr<Transformer>> DescribeDecoder(const ModelDescription& description);

struct Architecture {
  std::string_view name;
  // Adds to a configuration read from a file what only the family knows. InvalidArgument when the
  // file says what this family cannot mean.
  absl::Status (*complete)(ModelConfig* config);
  LayerSpec (*layer)(const ModelConfig& config, int64_t layer) = &DescribeLayer;
  // Every tensor there, of the right shape, and none over. Reads no weights: instant.
  absl::Status (*check)(const ModelDescription& description) = &CheckDecoder;
  // As check, then packs the weights.
  absl::StatusOr<std::unique_ptr<Transformer>> (*make)(const ModelDescription& description,
                                                       const PackArgs& args) = &MakeDecoder;
  // What `make` would make, but for the weights: says how much memory a step takes.
  absl::StatusOr<std::unique_ptr<Transformer>> (*describe)(const ModelDescription& description) =
      &DescribeDecoder;
};

// Null when there is none of this name.
const Architecture* FindArchitecture(std::string_view name);
// "llama, mistral, ...", for messages.
std::string ArchitectureNames();

extern const Architecture kLlama;    // arch_llama.cc
extern const Architecture kMistral;  // arch_mistral.cc
extern const Architecture kQwen2;    // arch_qwen2.cc
extern const Architecture kQwen3;    // arch_qwen3.cc
extern const Architecture kPhi3;     // arch_phi3.cc
extern const Architecture kGemma2;   // arch_gemma2.cc
extern const Architecture kGemma3;   // arch_gemma3.cc

}  // namespace millrace::model
