#include "model/hf_model.h"

#include <cstring>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/complete_description.h"
#include "model/gguf.h"
#include "model/hf_config.h"
#include "model/hf_modules.h"

namespace millrace::model {
namespace {

// A matrix that the configuration may have quantized, a vector, or the embedding.
enum class Kind : uint8_t { kLinear, kNorm, kEmbedding };

struct ModuleRow {
  std::string_view hf;
  std::string_view neutral;  // "qkv" and "gate_up" are split
  Kind kind;
};

constexpr ModuleRow kGlobal[] = {
    {"model.embed_tokens", "embedding", Kind::kEmbedding},
    {"model.norm", "final_norm", Kind::kNorm},
    {"lm_head", "head", Kind::kLinear},
};

// After "model.layers.N.".
constexpr ModuleRow kLayer[] = {
    {"self_attn.q_proj", "q", Kind::kLinear},
    {"self_attn.k_proj", "k", Kind::kLinear},
    {"self_attn.v_proj", "v", Kind::kLinear},
    {"self_attn.qkv_proj", "qkv", Kind::kLinear},
    {"self_attn.o_proj", "o", Kind::kLinear},
    {"self_attn.q_norm", "q_norm", Kind::kNorm},
    {"self_attn.k_norm", "k_norm", Kind::kNorm},
    {"mlp.gate_proj", "gate", Kind::kLinear},
    {"mlp.up_proj", "up", Kind::kLinear},
    {"mlp.gate_up_proj", "gate_up", Kind::kLinear},
    {"mlp.down_proj", "down", Kind::kLinear},
    {"input_layernorm", "attn_norm", Kind::kNorm},
    // With a norm after attention too, this is that one, and the feed-forward's has its own name.
    {"post_attention_layernorm", "ffn_norm", Kind::kNorm},
    {"pre_feedforward_layernorm", "ffn_norm", Kind::kNorm},
    {"post_feedforward_layernorm", "ffn_post_norm", Kind::kNorm},
};

struct Place {
  int64_t layer = -1;  // -1: none
  ModuleRow row;
  std::string Name(std::string_view name) const {
    return layer < 0 ? std::string(name) : LayerTensor(layer, name);
  }
};

// "model.layers.7.mlp.up_proj" -> layer 7, "up".
std::optional<Place> PlaceOf(std::string_view module, bool sandwich) {
  for (const ModuleRow& row : kGlobal) {
    if (module == row.hf) return Place{-1, row};
  }
  constexpr std::string_view kPrefix = "model.layers.";
  if (module.substr(0, kPrefix.size()) != kPrefix) return std::nullopt;
  const std::string_view rest = module.substr(kPrefix.size());
  const size_t dot = rest.find('.');
  int32_t layer = 0;
  if (dot == std::string_view::npos || dot == 0 || dot > 4 || (dot > 1 && rest[0] == '0') ||
      rest.find_first_not_of("0123456789") != dot ||
      !absl::SimpleAtoi(std::string(rest.substr(0, dot)), &layer)) {
    return std::nullopt;
  }
  for (ModuleRow row : kLayer) {
    if (rest.substr(dot + 1) != row.hf) continue;
    if (row.hf == "post_attention_layernorm" && sandwich) row.neutral = "attn_post_norm";
    return Place{layer, row};
  }
  return std::nullopt;
}

// Old exports store these; they follow from the configuration, and nobody reads them.
bool IsDerived(std::string_view module, std::string_view leaf) {
  constexpr std::string_view kRotary = ".rotary_emb";
  return leaf == "inv_freq" && module.size() > kRotary.size() &&
         module.substr(module.size() - kRotary.size()) == kRotary;
}

bool AllZero(const kernels::RawMatrix& vector) {
  std::vector<float> values(static_cast<size_t>(vector.cols));
  kernels::DequantizeRawRow(vector, 0, values.data());
  for (float value : values) {
    if (value != 0) return false;
  }
  return true;
}

// Columns [first, first + size) of a plain vector.
kernels::RawMatrix Slice(const kernels::RawMatrix& vector, int64_t first, int64_t size) {
  kernels::RawMatrix out = vector;
  const size_t width = vector.bytes / static_cast<size_t>(vector.cols);
  out.cols = size;
  out.data = static_cast<const std::byte*>(vector.data) + static_cast<size_t>(first) * width;
  out.bytes = static_cast<size_t>(size) * width;
  return out;
}

// Thread: one caller.
class HfReader {
 public:
  HfReader(const HfSource& source, std::deque<kernels::RawGroups>* groups)
      : source_(source), groups_(groups) {}

  absl::StatusOr<ModelDescription> Run();

 private:
  // A part of a fused matrix.
  struct Part {
    const char* name;
    int64_t rows;
  };

  absl::Status ReadConfig();
  absl::Status TakeModule(HfModule& module);
  absl::StatusOr<const QuantScheme*> SchemeOf(const HfModule& module, const Place& place) const;
  absl::Status AddWeight(const Place& place, RawTensor weight);
  absl::Status AddBias(HfModule& module, const Place& place);
  std::vector<Part> PartsOf(std::string_view fused) const;
  bool HasBias(std::string_view name) const;
  absl::Status ReadHead();
  absl::Status Finish();
  std::string FormatName() const;

  const HfSource& source_;
  std::deque<kernels::RawGroups>* groups_;
  std::optional<HfQuantization> quantization_;
  ModelDescription out_;
};

absl::Status HfReader::ReadConfig() {
  ASSIGN_OR_RETURN(HfConfig read, ReadHfConfig(source_.config, source_.config_file));
  out_.source = source_.path;
  out_.config = std::move(read.config);
  out_.ignored = std::move(read.ignored);
  if (!source_.quantization_file.empty()) {
    ASSIGN_OR_RETURN(quantization_,
                     HfQuantization::Read(source_.quantization, source_.quantization_file));
  }
  if (!source_.generation_file.empty()) {
    std::vector<int32_t> ends;
    RETURN_IF_ERROR(ReadEndTokens(source_.generation, source_.generation_file, &ends));
    // What generation stops at is said here; config.json's is of the training.
    if (!ends.empty()) out_.config.end_tokens = std::move(ends);
  }
  return absl::OkStatus();
}

std::vector<HfReader::Part> HfReader::PartsOf(std::string_view fused) const {
  const ModelConfig& c = out_.config;
  if (fused == "qkv") {
    const int64_t kv = c.kv_heads * c.head_dim;
    return {{"q", c.heads * c.head_dim}, {"k", kv}, {"v", kv}};
  }
  if (fused == "gate_up") return {{"gate", c.feed_forward}, {"up", c.feed_forward}};
  return {};
}

bool HfReader::HasBias(std::string_view name) const {
  if (name == "o") return out_.config.o_bias;
  const bool projection = name == "q" || name == "k" || name == "v" || name == "qkv";
  return projection && out_.config.qkv_bias;
}

absl::StatusOr<const QuantScheme*> HfReader::SchemeOf(const HfModule& module,
                                                      const Place& place) const {
  if (!quantization_.has_value() || place.row.kind != Kind::kLinear) return nullptr;
  return quantization_->SchemeOf(module.name);
}

absl::Status HfReader::AddWeight(const Place& place, RawTensor weight) {
  const std::vector<Part> parts = PartsOf(place.row.neutral);
  if (parts.empty()) {
    const std::string name = place.Name(place.row.neutral);
    if (out_.tensors.emplace(name, weight).second) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(TensorPlace(out_, weight), " means the same as ",
                                                   QuoteName(out_.tensors[name].file_name)));
  }
  int64_t rows = 0;
  for (const Part& part : parts) rows += part.rows;
  if (rows != weight.matrix.rows) {
    return absl::InvalidArgumentError(absl::StrCat(TensorPlace(out_, weight), " has ",
                                                   weight.matrix.rows,
                                                   " rows; the configuration needs ", rows));
  }
  int64_t first = 0;
  for (const Part& part : parts) {
    RawTensor view = weight;
    if (weight.matrix.groups != nullptr) groups_->emplace_back();
    view.matrix = RowRange(weight.matrix, first, part.rows,
                           weight.matrix.groups != nullptr ? &groups_->back() : nullptr);
    RETURN_IF_ERROR(AddWeight({place.layer, {"", part.name, place.row.kind}}, std::move(view)));
    first += part.rows;
  }
  return absl::OkStatus();
}

// Packers write biases of zeros where there are none; only those may go.
absl::Status HfReader::AddBias(HfModule& module, const Place& place) {
  ASSIGN_OR_RETURN(RawTensor bias, TakeVector(module, "bias"));
  const std::string_view name = place.row.neutral;
  if (!HasBias(name)) {
    if (AllZero(bias.matrix)) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        TensorPlace(out_, bias), " is a bias, but the configuration says that there is none"));
  }
  const std::vector<Part> parts = PartsOf(name);
  if (parts.empty()) {
    out_.tensors.emplace(place.Name(absl::StrCat(std::string(name), "_bias")), std::move(bias));
    return absl::OkStatus();
  }
  int64_t size = 0;
  for (const Part& part : parts) size += part.rows;
  if (size != bias.matrix.cols) {
    return absl::InvalidArgumentError(absl::StrCat(TensorPlace(out_, bias), " has ",
                                                   bias.matrix.cols,
                                                   " values; the configuration needs ", size));
  }
  int64_t first = 0;
  for (const Part& part : parts) {
    RawTensor view = bias;
    view.matrix = Slice(bias.matrix, first, part.rows);
    out_.tensors.emplace(place.Name(absl::StrCat(part.name, "_bias")), std::move(view));
    first += part.rows;
  }
  return absl::OkStatus();
}

absl::Status HfReader::TakeModule(HfModule& module) {
  for (auto it = module.leaves.begin(); it != module.leaves.end();) {
    it = IsDerived(module.name, it->first) ? module.leaves.erase(it) : std::next(it);
  }
  if (module.leaves.empty()) return absl::OkStatus();
  const bool sandwich = out_.config.norm_offset != 0;  // Gemma, which alone has it, has both
  const std::optional<Place> place = PlaceOf(module.name, sandwich);
  if (place.has_value()) {
    const bool any = module.Find("weight") != nullptr || module.Find("qweight") != nullptr ||
                     module.Find("weight_packed") != nullptr;
    ASSIGN_OR_RETURN(const QuantScheme* scheme, SchemeOf(module, *place));
    if (any) {
      const HfLeaf first = module.leaves.begin()->second;
      ASSIGN_OR_RETURN(RawTensor weight, TakeWeight(module, scheme, groups_));
      if (scheme != nullptr && weight.matrix.groups == nullptr &&
          !quantization_->DenseUnlessPacked()) {
        return LeafError(first, "is dense, but the configuration says it is quantized");
      }
      RETURN_IF_ERROR(AddWeight(*place, std::move(weight)));
    }
    if (place->row.kind == Kind::kLinear && module.Find("bias") != nullptr) {
      RETURN_IF_ERROR(AddBias(module, *place));
    }
  }
  if (module.leaves.empty()) return absl::OkStatus();
  return LeafError(module.leaves.begin()->second,
                   absl::StrCat("is not part of architecture '", out_.config.architecture,
                                "' as this node computes it; leaving it out would change the "
                                "answers"));
}

// A head that is stored although it is the embedding must be the embedding.
absl::Status HfReader::ReadHead() {
  const auto head = out_.tensors.find("head");
  if (!out_.config.tied_embeddings || head == out_.tensors.end()) return absl::OkStatus();
  const auto embedding = out_.tensors.find("embedding");
  if (embedding == out_.tensors.end()) return absl::OkStatus();  // said by the architecture
  const kernels::RawMatrix& a = head->second.matrix;
  const kernels::RawMatrix& b = embedding->second.matrix;
  if (a.type != b.type || a.rows != b.rows || a.cols != b.cols || a.groups != nullptr ||
      std::memcmp(a.data, b.data, a.bytes) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        TensorPlace(out_, head->second), " differs from ", QuoteName(embedding->second.file_name),
        ", but the configuration says that they are tied"));
  }
  out_.tensors.erase(head);
  return absl::OkStatus();
}

// "GPTQ 4-bit g128, BF16 head"; "safetensors BF16".
std::string HfReader::FormatName() const {
  const auto type_of = [this](const char* name) {
    const auto it = out_.tensors.find(name);
    return it == out_.tensors.end() ? std::string()
                                    : std::string(kernels::WeightTypeName(it->second.matrix.type));
  };
  if (!quantization_.has_value()) return absl::StrCat("safetensors ", type_of("embedding"));
  const bool tied = out_.config.tied_embeddings;
  const std::string head = type_of(tied ? "embedding" : "head");
  return absl::StrCat(quantization_->Name(), ", ", head, tied ? " embedding" : " head");
}

absl::Status HfReader::Finish() {
  RETURN_IF_ERROR(ReadHead());
  RETURN_IF_ERROR(CompleteDescription(source_.config_file, &out_));
  out_.format = FormatName();
  return absl::OkStatus();
}

absl::StatusOr<ModelDescription> HfReader::Run() {
  RETURN_IF_ERROR(ReadConfig());
  ASSIGN_OR_RETURN(auto modules, CollectModules(source_));
  for (auto& item : modules) RETURN_IF_ERROR(TakeModule(item.second));
  RETURN_IF_ERROR(Finish());
  return std::move(out_);
}

}  // namespace

absl::StatusOr<ModelDescription> DescribeHf(const HfSource& source,
                                            std::deque<kernels::RawGroups>* groups) {
  return HfReader(source, groups).Run();
}

}  // namespace millrace::model
