#pragma once
// Reads the container of GGUF versions 2 and 3: typed metadata and a table of tensors. The file is
// hostile until proven otherwise: every count is bounded by the bytes that are left, every product
// is checked, every tensor lies inside the file and beside the others.
//
//   "GGUF" | u32 version | u64 tensors | u64 keys | keys | tensor table | pad | data
//
// Owns nothing but tables; strings and tensors are views of the bytes.
// Format: ggml's docs/gguf.md; little-endian only.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "kernels/weights.h"

namespace millrace::model {

enum class GgufType : uint32_t {
  kU8 = 0,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};
const char* GgufTypeName(GgufType type);

// A value as it lies in the file.
struct GgufValue {
  GgufType type = GgufType::kU8;     // kArray: `count` elements of type `element`
  GgufType element = GgufType::kU8;  // = type when not an array
  uint64_t count = 1;
  std::span<const std::byte> data;
};

// Typed access by key. NotFound when the key is absent, InvalidArgument when it is of another type;
// both name the file and the key. Thread: immutable.
class GgufMetadata {
 public:
  bool Has(std::string_view key) const { return values_.contains(key); }
  // Any integer type whose value fits.
  absl::StatusOr<int64_t> Int(std::string_view key) const;
  absl::StatusOr<double> Float(std::string_view key) const;
  absl::StatusOr<bool> Bool(std::string_view key) const;
  absl::StatusOr<std::string_view> String(std::string_view key) const;
  // Views of the file's bytes: one allocation, for the vector.
  absl::StatusOr<std::vector<std::string_view>> Strings(std::string_view key) const;
  // Elements of an array of integers, floats or booleans.
  absl::StatusOr<std::vector<double>> Numbers(std::string_view key) const;

  const absl::flat_hash_map<std::string_view, GgufValue>& values() const { return values_; }
  const std::string& file_name() const { return file_name_; }

 private:
  friend class GgufParser;
  absl::StatusOr<const GgufValue*> Find(std::string_view key, GgufType type, bool array) const;
  absl::Status WrongType(std::string_view key, std::string_view wanted) const;

  absl::flat_hash_map<std::string_view, GgufValue> values_;
  std::string file_name_;
};

struct GgufTensor {
  std::string_view name;
  int dims = 1;               // 1 or more; only matrices and vectors are of use to us
  kernels::RawMatrix matrix;  // dims[0] = cols, the others multiplied = rows
  size_t part = 0;            // which file of a split model it lies in
};

struct GgufContents {
  uint32_t version = 0;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // in the file's order
  std::vector<std::string> files;   // names of the parts; one when the model is not split

  const std::string& FileOf(const GgufTensor& tensor) const { return files[tensor.part]; }
};

// Parses a whole file. `bytes` must be 8-byte aligned and outlive the result; `name` is for
// messages. InvalidArgument: one line that names the file and the key or tensor.
absl::StatusOr<GgufContents> ParseGguf(std::span<const std::byte> bytes, std::string_view name);

// A name from a file made fit for a message: escaped, quoted and cut.
std::string QuoteName(std::string_view name);

}  // namespace millrace::model
