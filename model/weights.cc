#include "model/weights.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/gguf.h"

namespace millrace::model {

std::string LayerTensor(int64_t layer, std::string_view name) {
  return absl::StrCat("layers.", layer, ".", std::string(name));
}

bool WeightReader::Has(std::string_view name) const {
  return description_.tensors.find(name) != description_.tensors.end();
}

absl::StatusOr<kernels::RawMatrix> WeightReader::Matrix(std::string_view name, int64_t rows,
                                                        int64_t cols) {
  const auto it = description_.tensors.find(name);
  if (it == description_.tensors.end()) {
    return absl::NotFoundError(
        absl::StrCat(description_.source, ": tensor ", QuoteName(name), " is missing"));
  }
  const kernels::RawMatrix& matrix = it->second.matrix;
  if (matrix.rows != rows || matrix.cols != cols) {
    return absl::InvalidArgumentError(absl::StrCat(
        description_.source, ": tensor ", QuoteName(it->second.file_name), " is ", matrix.rows,
        " x ", matrix.cols, "; the configuration needs ", rows, " x ", cols));
  }
  used_[std::string(name)] = true;
  return matrix;
}

absl::StatusOr<std::vector<float>> WeightReader::Vector(std::string_view name, int64_t size) {
  ASSIGN_OR_RETURN(const kernels::RawMatrix matrix, Matrix(name, 1, size));
  std::vector<float> out(static_cast<size_t>(size));
  kernels::DequantizeRawRow(matrix, 0, out.data());
  return out;
}

absl::Status WeightReader::Finish() const {
  for (const auto& [name, tensor] : description_.tensors) {
    if (used_.contains(name)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(description_.source, ": tensor ", QuoteName(tensor.file_name),
                     " is not part of architecture '", description_.config.architecture,
                     "' as this node computes it; leaving it out would change the answers"));
  }
  return absl::OkStatus();
}

}  // namespace millrace::model
