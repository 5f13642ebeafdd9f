#pragma once
// Reads the container of safetensors. The file is hostile until proven otherwise: the header's
// length and its number of entries are bounded before anything is built from them, every product is
// checked, and the tensors cover the data exactly: no byte twice, none left over.
//
//   u64 header bytes | JSON { "name": {"dtype", "shape", "data_offsets": [begin, end]}, ... } |
//   data
//
// Offsets count from the end of the header. Owns nothing but tables; tensors are views of the
// bytes, at any address: writers before 0.3 did not pad the header, so that whoever reads a tensor
// copies its values out (kernels/weights_file.cc does). Format: the README of
// huggingface/safetensors; little-endian only.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace millrace::model {

enum class SafetensorsType : uint8_t { kF32, kF16, kBF16, kI64, kI32, kI8, kU8 };
const char* SafetensorsTypeName(SafetensorsType type);

struct SafetensorsTensor {
  std::string name;
  SafetensorsType type = SafetensorsType::kF32;
  std::vector<int64_t> shape;       // outermost first; empty: one value; each >= 0
  std::span<const std::byte> data;  // empty when a dimension is 0
};

// Tensors of one file, in the order of their bytes. `bytes` must outlive the result; `name` is for
// messages. InvalidArgument: one line that names the file and the tensor.
absl::StatusOr<std::vector<SafetensorsTensor>> ParseSafetensors(std::span<const std::byte> bytes,
                                                                std::string_view name);

}  // namespace millrace::model
