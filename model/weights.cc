#include "model/weights.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/gguf.h"

namespace millrace::model {

std::string LayerTensor(int64_t layer, std::string_view name) {
  return absl::StrCat("layers.", layer, ".", std::string(name));
}

std::string TensorPlace(const ModelDescription& description, const RawTensor& tensor) {
  const std::string& file = tensor.file.empty() ? description.source : tensor.file;
  return absl::StrCat(file, ": tensor ", QuoteName(tensor.file_name));
}

std::string_view HeadTensor(const ModelDescription& description) {
  return description.config.tied_embeddings ? "embedding" : "head";
}

void ChooseHead(HeadType type, ModelDescription* description) {
  const auto head = description->tensors.find(HeadTensor(*description));
  if (type != HeadType::kAuto || head == description->tensors.end()) return;
  const kernels::RawMatrix& matrix = head->second.matrix;
  const bool half =
      matrix.type == kernels::WeightType::kF16 || matrix.type == kernels::WeightType::kBF16;
  const bool dense = std::all_of(
      description->tensors.begin(), description->tensors.end(),
      [](const auto& item) { return item.second.matrix.type <= kernels::WeightType::kBF16; });
  if (dense || !half || matrix.cols % kernels::BlockValues(kernels::WeightType::kQ8_0) != 0) return;
  description->int8_head = true;
  description->format += ", head made int8";
}

kernels::RawMatrix Int8Form(const kernels::RawMatrix& matrix) {
  kernels::RawMatrix out;
  out.type = kernels::WeightType::kQ8_0;
  out.rows = matrix.rows;
  out.cols = matrix.cols;
  return out;
}

kernels::PackedMatrix DescribePacked(const ModelDescription& description, std::string_view name) {
  const kernels::RawMatrix& matrix = description.tensors.find(name)->second.matrix;
  const bool int8 = description.int8_head && name == HeadTensor(description);
  return kernels::PackedMatrix::Describe(int8 ? Int8Form(matrix) : matrix);
}

kernels::RawMatrix RowRange(const kernels::RawMatrix& matrix, int64_t first, int64_t rows,
                            kernels::RawGroups* groups) {
  kernels::RawMatrix out = matrix;
  out.rows = rows;
  if (matrix.groups != nullptr) {
    *groups = *matrix.groups;
    groups->file_rows = groups->file_rows > 0 ? groups->file_rows : matrix.rows;
    groups->first_row += first;
    out.groups = groups;
    return out;
  }
  const size_t row_bytes = matrix.bytes / static_cast<size_t>(matrix.rows);
  out.data = static_cast<const std::byte*>(matrix.data) + static_cast<size_t>(first) * row_bytes;
  out.bytes = static_cast<size_t>(rows) * row_bytes;
  return out;
}

void ForEachFilePart(const kernels::RawMatrix& matrix,
                     const std::function<void(std::span<const std::byte>)>& part) {
  const auto view = [&part](const void* data, size_t bytes) {
    if (data != nullptr && bytes > 0) part({static_cast<const std::byte*>(data), bytes});
  };
  view(matrix.data, matrix.bytes);
  if (matrix.groups == nullptr) return;
  view(matrix.groups->scales, matrix.groups->scale_bytes);
  view(matrix.groups->zeros, matrix.groups->zero_bytes);
  view(matrix.groups->g_idx, matrix.groups->g_idx_bytes);
}

size_t FileBytes(const ModelDescription& description) {
  std::map<const std::byte*, size_t> parts;  // fused tensors have parts in common
  for (const auto& item : description.tensors) {
    ForEachFilePart(item.second.matrix, [&parts](std::span<const std::byte> part) {
      parts.emplace(part.data(), part.size());
    });
  }
  size_t bytes = 0;
  for (const auto& item : parts) bytes += item.second;
  return bytes;
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
    return absl::InvalidArgumentError(
        absl::StrCat(TensorPlace(description_, it->second), " is ", matrix.rows, " x ", matrix.cols,
                     "; the configuration needs ", rows, " x ", cols));
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
        absl::StrCat(TensorPlace(description_, tensor), " is not part of architecture '",
                     description_.config.architecture,
                     "' as this node computes it; leaving it out would change the answers"));
  }
  return absl::OkStatus();
}

}  // namespace millrace::model
