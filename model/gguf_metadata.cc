// Typed access to the metadata that gguf.cc has bounded.
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/gguf.h"

namespace millrace::model {
namespace {

static_assert(std::endian::native == std::endian::little, "values are read as they lie");

template <typename T>
T Load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

bool IsInteger(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kU16:
    case GgufType::kI16:
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kU64:
    case GgufType::kI64:
      return true;
    default:
      return false;
  }
}

// False when a u64 does not fit.
bool LoadInteger(GgufType type, const std::byte* at, int64_t* out) {
  switch (type) {
    case GgufType::kU8:
      *out = Load<uint8_t>(at);
      return true;
    case GgufType::kI8:
      *out = Load<int8_t>(at);
      return true;
    case GgufType::kU16:
      *out = Load<uint16_t>(at);
      return true;
    case GgufType::kI16:
      *out = Load<int16_t>(at);
      return true;
    case GgufType::kU32:
      *out = Load<uint32_t>(at);
      return true;
    case GgufType::kI32:
      *out = Load<int32_t>(at);
      return true;
    case GgufType::kI64:
      *out = Load<int64_t>(at);
      return true;
    default:
      break;
  }
  const uint64_t wide = Load<uint64_t>(at);
  *out = static_cast<int64_t>(wide);
  return wide <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
}

}  // namespace

absl::Status GgufMetadata::WrongType(std::string_view key, std::string_view wanted) const {
  const GgufValue& value = values_.find(key)->second;
  return absl::InvalidArgumentError(absl::StrCat(
      file_name_, ": key ", QuoteName(key), " is ",
      value.type == GgufType::kArray ? absl::StrCat("an array of ", GgufTypeName(value.element))
                                     : GgufTypeName(value.type),
      ", not ", std::string(wanted)));
}

absl::StatusOr<const GgufValue*> GgufMetadata::Find(std::string_view key, GgufType type,
                                                    bool array) const {
  const auto it = values_.find(key);
  if (it == values_.end()) {
    return absl::NotFoundError(absl::StrCat(file_name_, ": key ", QuoteName(key), " is missing"));
  }
  const bool is_array = it->second.type == GgufType::kArray;
  if (is_array != array || it->second.element != type) {
    return WrongType(key, absl::StrCat(array ? "an array of " : "", GgufTypeName(type)));
  }
  return &it->second;
}

absl::StatusOr<int64_t> GgufMetadata::Int(std::string_view key) const {
  const auto it = values_.find(key);
  if (it == values_.end()) {
    return absl::NotFoundError(absl::StrCat(file_name_, ": key ", QuoteName(key), " is missing"));
  }
  int64_t out = 0;
  if (!IsInteger(it->second.type)) return WrongType(key, "an integer");
  if (!LoadInteger(it->second.type, it->second.data.data(), &out)) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name_, ": key ", QuoteName(key), " is larger than 2^63 - 1"));
  }
  return out;
}

absl::StatusOr<double> GgufMetadata::Float(std::string_view key) const {
  const auto it = values_.find(key);
  double out = 0;
  if (it != values_.end() && it->second.type == GgufType::kF32) {
    out = Load<float>(it->second.data.data());
  } else if (it != values_.end() && it->second.type == GgufType::kF64) {
    out = Load<double>(it->second.data.data());
  } else {
    ASSIGN_OR_RETURN([[maybe_unused]] const GgufValue* value, Find(key, GgufType::kF32, false));
  }
  if (!std::isfinite(out)) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name_, ": key ", QuoteName(key), " is not a finite number"));
  }
  return out;
}

absl::StatusOr<bool> GgufMetadata::Bool(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Find(key, GgufType::kBool, false));
  return value->data[0] != std::byte{0};
}

absl::StatusOr<std::string_view> GgufMetadata::String(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Find(key, GgufType::kString, false));
  return std::string_view(reinterpret_cast<const char*>(value->data.data()), value->data.size());
}

absl::StatusOr<std::vector<std::string_view>> GgufMetadata::Strings(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Find(key, GgufType::kString, true));
  std::vector<std::string_view> out(value->count);
  const std::byte* at = value->data.data();
  for (std::string_view& text : out) {
    const uint64_t length = Load<uint64_t>(at);
    text = {reinterpret_cast<const char*>(at + 8), length};
    at += 8 + length;
  }
  return out;
}

absl::StatusOr<std::vector<double>> GgufMetadata::Numbers(std::string_view key) const {
  const auto it = values_.find(key);
  if (it == values_.end() || it->second.type != GgufType::kArray ||
      it->second.element == GgufType::kString) {
    ASSIGN_OR_RETURN([[maybe_unused]] const GgufValue* value, Find(key, GgufType::kI32, true));
  }
  const GgufValue& value = it->second;
  if (value.count == 0) return std::vector<double>();
  const size_t width = value.data.size() / value.count;
  std::vector<double> out(value.count);
  for (size_t i = 0; i < out.size(); ++i) {
    const std::byte* at = value.data.data() + i * width;
    int64_t integer = 0;
    if (value.element == GgufType::kF32) {
      out[i] = Load<float>(at);
    } else if (value.element == GgufType::kF64) {
      out[i] = Load<double>(at);
    } else if (value.element == GgufType::kBool) {
      out[i] = static_cast<double>(Load<uint8_t>(at));
    } else if (LoadInteger(value.element, at, &integer)) {
      out[i] = static_cast<double>(integer);
    } else {
      return WrongType(key, "an array of numbers below 2^63");
    }
  }
  return out;
}

}  // namespace millrace::model
