#include "model/safetensors.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "model/gguf.h"

namespace millrace::model {
namespace {

// The format allows 100 MB; 65,536 entries of 250 bytes need 16. So a header that is a bomb is
// refused before it is parsed.
constexpr uint64_t kMaxHeaderBytes = uint64_t{32} << 20;
constexpr size_t kMaxTensors = 65'536;
constexpr size_t kMaxNameBytes = 512;
constexpr size_t kMaxDims = 8;

struct TypeRow {
  const char* name;
  SafetensorsType type;
  size_t bytes;
};

constexpr TypeRow kTypes[] = {
    {"F32", SafetensorsType::kF32, 4},   {"F16", SafetensorsType::kF16, 2},
    {"BF16", SafetensorsType::kBF16, 2}, {"I64", SafetensorsType::kI64, 8},
    {"I32", SafetensorsType::kI32, 4},   {"I8", SafetensorsType::kI8, 1},
    {"U8", SafetensorsType::kU8, 1},
};

const TypeRow& RowOf(SafetensorsType type) {
  return *std::find_if(std::begin(kTypes), std::end(kTypes),
                       [type](const TypeRow& row) { return row.type == type; });
}

// A plain run of digits that fits: no sign, fraction or exponent, which other readers might read
// differently.
bool ReadCount(const Json& json, uint64_t* out) {
  if (!json.is_number()) return false;
  const std::string& text = json.number_text();
  const auto read = std::from_chars(text.data(), text.data() + text.size(), *out);
  return read.ec == std::errc() && read.ptr == text.data() + text.size();
}

// One pass over a header. Thread: one caller.
class HeaderParser {
 public:
  HeaderParser(std::span<const std::byte> bytes, std::string_view name)
      : bytes_(bytes), name_(name) {}

  absl::StatusOr<std::vector<SafetensorsTensor>> Run();

 private:
  template <typename... Parts>
  absl::Status Error(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat(std::string(name_), ": ", parts...));
  }
  absl::StatusOr<Json> ReadHeader();
  absl::Status CheckMetadata(const Json& metadata) const;
  absl::Status ReadTensor(const std::string& name, const Json& entry);
  absl::Status ReadShape(const Json& entry, SafetensorsTensor* tensor, uint64_t* bytes) const;
  absl::Status CheckCover() const;

  std::span<const std::byte> bytes_;
  std::string_view name_;
  std::span<const std::byte> data_;
  std::vector<SafetensorsTensor> tensors_;
};

absl::StatusOr<Json> HeaderParser::ReadHeader() {
  uint64_t length = 0;
  if (bytes_.size() < sizeof(length) + 2) return Error("too short for a safetensors file");
  std::memcpy(&length, bytes_.data(), sizeof(length));
  const uint64_t left = bytes_.size() - sizeof(length);
  if (length > kMaxHeaderBytes || length > left) {
    return Error("the header says ", length, " bytes; the file has ", left, " after it, and ",
                 kMaxHeaderBytes, " are allowed");
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes_.data() + sizeof(length)),
                              length);
  if (text.substr(0, 1) != "{") return Error("not a safetensors file (its header is no object)");
  JsonLimits limits;
  limits.bytes_max = kMaxHeaderBytes;
  limits.depth_max = 4;
  limits.values_max = kMaxTensors * 16;
  limits.keys_per_object_max = kMaxTensors;
  absl::StatusOr<Json> header = Json::Parse(text, limits);
  if (!header.ok()) return Error("header: ", std::string(header.status().message()));
  data_ = bytes_.subspan(sizeof(length) + length);
  return header;
}

absl::Status HeaderParser::CheckMetadata(const Json& metadata) const {
  if (!metadata.is_object()) return Error("header: '__metadata__' is no object");
  for (const auto& [key, value] : metadata.object()) {
    if (!value.is_string()) {
      return Error("header: '__metadata__' holds ", QuoteName(key), ", which is no string");
    }
  }
  return absl::OkStatus();
}

absl::Status HeaderParser::ReadShape(const Json& entry, SafetensorsTensor* tensor,
                                     uint64_t* bytes) const {
  const std::string quoted = QuoteName(tensor->name);
  const Json* shape = entry.Find("shape");
  if (shape == nullptr || !shape->is_array()) return Error("tensor ", quoted, ": no shape");
  if (shape->array().size() > kMaxDims) {
    return Error("tensor ", quoted, ": ", shape->array().size(), " dimensions; at most ", kMaxDims);
  }
  // Below 2^62, so that nobody who multiplies by a small constant can overflow. A dimension of zero
  // does not excuse the others.
  constexpr uint64_t kMax = uint64_t{1} << 62;
  uint64_t nonzero = RowOf(tensor->type).bytes;
  bool empty = false;
  for (const Json& dim : shape->array()) {
    uint64_t value = 0;
    if (!ReadCount(dim, &value)) {
      return Error("tensor ", quoted, ": a dimension is no count from 0 to 2^64 - 1");
    }
    if (value == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(nonzero, value, &nonzero) || nonzero > kMax) {
      return Error("tensor ", quoted, ": the shape overflows");
    }
    tensor->shape.push_back(static_cast<int64_t>(value));
  }
  *bytes = empty ? 0 : nonzero;
  return absl::OkStatus();
}

absl::Status HeaderParser::ReadTensor(const std::string& name, const Json& entry) {
  const std::string quoted = QuoteName(name);
  if (name.empty() || name.size() > kMaxNameBytes) {
    return Error("tensor ", quoted, ": a name of ", name.size(), " bytes; 1 to ", kMaxNameBytes);
  }
  if (!entry.is_object()) return Error("tensor ", quoted, ": the entry is no object");
  for (const JsonMember& member : entry.object()) {
    const std::string& key = member.first;
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      return Error("tensor ", quoted, ": unknown member ", QuoteName(key));
    }
  }
  SafetensorsTensor tensor;
  tensor.name = name;
  const Json* type = entry.Find("dtype");
  if (type == nullptr || !type->is_string()) return Error("tensor ", quoted, ": no dtype");
  const TypeRow* row = nullptr;
  for (const TypeRow& known : kTypes) {
    if (type->string_value() == known.name) row = &known;
  }
  if (row == nullptr) {
    return Error("tensor ", quoted, ": dtype ", QuoteName(type->string_value()),
                 " is not supported (F32, F16, BF16, I64, I32, I8 and U8 are)");
  }
  tensor.type = row->type;
  uint64_t bytes = 0;
  RETURN_IF_ERROR(ReadShape(entry, &tensor, &bytes));
  const Json* offsets = entry.Find("data_offsets");
  uint64_t begin = 0;
  uint64_t end = 0;
  if (offsets == nullptr || !offsets->is_array() || offsets->array().size() != 2 ||
      !ReadCount(offsets->array()[0], &begin) || !ReadCount(offsets->array()[1], &end)) {
    return Error("tensor ", quoted, ": data_offsets are not two counts");
  }
  if (begin > end || end > data_.size()) {
    return Error("tensor ", quoted, ": data_offsets ", begin, " to ", end, ", but the data has ",
                 data_.size(), " bytes (is the file truncated?)");
  }
  if (end - begin != bytes) {
    return Error("tensor ", quoted, ": data_offsets span ", end - begin, " bytes; its shape needs ",
                 bytes);
  }
  tensor.data = data_.subspan(begin, bytes);
  tensors_.push_back(std::move(tensor));
  return absl::OkStatus();
}

// Each byte of the data in exactly one tensor. Sorts nothing: Run has.
absl::Status HeaderParser::CheckCover() const {
  const std::byte* at = data_.data();
  for (const SafetensorsTensor& tensor : tensors_) {
    if (tensor.data.data() < at) {
      return Error("tensor ", QuoteName(tensor.name), " overlaps the one before it");
    }
    if (tensor.data.data() > at) {
      return Error("tensor ", QuoteName(tensor.name), ": ", tensor.data.data() - at,
                   " bytes before it belong to no tensor");
    }
    at += tensor.data.size();
  }
  const ptrdiff_t over = data_.data() + data_.size() - at;
  return over == 0 ? absl::OkStatus()
                   : Error(over, " bytes at the end of the file belong to no tensor");
}

absl::StatusOr<std::vector<SafetensorsTensor>> HeaderParser::Run() {
  ASSIGN_OR_RETURN(const Json header, ReadHeader());
  for (const auto& [name, entry] : header.object()) {
    if (name == "__metadata__") {
      RETURN_IF_ERROR(CheckMetadata(entry));
    } else {
      RETURN_IF_ERROR(ReadTensor(name, entry));
    }
  }
  // Empty tensors before the one that begins where they lie.
  std::sort(tensors_.begin(), tensors_.end(),
            [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
              if (a.data.data() != b.data.data()) return a.data.data() < b.data.data();
              return a.data.size() < b.data.size();
            });
  RETURN_IF_ERROR(CheckCover());
  return std::move(tensors_);
}

}  // namespace

const char* SafetensorsTypeName(SafetensorsType type) {
  return RowOf(type).name;
}

absl::StatusOr<std::vector<SafetensorsTensor>> ParseSafetensors(std::span<const std::byte> bytes,
                                                                std::string_view name) {
  return HeaderParser(bytes, name).Run();
}

}  // namespace millrace::model
