#pragma once
// Ways to get a quantized format wrong, each in one place of a model. `apply` returns false where
// the format has no such thing.

#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/weights_file.h"
#include "tests/golden/model/oracle_run.h"

namespace millrace::golden {

// Thread: one caller.
struct FormatMutant : Mutant {
  explicit FormatMutant(const model::ModelDescription& right) { description = right; }

  // A private copy of a matrix's groups; null when it has none.
  kernels::RawGroups* Groups(const std::string& tensor) {
    kernels::RawMatrix& matrix = description.tensors.at(tensor).matrix;
    if (matrix.groups == nullptr) return nullptr;
    groups.push_back(*matrix.groups);
    matrix.groups = &groups.back();
    return &groups.back();
  }
  std::byte* Copy(const void* data, size_t bytes) {
    const auto* from = static_cast<const std::byte*>(data);
    storage.push_back(std::make_unique<std::vector<std::byte>>(from, from + bytes));
    return storage.back()->data();
  }
  // Calls change(groups) for every matrix of the layers; false when none has groups.
  template <typename Change>
  bool ForGroups(Change change) {
    bool any = false;
    for (auto& item : description.tensors) {
      if (item.second.matrix.groups != nullptr) any = change(*Groups(item.first)) || any;
    }
    return any;
  }

  std::deque<kernels::RawGroups> groups;
};

struct FormatMutation {
  const char* name;
  bool (*apply)(FormatMutant& mutant);
};

// The scale of each group or block of layers.0.up becomes its right neighbour's.
inline bool ShiftScales(FormatMutant& m) {
  const std::string tensor = "layers.0.up";
  const kernels::RawMatrix matrix = m.description.tensors.at(tensor).matrix;
  if (matrix.groups != nullptr) {
    kernels::RawGroups* const groups = m.Groups(tensor);
    const bool by_row = matrix.type == kernels::WeightType::kPacked4;  // [N, G], else [G, N]
    const int64_t count = kernels::GroupCount(matrix);
    if (count == 1) return false;
    const size_t step = by_row ? static_cast<size_t>(kernels::BlockBytes(groups->scale_type))
                               : groups->scale_bytes / static_cast<size_t>(count);
    std::byte* const scales = m.Copy(groups->scales, groups->scale_bytes);
    std::memmove(scales, scales + step, groups->scale_bytes - step);
    groups->scales = scales;
    return true;
  }
  const size_t block = static_cast<size_t>(kernels::BlockBytes(matrix.type));
  if (kernels::BlockValues(matrix.type) == 1) return false;
  const bool last = matrix.type == kernels::WeightType::kQ3_K ||
                    matrix.type == kernels::WeightType::kQ6_K;  // the scale ends the block
  std::byte* const data = m.Own(tensor);
  for (size_t at = last ? block - 2 : 0; at + block + 2 <= matrix.bytes; at += block) {
    std::memcpy(data + at, data + at + block, 2);
  }
  return true;
}

// The first zero point of layers.0.o (row 0, group 0, whatever the layout) is one more. A step of 8
// bits is a sixteenth of that in one of some hundred thousand weights: all of them are wrong below.
inline bool OneZeroPoint(FormatMutant& m) {
  kernels::RawGroups* const groups = m.Groups("layers.0.o");
  if (groups == nullptr || groups->zeros == nullptr || groups->symmetric) return false;
  std::byte* const zeros = m.Copy(groups->zeros, groups->zero_bytes);
  const kernels::WeightType type = m.description.tensors.at("layers.0.o").matrix.type;
  if (kernels::CodeBits(type) != 4) return false;
  const std::byte code = zeros[0] & std::byte{0x0F};
  const int other = code < std::byte{0x0F} ? static_cast<int>(code) + 1 : 14;
  zeros[0] = (zeros[0] & std::byte{0xF0}) | static_cast<std::byte>(other);
  groups->zeros = zeros;
  return true;
}

inline std::vector<FormatMutation> FormatMutations() {
  return {
      {"scales shifted by a group, layer 0 up", ShiftScales},
      {"one zero point +1, layer 0 o", OneZeroPoint},
      {"act-order ignored",
       [](FormatMutant& m) {
         return m.ForGroups([](kernels::RawGroups& groups) {
           groups.g_idx_bytes = 0;
           return std::exchange(groups.g_idx, nullptr) != nullptr;
         });
       }},
      {"zero points of v1 read as v2's",
       [](FormatMutant& m) {
         return m.ForGroups([](kernels::RawGroups& groups) {
           return !groups.symmetric && std::exchange(groups.zero_offset, 0) != 0;
         });
       }},
      {"zero points of v2 read as v1's",
       [](FormatMutant& m) {
         return m.ForGroups([](kernels::RawGroups& groups) {
           return !groups.symmetric && std::exchange(groups.zero_offset, 1) == 0;
         });
       }},
  };
}

}  // namespace millrace::golden
