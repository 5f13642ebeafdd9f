#pragma once
// How a checkpoint's quantization_config says its matrices are stored. Three methods of the
// Hugging Face world, each with the variants that this node computes; anything else is refused by
// name.
//
//   gptq                bits 4 and 8, any group size, `dynamic` overrides by module, v1 and v2
//   awq                 the GEMM layout, 4 bits
//   compressed-tensors  pack-quantized W4A16 and W8A16, int-quantized W8A8 (per channel, dynamic)
//
// Facts: AutoGPTQ, GPTQModel, AutoAWQ, compressed-tensors and vLLM's readers of them.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "kernels/weights.h"

namespace millrace::model {

// How one module is stored.
struct QuantScheme {
  kernels::WeightType type = kernels::WeightType::kGptq4;
  int64_t group_size = -1;  // of consecutive inputs; -1: one group, as long as a row
  bool symmetric = true;
  bool act_order = false;  // groups are not consecutive inputs: a tensor g_idx says which
  int zero_offset = 0;     // added to stored zero points
};

enum class QuantMethod : uint8_t { kGptq, kAwq, kCompressedTensors };

// A regular expression of a configuration, matched at the start of a module's name (as Python's
// re.match) with a bound on its work. Thread: immutable, but for Matches (one caller at a time).
class ModulePattern {
 public:
  static absl::StatusOr<ModulePattern> Compile(std::string_view pattern);
  ~ModulePattern();
  ModulePattern(ModulePattern&&) noexcept;
  ModulePattern& operator=(ModulePattern&&) noexcept;
  // InvalidArgument when the pattern takes too long.
  absl::StatusOr<bool> Matches(std::string_view name) const;

 private:
  struct Compiled;
  ModulePattern();
  std::unique_ptr<Compiled> compiled_;
};

// Which modules are quantized, and how. Thread: immutable, but for SchemeOf (one caller at a time).
class HfQuantization {
 public:
  // `config` is the quantization_config object, `file` where it stands, for messages.
  static absl::StatusOr<HfQuantization> Read(const Json& config, const std::string& file);

  QuantMethod method() const { return method_; }
  // Of a module ("model.layers.0.mlp.down_proj"): how it is stored if it is quantized at all. Null:
  // the configuration says that it is dense. Valid as long as this object.
  absl::StatusOr<const QuantScheme*> SchemeOf(std::string_view module) const;
  // True when a module that SchemeOf does not name dense may still be stored dense: GPTQ and AWQ
  // say so by the tensors that are there.
  bool DenseUnlessPacked() const { return method_ != QuantMethod::kCompressedTensors; }
  // "GPTQ 4-bit g128 act-order".
  std::string Name() const;

 private:
  // What a pattern, a name or a substring selects. `scheme` < 0: dense.
  struct Rule {
    enum class How : uint8_t { kPattern, kName, kSubstring, kAll } how = How::kAll;
    std::string text;
    std::vector<ModulePattern> pattern;  // one, with kPattern
    int scheme = -1;
  };
  friend class QuantizationReader;

  absl::StatusOr<bool> Selects(const Rule& rule, std::string_view module) const;

  QuantMethod method_ = QuantMethod::kGptq;
  std::string file_;
  std::vector<QuantScheme> schemes_;  // the first is the one that most modules have
  std::vector<Rule> rules_;           // the first that selects a module decides
};

// "4-bit g128 act-order", without the method.
std::string SchemeName(const QuantScheme& scheme);

}  // namespace millrace::model
