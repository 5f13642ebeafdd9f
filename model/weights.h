#pragma once
// What is on disk, said neutrally: a configuration and named tensors as views of raw bytes. A
// reader of a file format makes it; an architecture consumes it. So a new format or a new
// architecture is one file more and neither knows the other.
//
// Names: embedding, final_norm, head, and for layer N layers.N.{attn_norm, q, k, v, o, ffn_norm,
// gate, up, down}, with some families also {q_bias, k_bias, v_bias, o_bias, q_norm, k_norm,
// attn_post_norm, ffn_post_norm}. Matrices are [out, in]; a vector is a matrix of one row. What a
// file keeps fused (q, k and v; gate and up) the reader splits into views of rows.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
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
  std::string file;       // the file that it lies in, where the source is more than one
};

// The type of the output head in memory.
enum class HeadType : uint8_t {
  kSource,  // as in the file
  // int8 in groups of 32 (kernels::PackedMatrix::PackInt8) where a quantized model has 16 bits
  // there; a dense model stays dense
  kAuto,
};

// Does not own the bytes that the matrices point to.
struct ModelDescription {
  std::string source;                // path, for messages
  std::string format;                // "GGUF Q4_1, Q8_0 embedding"
  std::vector<std::string> ignored;  // keys of the configuration that nobody looked at
  ModelConfig config;
  std::map<std::string, RawTensor, std::less<>> tensors;
  // The head is made int8 when it is packed; where it is tied, so is the embedding, being the same.
  bool int8_head = false;
};

// The name of the matrix that makes logits.
std::string_view HeadTensor(const ModelDescription& description);
// Sets int8_head where HeadType says so and the head is a matrix of whole groups; the format then
// names it. REQUIRES: a checked description.
void ChooseHead(HeadType type, ModelDescription* description);
// What packing the tensor `name` makes, but for the bytes. REQUIRES: it is there.
kernels::PackedMatrix DescribePacked(const ModelDescription& description, std::string_view name);
// The shape of a plain matrix that is made int8. No data.
kernels::RawMatrix Int8Form(const kernels::RawMatrix& matrix);

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
// "file: tensor 'name'", the beginning of a message.
std::string TensorPlace(const ModelDescription& description, const RawTensor& tensor);

// Rows [first, first + rows) of a matrix, in place. A grouped matrix needs groups of its own for
// that: `groups` holds them, unused otherwise, and lives as long as the result.
// REQUIRES: the rows exist.
kernels::RawMatrix RowRange(const kernels::RawMatrix& matrix, int64_t first, int64_t rows,
                            kernels::RawGroups* groups);

// Calls `part` with each run of file bytes that the matrix is made of: codes and side tensors.
void ForEachFilePart(const kernels::RawMatrix& matrix,
                     const std::function<void(std::span<const std::byte>)>& part);
// Bytes of files that the tensors are made of, each counted once.
size_t FileBytes(const ModelDescription& description);

}  // namespace millrace::model
