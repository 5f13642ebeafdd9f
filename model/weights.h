#pragma once
// What is on disk, said neutrally: a configuration and named tensors as views of raw bytes. A
// reader of a file format makes it; an architecture consumes it. So a new format or a new
// architecture is one file more and neither knows the other.
//
// Names: embedding, final_norm, head, rope_factors, and for layer N layers.N.{attn_norm, q, k, v,
// o, ffn_norm, gate, up, down}. Matrices are [out, in]; a vector is a matrix of one row.

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/weights.h"
#include "model/config.h"

namespace millrace::model {

struct RawTensor {
  kernels::RawMatrix matrix;
  std::string file_name;  // the tensor's name in the file, for messages
};

// Does not own the bytes that the matrices point to.
struct ModelDescription {
  std::string source;  // path, for messages
  std::string format;  // "GGUF Q4_1, Q8_0 embedding"
  ModelConfig config;
  std::map<std::string, RawTensor, std::less<>> tensors;
};

// Hands out tensors by name once each, checked against the shape that the caller needs.
// Thread: one caller.
class WeightReader {
 public:
  // `description` outlives the reader.
  explicit WeightReader(const ModelDescription& description) : description_(description) {}

  // NotFound or InvalidArgument names the source and the tensor.
  absl::StatusOr<kernels::RawMatrix> Matrix(std::string_view name, int64_t rows, int64_t cols);
  // Dequantized to fp32.
  absl::StatusOr<std::vector<float>> Vector(std::string_view name, int64_t size);
  bool Has(std::string_view name) const;
  // InvalidArgument when a tensor was never asked for: leaving it out would change the answer.
  absl::Status Finish() const;

 private:
  const ModelDescription& description_;
  std::map<std::string, bool, std::less<>> used_;
};

// "layers.7.q".
std::string LayerTensor(int64_t layer, std::string_view name);

}  // namespace millrace::model
