#include "model/gguf_model.h"

#include <cmath>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/architectures.h"

namespace millrace::model {
namespace {

// Reads the keys of one architecture ("llama.block_count"). Thread: one caller.
class ArchKeys {
 public:
  ArchKeys(const GgufMetadata& metadata, std::string_view prefix)
      : metadata_(metadata), prefix_(prefix) {}

  std::string Key(std::string_view name) const {
    return absl::StrCat(prefix_, ".", std::string(name));
  }
  bool Has(std::string_view name) const { return metadata_.Has(Key(name)); }
  absl::Status Int(std::string_view name, int64_t* out) const {
    ASSIGN_OR_RETURN(*out, metadata_.Int(Key(name)));
    return absl::OkStatus();
  }
  absl::Status OptionalInt(std::string_view name, int64_t fallback, int64_t* out) const {
    *out = fallback;
    return Has(name) ? Int(name, out) : absl::OkStatus();
  }
  absl::Status Float(std::string_view name, double* out) const {
    ASSIGN_OR_RETURN(*out, metadata_.Float(Key(name)));
    return absl::OkStatus();
  }
  absl::Status OptionalFloat(std::string_view name, double fallback, double* out) const {
    *out = fallback;
    return Has(name) ? Float(name, out) : absl::OkStatus();
  }
  absl::Status Error(std::string_view name, std::string_view why) const {
    return absl::InvalidArgumentError(
        absl::StrCat(metadata_.file_name(), ": key ", QuoteName(Key(name)), " ", std::string(why)));
  }

 private:
  const GgufMetadata& metadata_;
  std::string prefix_;
};

// What would change the answers and is not computed here. Each is fine when absent or neutral.
absl::Status RefuseUnsupported(const ArchKeys& keys) {
  struct Neutral {
    const char* name;
    double value;
  };
  constexpr Neutral kNeutral[] = {
      {"expert_count", 0},
      {"expert_used_count", 0},
      {"attention.sliding_window", 0},
      {"attention.max_alibi_bias", 0},
      {"attention.clamp_kqv", 0},
      {"logit_scale", 1},
      {"residual_scale", 1},
      {"embedding_scale", 1},
      {"attn_logit_softcapping", 0},
      {"final_logit_softcapping", 0},
      {"rope.scaling.attn_factor", 1},
  };
  for (const Neutral& key : kNeutral) {
    if (!keys.Has(key.name)) continue;
    double value = 0;
    int64_t integer = 0;
    if (keys.Int(key.name, &integer).ok()) {
      value = static_cast<double>(integer);
    } else {
      RETURN_IF_ERROR(keys.Float(key.name, &value));
    }
    if (value != key.value) return keys.Error(key.name, "is not supported");
  }
  return absl::OkStatus();
}

absl::Status ReadRope(const ArchKeys& keys, const GgufMetadata& metadata, ModelConfig* config) {
  RopeConfig& rope = config->rope;
  RETURN_IF_ERROR(keys.OptionalFloat("rope.freq_base", 10000.0, &rope.freq_base));
  RETURN_IF_ERROR(keys.OptionalInt("rope.dimension_count", config->head_dim, &rope.rotary_dim));
  // The converter permutes the rows of q and k of this architecture, and of no other that we know,
  // so that pairs lie side by side (ggml's "NORM" order).
  rope.interleaved = config->architecture == "llama";
  std::string_view type = "none";
  if (keys.Has("rope.scaling.type")) {
    ASSIGN_OR_RETURN(type, metadata.String(keys.Key("rope.scaling.type")));
  }
  RETURN_IF_ERROR(keys.OptionalFloat("rope.scaling.factor", 1.0, &rope.factor));
  if (keys.Has("rope.scale_linear")) {  // the older name of a linear factor
    RETURN_IF_ERROR(keys.Float("rope.scale_linear", &rope.factor));
    type = "linear";
  }
  if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
  } else if (type != "none" && type != "") {
    return keys.Error("rope.scaling.type", absl::StrCat("is ", QuoteName(type),
                                                        "; only none and linear (llama3 scaling "
                                                        "comes as the tensor rope_freqs.weight)"));
  }
  return absl::OkStatus();
}

absl::Status ReadConfig(const GgufContents& contents, ModelConfig* config) {
  const GgufMetadata& metadata = contents.metadata;
  ASSIGN_OR_RETURN(const std::string_view architecture, metadata.String("general.architecture"));
  if (FindArchitecture(architecture) == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(metadata.file_name(), ": architecture ",
                                                   QuoteName(architecture), " is not supported (",
                                                   ArchitectureNames(), ")"));
  }
  config->architecture = std::string(architecture);
  const ArchKeys keys(metadata, architecture);
  RETURN_IF_ERROR(keys.Int("embedding_length", &config->hidden));
  RETURN_IF_ERROR(keys.Int("block_count", &config->layers));
  RETURN_IF_ERROR(keys.Int("feed_forward_length", &config->feed_forward));
  RETURN_IF_ERROR(keys.Int("context_length", &config->context_length));
  RETURN_IF_ERROR(keys.Int("attention.head_count", &config->heads));
  RETURN_IF_ERROR(keys.OptionalInt("attention.head_count_kv", config->heads, &config->kv_heads));
  RETURN_IF_ERROR(keys.Float("attention.layer_norm_rms_epsilon", &config->norm_eps));
  if (config->heads < 1) return keys.Error("attention.head_count", "must be at least 1");
  const int64_t even = config->hidden % config->heads == 0 ? config->hidden / config->heads : 0;
  RETURN_IF_ERROR(keys.OptionalInt("attention.key_length", even, &config->head_dim));
  if (config->head_dim == 0) {
    return keys.Error("attention.head_count", "does not divide the embedding length");
  }
  int64_t value_length = 0;
  RETURN_IF_ERROR(keys.OptionalInt("attention.value_length", config->head_dim, &value_length));
  if (value_length != config->head_dim) {
    return keys.Error("attention.value_length", "differs from the key length: not supported");
  }
  RETURN_IF_ERROR(ReadRope(keys, metadata, config));
  RETURN_IF_ERROR(RefuseUnsupported(keys));
  return absl::OkStatus();
}

// "blk.3.attn_q.weight" -> "layers.3.q"; a name that we do not know stays as it is, and the
// architecture refuses it.
std::string NeutralName(std::string_view name) {
  static constexpr std::pair<std::string_view, std::string_view> kGlobal[] = {
      {"token_embd.weight", "embedding"},
      {"output_norm.weight", "final_norm"},
      {"output.weight", "head"},
      {"rope_freqs.weight", "rope_factors"},
  };
  static constexpr std::pair<std::string_view, std::string_view> kLayer[] = {
      {"attn_norm.weight", "attn_norm"},
      {"attn_q.weight", "q"},
      {"attn_k.weight", "k"},
      {"attn_v.weight", "v"},
      {"attn_output.weight", "o"},
      {"ffn_norm.weight", "ffn_norm"},
      {"ffn_gate.weight", "gate"},
      {"ffn_up.weight", "up"},
      {"ffn_down.weight", "down"},
  };
  for (const auto& [from, to] : kGlobal) {
    if (name == from) return std::string(to);
  }
  if (name.substr(0, 4) != "blk.") return std::string(name);
  const std::string_view rest = name.substr(4);
  const size_t dot = rest.find('.');
  int32_t layer = 0;
  if (dot == std::string_view::npos || dot == 0 || dot > 4 || (dot > 1 && rest[0] == '0') ||
      rest.find_first_not_of("0123456789") != dot ||
      !absl::SimpleAtoi(std::string(rest.substr(0, dot)), &layer)) {
    return std::string(name);
  }
  for (const auto& [from, to] : kLayer) {
    if (rest.substr(dot + 1) == from) return LayerTensor(layer, to);
  }
  return std::string(name);
}

// "GGUF Q4_1, Q8_0 embedding": the type of most bytes of the layers, and the embedding's.
std::string FormatName(const ModelDescription& description) {
  std::map<kernels::WeightType, size_t> bytes;
  for (const auto& item : description.tensors) {
    if (item.first.rfind("layers.", 0) == 0) {
      bytes[item.second.matrix.type] += item.second.matrix.bytes;
    }
  }
  kernels::WeightType most = kernels::WeightType::kF32;
  size_t best = 0;
  for (const auto& [type, count] : bytes) {
    if (count > best) {
      best = count;
      most = type;
    }
  }
  std::string out = absl::StrCat("GGUF ", kernels::WeightTypeName(most));
  const auto embedding = description.tensors.find("embedding");
  if (embedding != description.tensors.end() && embedding->second.matrix.type != most) {
    absl::StrAppend(&out, ", ", kernels::WeightTypeName(embedding->second.matrix.type),
                    " embedding");
  }
  return out;
}

}  // namespace

absl::StatusOr<ModelDescription> DescribeGguf(const GgufContents& contents) {
  const GgufMetadata& metadata = contents.metadata;
  const std::string& file = metadata.file_name();
  if (metadata.Has("split.count")) {
    ASSIGN_OR_RETURN(const int64_t parts, metadata.Int("split.count"));
    if (parts != 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": key 'split.count' is ", parts, "; split files are not supported"));
    }
  }
  ModelDescription out;
  out.source = file;
  RETURN_IF_ERROR(ReadConfig(contents, &out.config));
  for (const GgufTensor& tensor : contents.tensors) {
    RawTensor raw{tensor.matrix, std::string(tensor.name), {}};
    if (tensor.dims > 2) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": tensor ", QuoteName(tensor.name),
                                                     " has ", tensor.dims,
                                                     " dimensions; at most 2"));
    }
    // Two file names cannot give one neutral name: the mapping is one to one.
    out.tensors.emplace(NeutralName(tensor.name), std::move(raw));
  }
  ModelConfig& config = out.config;
  config.tied_embeddings = !out.tensors.contains("head");
  const auto embedding = out.tensors.find("embedding");
  if (embedding != out.tensors.end()) config.vocab_size = embedding->second.matrix.rows;
  if (const std::string key = config.architecture + ".vocab_size"; metadata.Has(key)) {
    ASSIGN_OR_RETURN(const int64_t promised, metadata.Int(key));
    if (promised != config.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": key ", QuoteName(key), " is ",
                                                     promised, ", but the embedding has ",
                                                     config.vocab_size, " rows"));
    }
  }
  if (const auto factors = out.tensors.find("rope_factors"); factors != out.tensors.end()) {
    const kernels::RawMatrix& matrix = factors->second.matrix;
    if (matrix.rows != 1 || matrix.cols != config.rope.rotary_dim / 2) {
      return absl::InvalidArgumentError(absl::StrCat(
          file, ": tensor 'rope_freqs.weight' is not a vector of half the rotary size"));
    }
    config.rope.freq_factors.resize(static_cast<size_t>(matrix.cols));
    kernels::DequantizeRawRow(matrix, 0, config.rope.freq_factors.data());
    out.tensors.erase(factors);
  }
  if (absl::Status valid = ValidateConfig(config); !valid.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", std::string(valid.message())));
  }
  RETURN_IF_ERROR(FindArchitecture(config.architecture)->check(out));
  RETURN_IF_ERROR(CheckTokenizerKeys(metadata, config.vocab_size));
  out.format = FormatName(out);
  return out;
}

}  // namespace millrace::model
