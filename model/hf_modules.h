#pragma once
// The tensors of a checkpoint by module: "model.layers.0.mlp.down_proj" with its "qweight",
// "scales" and so on becomes one matrix.

#include <deque>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "model/hf_checkpoint.h"
#include "model/hf_quantization.h"
#include "model/weights.h"

namespace millrace::model {

// A tensor and the file that it is in. Does not own.
struct HfLeaf {
  const SafetensorsTensor* tensor = nullptr;
  const HfShard* shard = nullptr;
};

struct HfModule {
  std::string name;
  std::map<std::string, HfLeaf, std::less<>> leaves;  // by what follows the last dot

  const SafetensorsTensor* Find(std::string_view leaf) const;
};

// "file: tensor 'name' why".
absl::Status LeafError(const HfLeaf& leaf, std::string_view why);

// All modules by name; refuses a tensor that is in two files.
absl::StatusOr<std::map<std::string, HfModule, std::less<>>> CollectModules(const HfSource& source);

// The weight of a module as a matrix [out, in] (a vector as one row), plain or, when `scheme` says
// how, packed; the leaves that it is made of are erased from the module. `groups` as DescribeHf.
// REQUIRES: the module has a "weight", "qweight" or "weight_packed".
absl::StatusOr<RawTensor> TakeWeight(HfModule& module, const QuantScheme* scheme,
                                     std::deque<kernels::RawGroups>* groups);
// A plain vector ("bias"). REQUIRES: it is there.
absl::StatusOr<RawTensor> TakeVector(HfModule& module, std::string_view leaf);

}  // namespace millrace::model
