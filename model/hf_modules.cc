#include "model/hf_modules.h"

#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/gguf.h"

namespace millrace::model {
namespace {

using kernels::RawGroups;
using kernels::RawMatrix;
using kernels::WeightType;

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) absl::StrAppend(&out, i == 0 ? "" : ", ", shape[i]);
  return absl::StrCat(out, "]");
}

int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

std::optional<WeightType> PlainType(SafetensorsType type) {
  switch (type) {
    case SafetensorsType::kF32:
      return WeightType::kF32;
    case SafetensorsType::kF16:
      return WeightType::kF16;
    case SafetensorsType::kBF16:
      return WeightType::kBF16;
    default:
      return std::nullopt;
  }
}

absl::Status WantType(const HfLeaf& leaf, SafetensorsType type) {
  if (leaf.tensor->type == type) return absl::OkStatus();
  return LeafError(leaf, absl::StrCat("is ", SafetensorsTypeName(leaf.tensor->type),
                                      "; it must be ", SafetensorsTypeName(type)));
}

absl::Status WantShape(const HfLeaf& leaf, const std::vector<int64_t>& shape) {
  if (leaf.tensor->shape == shape) return absl::OkStatus();
  return LeafError(leaf, absl::StrCat("has shape ", ShapeText(leaf.tensor->shape),
                                      "; the others need ", ShapeText(shape)));
}

int64_t ReadIndex(const SafetensorsTensor& tensor, int64_t i) {
  if (tensor.type == SafetensorsType::kI64) {
    int64_t value;
    std::memcpy(&value, tensor.data.data() + i * 8, 8);
    return value;
  }
  int32_t value;
  std::memcpy(&value, tensor.data.data() + i * 4, 4);
  return value;
}

// Builds one packed matrix of a module. Thread: one caller.
class PackedBuilder {
 public:
  PackedBuilder(HfModule& module, const QuantScheme& scheme) : module_(module), scheme_(scheme) {}

  absl::StatusOr<RawTensor> Run(std::deque<RawGroups>* groups);

 private:
  absl::StatusOr<HfLeaf> Need(const char* leaf);
  absl::StatusOr<HfLeaf> Codes(const char* leaf, SafetensorsType type);
  absl::Status WantWholeGroups() const;
  absl::Status SetScales(const char* leaf, const std::vector<int64_t>& shape);
  absl::Status SetZeros(const char* leaf, const std::vector<int64_t>& shape);
  absl::Status SetOrder(const char* leaf);
  absl::Status Gptq();
  absl::Status Awq();
  absl::Status Packed();
  absl::Status Int8();
  int64_t Groups() const {
    return scheme_.group_size > 0 ? CeilDiv(matrix_.cols, scheme_.group_size) : 1;
  }

  HfModule& module_;
  const QuantScheme& scheme_;
  RawMatrix matrix_;
  RawGroups groups_;
  HfLeaf codes_;
};

absl::StatusOr<HfLeaf> PackedBuilder::Need(const char* leaf) {
  const auto it = module_.leaves.find(leaf);
  if (it != module_.leaves.end()) return it->second;
  return LeafError(codes_, absl::StrCat("has no '", leaf, "' beside it"));
}

absl::StatusOr<HfLeaf> PackedBuilder::Codes(const char* leaf, SafetensorsType type) {
  codes_ = module_.leaves.find(leaf)->second;
  RETURN_IF_ERROR(WantType(codes_, type));
  const std::vector<int64_t>& shape = codes_.tensor->shape;
  if (shape.size() != 2 || shape[0] < 1 || shape[1] < 1 || shape[0] > kMaxVocab ||
      shape[1] > kMaxVocab) {
    return LeafError(
        codes_, absl::StrCat("has shape ", ShapeText(shape), "; it must be a matrix of some size"));
  }
  matrix_.data = codes_.tensor->data.data();
  matrix_.bytes = codes_.tensor->data.size();
  return codes_;
}

// GPTQ's packers write a last group of what is left (ceil(K / size) groups, input k in group
// k / size); AutoAWQ and compressed-tensors refuse to, so that nobody has said what it would mean.
absl::Status PackedBuilder::WantWholeGroups() const {
  if (scheme_.group_size < 1 || matrix_.cols % scheme_.group_size == 0) return absl::OkStatus();
  return LeafError(codes_, absl::StrCat("has ", matrix_.cols,
                                        " inputs, no multiple of the group "
                                        "size ",
                                        scheme_.group_size, ", which only GPTQ defines"));
}

absl::Status PackedBuilder::SetScales(const char* name, const std::vector<int64_t>& shape) {
  ASSIGN_OR_RETURN(const HfLeaf leaf, Need(name));
  const std::optional<WeightType> type = PlainType(leaf.tensor->type);
  if (!type.has_value()) return LeafError(leaf, "is no tensor of F16, BF16 or F32");
  RETURN_IF_ERROR(WantShape(leaf, shape));
  groups_.scales = leaf.tensor->data.data();
  groups_.scale_bytes = leaf.tensor->data.size();
  groups_.scale_type = *type;
  return absl::OkStatus();
}

absl::Status PackedBuilder::SetZeros(const char* name, const std::vector<int64_t>& shape) {
  groups_.symmetric = scheme_.symmetric;
  groups_.zero_offset = scheme_.zero_offset;
  if (scheme_.symmetric && !module_.leaves.contains(name)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const HfLeaf leaf, Need(name));
  RETURN_IF_ERROR(WantType(leaf, SafetensorsType::kI32));
  RETURN_IF_ERROR(WantShape(leaf, shape));
  groups_.zeros = leaf.tensor->data.data();
  groups_.zero_bytes = leaf.tensor->data.size();
  return absl::OkStatus();
}

// Act-order's indices. Without act-order they say nothing new, or else the configuration lies.
absl::Status PackedBuilder::SetOrder(const char* name) {
  const auto it = module_.leaves.find(name);
  // Some packers leave an empty one when there is no order.
  const bool there = it != module_.leaves.end() && !it->second.tensor->data.empty();
  if (!there) {
    if (scheme_.act_order && Groups() > 1) {
      return LeafError(codes_, absl::StrCat("has no '", name, "' beside it; act-order needs it"));
    }
    return absl::OkStatus();
  }
  const HfLeaf leaf = it->second;
  RETURN_IF_ERROR(WantType(leaf, SafetensorsType::kI32));
  RETURN_IF_ERROR(WantShape(leaf, {matrix_.cols}));
  const int64_t size = scheme_.group_size > 0 ? scheme_.group_size : matrix_.cols;
  const int64_t groups = Groups();
  bool plain = true;
  for (int64_t k = 0; k < matrix_.cols; ++k) {
    const int64_t group = ReadIndex(*leaf.tensor, k);
    if (group < 0 || group >= groups) {
      return LeafError(leaf,
                       absl::StrCat("[", k, "] is ", group, "; there are ", groups, " groups"));
    }
    plain = plain && group == k / size;
  }
  if (plain) return absl::OkStatus();
  if (!scheme_.act_order) {
    return LeafError(leaf, "orders the inputs, but the configuration says no act-order");
  }
  groups_.g_idx = leaf.tensor->data.data();
  groups_.g_idx_bytes = leaf.tensor->data.size();
  return absl::OkStatus();
}

absl::Status PackedBuilder::Gptq() {
  const int64_t per_word = scheme_.type == WeightType::kGptq8 ? 4 : 8;
  ASSIGN_OR_RETURN(const HfLeaf codes, Codes("qweight", SafetensorsType::kI32));
  matrix_.cols = codes.tensor->shape[0] * per_word;
  matrix_.rows = codes.tensor->shape[1];
  RETURN_IF_ERROR(SetScales("scales", {Groups(), matrix_.rows}));
  RETURN_IF_ERROR(SetZeros("qzeros", {Groups(), CeilDiv(matrix_.rows, per_word)}));
  return SetOrder("g_idx");
}

absl::Status PackedBuilder::Awq() {
  ASSIGN_OR_RETURN(const HfLeaf codes, Codes("qweight", SafetensorsType::kI32));
  matrix_.cols = codes.tensor->shape[0];
  matrix_.rows = codes.tensor->shape[1] * 8;
  RETURN_IF_ERROR(WantWholeGroups());
  RETURN_IF_ERROR(SetScales("scales", {Groups(), matrix_.rows}));
  return SetZeros("qzeros", {Groups(), codes.tensor->shape[1]});
}

absl::Status PackedBuilder::Packed() {
  const int64_t per_word = scheme_.type == WeightType::kPacked8 ? 4 : 8;
  ASSIGN_OR_RETURN(const HfLeaf codes, Codes("weight_packed", SafetensorsType::kI32));
  matrix_.rows = codes.tensor->shape[0];
  matrix_.cols = codes.tensor->shape[1] * per_word;
  if (const auto it = module_.leaves.find("weight_shape"); it != module_.leaves.end()) {
    const SafetensorsTensor& shape = *it->second.tensor;
    RETURN_IF_ERROR(WantShape(it->second, {2}));
    if (shape.type != SafetensorsType::kI64 && shape.type != SafetensorsType::kI32) {
      return LeafError(it->second, "is neither I64 nor I32");
    }
    const int64_t cols = ReadIndex(shape, 1);
    if (ReadIndex(shape, 0) != matrix_.rows || cols > matrix_.cols ||
        cols <= matrix_.cols - per_word) {
      return LeafError(it->second,
                       absl::StrCat("says [", ReadIndex(shape, 0), ", ", cols,
                                    "]; weight_packed has shape ", ShapeText(codes.tensor->shape)));
    }
    matrix_.cols = cols;
  }
  // Narrower than a group it is one group: old versions wrote that.
  if (matrix_.cols > scheme_.group_size) RETURN_IF_ERROR(WantWholeGroups());
  RETURN_IF_ERROR(SetScales("weight_scale", {matrix_.rows, Groups()}));
  RETURN_IF_ERROR(SetZeros("weight_zero_point", {CeilDiv(matrix_.rows, per_word), Groups()}));
  return SetOrder("weight_g_idx");
}

absl::Status PackedBuilder::Int8() {
  ASSIGN_OR_RETURN(const HfLeaf codes, Codes("weight", SafetensorsType::kI8));
  matrix_.rows = codes.tensor->shape[0];
  matrix_.cols = codes.tensor->shape[1];
  groups_.symmetric = true;
  const auto scale = module_.leaves.find("weight_scale");
  const bool flat = scale != module_.leaves.end() && scale->second.tensor->shape.size() == 1;
  return SetScales("weight_scale", flat ? std::vector<int64_t>{matrix_.rows}
                                        : std::vector<int64_t>{matrix_.rows, 1});
}

absl::StatusOr<RawTensor> PackedBuilder::Run(std::deque<RawGroups>* groups) {
  matrix_.type = scheme_.type;
  std::vector<const char*> made_of;
  switch (scheme_.type) {
    case WeightType::kAwq4:
      RETURN_IF_ERROR(Awq());
      made_of = {"qweight", "qzeros", "scales"};
      break;
    case WeightType::kPacked4:
    case WeightType::kPacked8:
      RETURN_IF_ERROR(Packed());
      made_of = {"weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx",
                 "weight_shape"};
      break;
    case WeightType::kInt8Channel:
      RETURN_IF_ERROR(Int8());
      made_of = {"weight", "weight_scale"};
      break;
    default:
      RETURN_IF_ERROR(Gptq());
      made_of = {"qweight", "qzeros", "scales", "g_idx"};
  }
  // A symmetric compressed-tensors module has no zero points to look at.
  groups_.group_size = scheme_.group_size;
  groups->push_back(groups_);
  matrix_.groups = &groups->back();
  if (const absl::Status right = kernels::CheckRaw(matrix_); !right.ok()) {
    return LeafError(codes_, std::string(right.message()));
  }
  for (const char* leaf : made_of) module_.leaves.erase(leaf);
  return RawTensor{matrix_, codes_.tensor->name, codes_.shard->file};
}

absl::StatusOr<RawTensor> Plain(const HfLeaf& leaf) {
  const std::optional<WeightType> type = PlainType(leaf.tensor->type);
  const std::vector<int64_t>& shape = leaf.tensor->shape;
  if (!type.has_value()) {
    return LeafError(leaf, absl::StrCat("is ", SafetensorsTypeName(leaf.tensor->type),
                                        ", which no weight here can be"));
  }
  if (shape.empty() || shape.size() > 2 || leaf.tensor->data.empty()) {
    return LeafError(
        leaf, absl::StrCat("has shape ", ShapeText(shape), "; it must be a vector or a matrix"));
  }
  RawTensor out;
  out.matrix.type = *type;
  out.matrix.rows = shape.size() == 2 ? shape[0] : 1;
  out.matrix.cols = shape.back();
  out.matrix.data = leaf.tensor->data.data();
  out.matrix.bytes = leaf.tensor->data.size();
  out.file_name = leaf.tensor->name;
  out.file = leaf.shard->file;
  return out;
}

}  // namespace

const SafetensorsTensor* HfModule::Find(std::string_view leaf) const {
  const auto it = leaves.find(leaf);
  return it == leaves.end() ? nullptr : it->second.tensor;
}

absl::Status LeafError(const HfLeaf& leaf, std::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(
      leaf.shard->file, ": tensor ", QuoteName(leaf.tensor->name), " ", std::string(why)));
}

absl::StatusOr<std::map<std::string, HfModule, std::less<>>> CollectModules(
    const HfSource& source) {
  std::map<std::string, HfModule, std::less<>> out;
  for (const HfShard& shard : source.shards) {
    for (const SafetensorsTensor& tensor : shard.tensors) {
      const size_t dot = tensor.name.rfind('.');
      const std::string name = dot == std::string::npos ? "" : tensor.name.substr(0, dot);
      HfModule& module = out[name];
      module.name = name;
      const HfLeaf leaf{&tensor, &shard};
      const std::string last = dot == std::string::npos ? tensor.name : tensor.name.substr(dot + 1);
      if (!module.leaves.emplace(last, leaf).second) {
        return LeafError(leaf, absl::StrCat("is in ", module.leaves[last].shard->file, " too"));
      }
    }
  }
  return out;
}

absl::StatusOr<RawTensor> TakeWeight(HfModule& module, const QuantScheme* scheme,
                                     std::deque<RawGroups>* groups) {
  const bool packed = module.Find("qweight") != nullptr ||
                      module.Find("weight_packed") != nullptr ||
                      module.Find("weight_scale") != nullptr;
  if (!packed) {
    const HfLeaf leaf = module.leaves.find("weight")->second;
    module.leaves.erase("weight");
    return Plain(leaf);
  }
  const HfLeaf& some = module.leaves.begin()->second;
  if (scheme == nullptr) {
    return LeafError(some, "is of a quantized module, but the configuration says it is dense");
  }
  const char* codes = "qweight";
  if (scheme->type == WeightType::kPacked4 || scheme->type == WeightType::kPacked8) {
    codes = "weight_packed";
  }
  if (scheme->type == WeightType::kInt8Channel) codes = "weight";
  if (module.Find(codes) == nullptr) {
    return LeafError(some, absl::StrCat("is of a module without '", codes,
                                        "', which the configuration makes it have"));
  }
  return PackedBuilder(module, *scheme).Run(groups);
}

absl::StatusOr<RawTensor> TakeVector(HfModule& module, std::string_view leaf_name) {
  const auto it = module.leaves.find(leaf_name);
  const HfLeaf leaf = it->second;
  ASSIGN_OR_RETURN(RawTensor out, Plain(leaf));
  if (out.matrix.rows != 1) return LeafError(leaf, "is no vector");
  module.leaves.erase(it);
  return out;
}

}  // namespace millrace::model
