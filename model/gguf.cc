#include "model/gguf.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace millrace::model {
namespace {

constexpr uint64_t kMaxKeyBytes = 65535;      // the format's own limit
constexpr uint64_t kMaxTensorNameBytes = 64;  // likewise
constexpr uint32_t kMaxDims = 4;              // likewise
constexpr uint64_t kMaxAlignment = 64 * 1024;
// The least bytes that an entry takes: what bounds a count before anything is allocated.
constexpr uint64_t kMinKeyEntry = 8 + 1 + 4 + 1;  // length, name, type, value
constexpr uint64_t kMinTensorEntry =
    8 + 1 + 4 + 8 + 4 + 8;  // length, name, rank, dim, type, offset

// Bytes of a scalar of this type; 0 for strings and arrays.
uint64_t ScalarBytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return 0;
}

template <typename T>
T Load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

// Sets *out = a * b unless that overflows.
bool Multiply(uint64_t a, uint64_t b, uint64_t* out) {
  return !__builtin_mul_overflow(a, b, out);
}

struct TensorFormat {
  uint32_t id;
  const char* name;
  std::optional<kernels::WeightType> type;  // none: known, and not read by us
};

// ggml's type numbers (ggml.h). Those without a WeightType are refused by name.
constexpr TensorFormat kFormats[] = {
    {0, "F32", kernels::WeightType::kF32},
    {1, "F16", kernels::WeightType::kF16},
    {2, "Q4_0", kernels::WeightType::kQ4_0},
    {3, "Q4_1", kernels::WeightType::kQ4_1},
    {6, "Q5_0", kernels::WeightType::kQ5_0},
    {7, "Q5_1", kernels::WeightType::kQ5_1},
    {8, "Q8_0", kernels::WeightType::kQ8_0},
    {9, "Q8_1", {}},
    {10, "Q2_K", {}},
    {11, "Q3_K", kernels::WeightType::kQ3_K},
    {12, "Q4_K", kernels::WeightType::kQ4_K},
    {13, "Q5_K", kernels::WeightType::kQ5_K},
    {14, "Q6_K", kernels::WeightType::kQ6_K},
    {15, "Q8_K", {}},
    {16, "IQ2_XXS", {}},
    {17, "IQ2_XS", {}},
    {18, "IQ3_XXS", {}},
    {19, "IQ1_S", {}},
    {20, "IQ4_NL", kernels::WeightType::kIQ4_NL},
    {21, "IQ3_S", {}},
    {22, "IQ2_S", {}},
    {23, "IQ4_XS", kernels::WeightType::kIQ4_XS},
    {24, "I8", {}},
    {25, "I16", {}},
    {26, "I32", {}},
    {27, "I64", {}},
    {28, "F64", {}},
    {29, "IQ1_M", {}},
    {30, "BF16", kernels::WeightType::kBF16},
    {34, "TQ1_0", {}},
    {35, "TQ2_0", {}},
    {39, "MXFP4", {}},
    {40, "NVFP4", {}},
};

std::string SupportedTypes() {
  std::string out;
  for (const TensorFormat& format : kFormats) {
    if (format.type.has_value()) absl::StrAppend(&out, out.empty() ? "" : ", ", format.name);
  }
  return out;
}

}  // namespace

const char* GgufTypeName(GgufType type) {
  static constexpr const char* kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                           "bool", "string", "array", "u64", "i64", "f64"};
  const uint32_t index = static_cast<uint32_t>(type);
  return index < std::size(kNames) ? kNames[index] : "unknown";
}

std::string QuoteName(std::string_view name) {
  constexpr size_t kShown = 80;
  const std::string_view head = name.substr(0, kShown);
  return absl::StrCat("'", absl::CHexEscape({head.data(), head.size()}),
                      name.size() > kShown ? "...'" : "'");
}

// One pass over the bytes. Thread: one caller.
class GgufParser {
 public:
  GgufParser(std::span<const std::byte> bytes, std::string_view name)
      : bytes_(bytes), name_(name) {}

  absl::StatusOr<GgufContents> Run();

 private:
  // A tensor's entry before its bytes are known to exist.
  struct Entry {
    GgufTensor tensor;
    uint64_t offset = 0;  // from the start of the data section
    uint64_t size = 0;
  };

  uint64_t left() const { return bytes_.size() - at_; }
  template <typename... Parts>
  absl::Status Error(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat(std::string(name_), ": ", parts...));
  }

  template <typename T>
  absl::Status Read(T* out, const char* what) {
    if (left() < sizeof(T)) return Error("the file ends inside ", what);
    *out = Load<T>(bytes_.data() + at_);
    at_ += sizeof(T);
    return absl::OkStatus();
  }
  absl::Status ReadString(uint64_t limit, const char* what, std::string_view* out);
  absl::Status ReadHeader();
  absl::Status ReadKey();
  absl::Status ReadValue(std::string_view key, GgufValue* value);
  absl::Status ReadArray(std::string_view key, GgufValue* value);
  absl::Status CheckBools(std::string_view key, const GgufValue& value) const;
  absl::Status ReadAlignment();
  absl::Status ReadTensor(Entry* entry);
  absl::Status CheckShape(const uint64_t (&dims)[kMaxDims], uint32_t type, Entry* entry) const;
  absl::Status PlaceTensors(std::vector<Entry>& entries);

  std::span<const std::byte> bytes_;
  std::string_view name_;
  uint64_t at_ = 0;
  uint64_t tensors_ = 0;
  uint64_t keys_ = 0;
  uint64_t alignment_ = 32;  // the format's default
  GgufContents contents_;
};

absl::Status GgufParser::ReadString(uint64_t limit, const char* what, std::string_view* out) {
  uint64_t length = 0;
  RETURN_IF_ERROR(Read(&length, what));
  if (length > limit) return Error(what, " of ", length, " bytes; at most ", limit);
  if (length > left()) return Error(what, " of ", length, " bytes, but ", left(), " are left");
  *out = {reinterpret_cast<const char*>(bytes_.data() + at_), length};
  at_ += length;
  return absl::OkStatus();
}

absl::Status GgufParser::ReadHeader() {
  uint32_t magic = 0;
  if (bytes_.size() < 4 || std::memcmp(bytes_.data(), "GGUF", 4) != 0) {
    return Error("not a GGUF file (it does not begin with \"GGUF\")");
  }
  RETURN_IF_ERROR(Read(&magic, "the header"));
  RETURN_IF_ERROR(Read(&contents_.version, "the header"));
  const uint32_t version = contents_.version;
  if (__builtin_bswap32(version) <= 3) return Error("a big-endian GGUF file; only little-endian");
  if (version != 2 && version != 3) return Error("GGUF version ", version, "; only 2 and 3");
  RETURN_IF_ERROR(Read(&tensors_, "the header"));
  RETURN_IF_ERROR(Read(&keys_, "the header"));
  if (keys_ > left() / kMinKeyEntry) {
    return Error("the header promises ", keys_, " keys, more than fit the file");
  }
  if (tensors_ > left() / kMinTensorEntry) {
    return Error("the header promises ", tensors_, " tensors, more than fit the file");
  }
  return absl::OkStatus();
}

absl::Status GgufParser::CheckBools(std::string_view key, const GgufValue& value) const {
  if (value.element != GgufType::kBool) return absl::OkStatus();
  for (std::byte b : value.data) {
    if (static_cast<uint8_t>(b) > 1)
      return Error("key ", QuoteName(key), ": a bool that is not 0 or 1");
  }
  return absl::OkStatus();
}

absl::Status GgufParser::ReadArray(std::string_view key, GgufValue* value) {
  uint32_t element = 0;
  RETURN_IF_ERROR(Read(&element, "an array"));
  RETURN_IF_ERROR(Read(&value->count, "an array"));
  value->element = static_cast<GgufType>(element);
  const uint64_t begin = at_;
  if (value->element == GgufType::kString) {
    // Each takes at least its length field.
    if (value->count > left() / 8) {
      return Error("key ", QuoteName(key), ": ", value->count, " strings do not fit the file");
    }
    for (uint64_t i = 0; i < value->count; ++i) {
      std::string_view text;
      RETURN_IF_ERROR(ReadString(left(), "a string", &text));
    }
  } else {
    const uint64_t width = ScalarBytes(value->element);
    if (width == 0) {
      return Error("key ", QuoteName(key), ": array of ", GgufTypeName(value->element), " (type ",
                   element, ") is not allowed");
    }
    if (value->count > left() / width) {
      return Error("key ", QuoteName(key), ": ", value->count, " elements do not fit the file");
    }
    at_ += value->count * width;
  }
  value->data = bytes_.subspan(begin, at_ - begin);
  return CheckBools(key, *value);
}

absl::Status GgufParser::ReadValue(std::string_view key, GgufValue* value) {
  uint32_t type = 0;
  RETURN_IF_ERROR(Read(&type, "a key's type"));
  value->type = value->element = static_cast<GgufType>(type);
  if (value->type == GgufType::kArray) return ReadArray(key, value);
  if (value->type == GgufType::kString) {
    std::string_view text;
    RETURN_IF_ERROR(ReadString(left(), "a string", &text));
    value->data = {reinterpret_cast<const std::byte*>(text.data()), text.size()};
    return absl::OkStatus();
  }
  const uint64_t width = ScalarBytes(value->type);
  if (width == 0) return Error("key ", QuoteName(key), ": unknown value type ", type);
  if (left() < width) return Error("the file ends inside key ", QuoteName(key));
  value->data = bytes_.subspan(at_, width);
  at_ += width;
  return CheckBools(key, *value);
}

absl::Status GgufParser::ReadKey() {
  std::string_view key;
  RETURN_IF_ERROR(ReadString(kMaxKeyBytes, "a key's name", &key));
  if (key.empty()) return Error("a key without a name");
  GgufValue value;
  RETURN_IF_ERROR(ReadValue(key, &value));
  if (!contents_.metadata.values_.emplace(key, value).second) {
    return Error("key ", QuoteName(key), " occurs twice");
  }
  return absl::OkStatus();
}

absl::Status GgufParser::ReadAlignment() {
  const GgufMetadata& metadata = contents_.metadata;
  if (!metadata.Has("general.alignment")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int64_t value, metadata.Int("general.alignment"));
  // The format asks for a multiple of 8; so every element type is aligned in a mapped file.
  if (value < 8 || value > static_cast<int64_t>(kMaxAlignment) || (value & (value - 1)) != 0) {
    return Error("key 'general.alignment' is ", value, "; it must be a power of two, 8 to ",
                 kMaxAlignment);
  }
  alignment_ = static_cast<uint64_t>(value);
  return absl::OkStatus();
}

absl::Status GgufParser::CheckShape(const uint64_t (&dims)[kMaxDims], uint32_t type,
                                    Entry* entry) const {
  GgufTensor& tensor = entry->tensor;
  const std::string quoted = QuoteName(tensor.name);
  const TensorFormat* format = nullptr;
  for (const TensorFormat& known : kFormats) {
    if (known.id == type) format = &known;
  }
  if (format == nullptr) return Error("tensor ", quoted, ": unknown type ", type);
  if (!format->type.has_value()) {
    return Error("tensor ", quoted, ": type ", format->name, " is not supported (",
                 SupportedTypes(), " are)");
  }
  // Both factors stay below 2^62, so that nobody who multiplies by a small constant can overflow.
  constexpr uint64_t kMaxElements = uint64_t{1} << 62;
  uint64_t rows = 1;
  for (int d = 1; d < tensor.dims; ++d) {
    if (!Multiply(rows, dims[d], &rows) || rows > kMaxElements) rows = 0;
    if (rows == 0) break;
  }
  uint64_t elements = 0;
  if (dims[0] == 0 || rows == 0 || !Multiply(dims[0], rows, &elements) || elements > kMaxElements) {
    return Error("tensor ", quoted, ": a dimension is zero or the shape overflows");
  }
  const uint64_t values = static_cast<uint64_t>(kernels::BlockValues(*format->type));
  if (dims[0] % values != 0) {
    return Error("tensor ", quoted, ": rows of ", dims[0], " values are not whole blocks of ",
                 values, " (", format->name, ")");
  }
  const uint64_t block_bytes = static_cast<uint64_t>(kernels::BlockBytes(*format->type));
  if (!Multiply(elements / values, block_bytes, &entry->size)) {
    return Error("tensor ", quoted, ": the size overflows");
  }
  tensor.matrix.type = *format->type;
  tensor.matrix.rows = static_cast<int64_t>(rows);
  tensor.matrix.cols = static_cast<int64_t>(dims[0]);
  return absl::OkStatus();
}

absl::Status GgufParser::ReadTensor(Entry* entry) {
  GgufTensor& tensor = entry->tensor;
  RETURN_IF_ERROR(ReadString(kMaxTensorNameBytes, "a tensor's name", &tensor.name));
  if (tensor.name.empty()) return Error("a tensor without a name");
  uint32_t rank = 0;
  RETURN_IF_ERROR(Read(&rank, "the tensor table"));
  if (rank < 1 || rank > kMaxDims) {
    return Error("tensor ", QuoteName(tensor.name), ": ", rank, " dimensions; 1 to ", kMaxDims);
  }
  uint64_t dims[kMaxDims] = {1, 1, 1, 1};
  for (uint32_t d = 0; d < rank; ++d) RETURN_IF_ERROR(Read(&dims[d], "the tensor table"));
  tensor.dims = static_cast<int>(rank);
  uint32_t type = 0;
  RETURN_IF_ERROR(Read(&type, "the tensor table"));
  RETURN_IF_ERROR(Read(&entry->offset, "the tensor table"));
  return CheckShape(dims, type, entry);
}

// Turns offsets into views: inside the file, aligned, no byte in two tensors, and after the last
// one padding at most.
absl::Status GgufParser::PlaceTensors(std::vector<Entry>& entries) {
  const uint64_t data_begin = (at_ + alignment_ - 1) / alignment_ * alignment_;
  const uint64_t room = data_begin < bytes_.size() ? bytes_.size() - data_begin : 0;
  uint64_t end = 0;
  for (Entry& entry : entries) {
    const std::string quoted = QuoteName(entry.tensor.name);
    if (entry.offset % alignment_ != 0) {
      return Error("tensor ", quoted, ": offset ", entry.offset, " is not a multiple of ",
                   alignment_);
    }
    if (entry.offset > room || entry.size > room - entry.offset) {
      return Error("tensor ", quoted, ": needs ", entry.size, " bytes at offset ", entry.offset,
                   ", but the data has ", room, " bytes (is the file truncated?)");
    }
    entry.tensor.matrix.data = bytes_.data() + data_begin + entry.offset;
    entry.tensor.matrix.bytes = entry.size;
    end = std::max(end, entry.offset + entry.size);
  }
  std::vector<const Entry*> by_offset;
  for (const Entry& entry : entries) by_offset.push_back(&entry);
  std::sort(by_offset.begin(), by_offset.end(),
            [](const Entry* a, const Entry* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < by_offset.size(); ++i) {
    if (by_offset[i - 1]->offset + by_offset[i - 1]->size > by_offset[i]->offset) {
      return Error("tensor ", QuoteName(by_offset[i]->tensor.name), " overlaps tensor ",
                   QuoteName(by_offset[i - 1]->tensor.name));
    }
  }
  if (room - end >= alignment_) {
    return Error(room - end, " bytes at the end of the file belong to no tensor");
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufContents> GgufParser::Run() {
  contents_.metadata.file_name_ = std::string(name_);
  contents_.files.emplace_back(name_);
  RETURN_IF_ERROR(ReadHeader());
  for (uint64_t i = 0; i < keys_; ++i) RETURN_IF_ERROR(ReadKey());
  RETURN_IF_ERROR(ReadAlignment());
  if (tensors_ > left() / kMinTensorEntry) {
    return Error("the header promises ", tensors_, " tensors, more than fit the file");
  }
  std::vector<Entry> entries(tensors_);
  absl::flat_hash_set<std::string_view> names;
  for (Entry& entry : entries) {
    RETURN_IF_ERROR(ReadTensor(&entry));
    if (!names.insert(entry.tensor.name).second) {
      return Error("tensor ", QuoteName(entry.tensor.name), " occurs twice");
    }
  }
  RETURN_IF_ERROR(PlaceTensors(entries));
  for (Entry& entry : entries) contents_.tensors.push_back(entry.tensor);
  return std::move(contents_);
}

absl::StatusOr<GgufContents> ParseGguf(std::span<const std::byte> bytes, std::string_view name) {
  return GgufParser(bytes, name).Run();
}

}  // namespace millrace::model
