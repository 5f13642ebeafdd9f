#include "model/gguf_model.h"

#include <map>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/complete_description.h"
#include "model/gguf_config.h"
#include "model/gguf_split.h"

namespace millrace::model {
namespace {

// "blk.3.attn_q.weight" -> "layers.3.q"; a name that we do not know stays as it is, and the
// architecture refuses it.
std::string NeutralName(std::string_view name) {
  static constexpr std::pair<std::string_view, std::string_view> kGlobal[] = {
      {"token_embd.weight", "embedding"},
      {"output_norm.weight", "final_norm"},
      {"output.weight", "head"},
      {"rope_freqs.weight", "rope_factors"},
      {"rope_factors_short.weight", "rope_short"},
      {"rope_factors_long.weight", "rope_long"},
  };
  static constexpr std::pair<std::string_view, std::string_view> kLayer[] = {
      {"attn_norm.weight", "attn_norm"},
      {"attn_q.weight", "q"},
      {"attn_k.weight", "k"},
      {"attn_v.weight", "v"},
      {"attn_qkv.weight", "qkv"},
      {"attn_output.weight", "o"},
      {"attn_q.bias", "q_bias"},
      {"attn_k.bias", "k_bias"},
      {"attn_v.bias", "v_bias"},
      {"attn_output.bias", "o_bias"},
      {"attn_q_norm.weight", "q_norm"},
      {"attn_k_norm.weight", "k_norm"},
      {"post_attention_norm.weight", "attn_post_norm"},
      {"post_ffw_norm.weight", "ffn_post_norm"},
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

// Takes a vector of half the rotary size out of the tensors; empty: there is none.
absl::Status TakeFactors(const char* name, ModelDescription* out, std::vector<float>* factors) {
  const auto it = out->tensors.find(name);
  if (it == out->tensors.end()) return absl::OkStatus();
  const kernels::RawMatrix& matrix = it->second.matrix;
  if (matrix.rows != 1 || matrix.cols != out->config.rope.rotary_dim / 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(TensorPlace(*out, it->second), " is not a vector of half the rotary size"));
  }
  factors->resize(static_cast<size_t>(matrix.cols));
  kernels::DequantizeRawRow(matrix, 0, factors->data());
  out->tensors.erase(it);
  return absl::OkStatus();
}

absl::Status TakeRopeTensors(const GgufMetadata& metadata, ModelDescription* out) {
  RETURN_IF_ERROR(TakeFactors("rope_factors", out, &out->config.rope.freq_factors));
  std::vector<float> short_factors;
  std::vector<float> long_factors;
  RETURN_IF_ERROR(TakeFactors("rope_short", out, &short_factors));
  RETURN_IF_ERROR(TakeFactors("rope_long", out, &long_factors));
  if (short_factors.empty() && long_factors.empty()) return absl::OkStatus();
  if (short_factors.empty() || long_factors.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(out->source, ": tensor 'rope_factors_",
                                                   short_factors.empty() ? "short" : "long",
                                                   ".weight' is missing"));
  }
  return ReadGgufLongRope(metadata, std::move(short_factors), std::move(long_factors),
                          &out->config);
}

// Fused matrices become views of their rows. Phi-3's files call gate and up together "ffn_up".
absl::Status SplitFused(ModelDescription* out) {
  const ModelConfig& c = out->config;
  const int64_t kv = c.kv_heads * c.head_dim;
  struct Part {
    const char* name;
    int64_t rows;
  };
  const std::pair<const char*, std::vector<Part>> kinds[] = {
      {"qkv", {{"q", c.heads * c.head_dim}, {"k", kv}, {"v", kv}}},
      {"up", {{"gate", c.feed_forward}, {"up", c.feed_forward}}}};
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    for (const auto& [fused, parts] : kinds) {
      const auto it = out->tensors.find(LayerTensor(layer, fused));
      if (it == out->tensors.end()) continue;
      int64_t rows = 0;
      for (const Part& part : parts) rows += part.rows;
      const RawTensor whole = it->second;
      const bool gate = fused == std::string_view("up");
      if (gate && out->tensors.contains(LayerTensor(layer, "gate"))) continue;
      if (whole.matrix.rows != rows) {
        if (gate) continue;  // a missing gate, which the architecture will tell
        return absl::InvalidArgumentError(absl::StrCat(TensorPlace(*out, whole), " has ",
                                                       whole.matrix.rows,
                                                       " rows; the configuration needs ", rows));
      }
      out->tensors.erase(it);
      int64_t first = 0;
      for (const Part& part : parts) {
        RawTensor view = whole;
        view.matrix = RowRange(whole.matrix, first, part.rows, nullptr);
        first += part.rows;
        if (!out->tensors.emplace(LayerTensor(layer, part.name), std::move(view)).second) {
          return absl::InvalidArgumentError(
              absl::StrCat(TensorPlace(*out, whole), " stands beside its own parts"));
        }
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckVocabulary(const GgufMetadata& metadata, const ModelConfig& config) {
  const std::string key = config.architecture + ".vocab_size";
  if (!metadata.Has(key)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int64_t promised, metadata.Int(key));
  if (promised == config.vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(metadata.file_name(), ": key ", QuoteName(key),
                                                 " is ", promised, ", but the embedding has ",
                                                 config.vocab_size, " rows"));
}

}  // namespace

absl::StatusOr<ModelDescription> DescribeGguf(const GgufContents& contents) {
  const GgufMetadata& metadata = contents.metadata;
  const std::string& file = metadata.file_name();
  RETURN_IF_ERROR(CheckGgufParts(contents));
  ModelDescription out;
  out.source = file;
  ModelConfig& config = out.config;
  RETURN_IF_ERROR(ReadGgufConfig(metadata, &config));
  for (const GgufTensor& tensor : contents.tensors) {
    RawTensor raw{tensor.matrix, std::string(tensor.name), contents.FileOf(tensor)};
    if (tensor.dims > 2) {
      return absl::InvalidArgumentError(
          absl::StrCat(TensorPlace(out, raw), " has ", tensor.dims, " dimensions; at most 2"));
    }
    // Two file names cannot give one neutral name: the mapping is one to one.
    out.tensors.emplace(NeutralName(tensor.name), std::move(raw));
  }
  config.tied_embeddings = !out.tensors.contains("head");
  config.qkv_bias = out.tensors.contains(LayerTensor(0, "q_bias"));
  config.o_bias = out.tensors.contains(LayerTensor(0, "o_bias"));
  const auto embedding = out.tensors.find("embedding");
  if (embedding != out.tensors.end()) config.vocab_size = embedding->second.matrix.rows;
  RETURN_IF_ERROR(CheckVocabulary(metadata, config));
  RETURN_IF_ERROR(TakeRopeTensors(metadata, &out));
  RETURN_IF_ERROR(SplitFused(&out));
  RETURN_IF_ERROR(CompleteDescription(file, &out));
  RETURN_IF_ERROR(CheckTokenizerKeys(metadata, config.vocab_size));
  out.format = FormatName(out);
  return out;
}

}  // namespace millrace::model
