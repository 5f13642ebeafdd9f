#include "model/gguf_config.h"

#include <utility>

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
  const std::string& architecture() const { return prefix_; }
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
  // A number of either kind.
  absl::Status Number(std::string_view name, double* out) const {
    int64_t integer = 0;
    if (!Int(name, &integer).ok()) return Float(name, out);
    *out = static_cast<double>(integer);
    return absl::OkStatus();
  }
  const GgufMetadata& metadata() const { return metadata_; }
  absl::Status Error(std::string_view name, std::string_view why) const {
    return absl::InvalidArgumentError(
        absl::StrCat(metadata_.file_name(), ": key ", QuoteName(Key(name)), " ", std::string(why)));
  }

 private:
  const GgufMetadata& metadata_;
  std::string prefix_;
};

bool IsGemma(const ArchKeys& keys) {
  return keys.architecture() == "gemma2" || keys.architecture() == "gemma3";
}

// What would change the answers and is not computed here. Each is fine when absent or neutral.
absl::Status RefuseUnsupported(const ArchKeys& keys) {
  struct Neutral {
    const char* name;
    double value;
  };
  constexpr Neutral kNeutral[] = {
      {"expert_count", 0},
      {"expert_used_count", 0},
      {"attention.max_alibi_bias", 0},
      {"attention.clamp_kqv", 0},
      {"attention.scale", 0},
      {"attention.temperature_scale", 0},
      {"attention.temperature_length", 0},
      {"logit_scale", 1},
      {"residual_scale", 1},
      {"embedding_scale", 1},
      {"pooling_type", 0},
      {"nextn_predict_layers", 0},
      {"rope.scaling.yarn_ext_factor", 1},
      {"rope.scaling.yarn_log_multiplier", 0},
  };
  const auto check = [&keys](const char* name, double neutral) {
    if (!keys.Has(name)) return absl::OkStatus();
    double value = 0;
    RETURN_IF_ERROR(keys.Number(name, &value));
    return value == neutral ? absl::OkStatus() : keys.Error(name, "is not supported");
  };
  for (const Neutral& key : kNeutral) RETURN_IF_ERROR(check(key.name, key.value));
  if (!IsGemma(keys)) {
    RETURN_IF_ERROR(check("attn_logit_softcapping", 0));
    RETURN_IF_ERROR(check("final_logit_softcapping", 0));
  }
  // No converter writes a window for Qwen, and which layers it were of has no key.
  const std::string& name = keys.architecture();
  if (name == "qwen2" || name == "qwen3") {
    RETURN_IF_ERROR(check("attention.sliding_window", 0));
  }
  for (const char* key : {"rope.dimension_sections", "attention.key_length_swa"}) {
    if (keys.Has(key)) return keys.Error(key, "is not supported");
  }
  if (keys.Has("attention.causal")) {
    ASSIGN_OR_RETURN(const bool causal, keys.metadata().Bool(keys.Key("attention.causal")));
    if (!causal) return keys.Error("attention.causal", "is false, which is not supported");
  }
  return absl::OkStatus();
}

// Both names that writers use for what multiplies cosines and sines.
absl::Status ReadAttentionFactor(const ArchKeys& keys, double* out) {
  RETURN_IF_ERROR(keys.OptionalFloat("rope.scaling.yarn_attn_factor", 1.0, out));
  return keys.OptionalFloat("rope.scaling.attn_factor", *out, out);
}

absl::Status ReadScaling(const ArchKeys& keys, std::string_view type, RopeConfig* rope) {
  double attention_factor = 1.0;
  RETURN_IF_ERROR(ReadAttentionFactor(keys, &attention_factor));
  if (type == "linear") {
    rope->scaling = RopeScaling::kLinear;
  } else if (type == "yarn") {
    rope->scaling = RopeScaling::kYarn;
    RETURN_IF_ERROR(keys.Int("rope.scaling.original_context_length", &rope->original_context));
    RETURN_IF_ERROR(keys.OptionalFloat("rope.scaling.yarn_beta_fast", 32.0, &rope->beta_fast));
    RETURN_IF_ERROR(keys.OptionalFloat("rope.scaling.yarn_beta_slow", 1.0, &rope->beta_slow));
    if (attention_factor != 1.0) {
      // ggml multiplies yarn's own factor by it.
      rope->attention_factor = attention_factor * static_cast<double>(RopeAttentionFactor(*rope));
    }
    return absl::OkStatus();
  } else if (type == "longrope") {
    return absl::OkStatus();  // its two tensors say so
  } else if (type != "none" && type != "") {
    return keys.Error("rope.scaling.type",
                      absl::StrCat("is ", QuoteName(type),
                                   "; only none, linear, yarn and longrope (llama3 scaling comes "
                                   "as the tensor rope_freqs.weight)"));
  }
  // Phi-3's files have it without a type; longrope reads it when it sees the tensors.
  if (attention_factor != 1.0 && keys.architecture() != "phi3") {
    return keys.Error("rope.scaling.attn_factor", "is not supported without yarn or longrope");
  }
  return absl::OkStatus();
}

absl::Status ReadRope(const ArchKeys& keys, ModelConfig* config) {
  RopeConfig& rope = config->rope;
  const GgufMetadata& metadata = keys.metadata();
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
  RETURN_IF_ERROR(ReadScaling(keys, type, &rope));
  if (keys.Has("rope.freq_base_swa")) {
    if (!IsGemma(keys)) return keys.Error("rope.freq_base_swa", "is not supported");
    RopeConfig local;
    local.rotary_dim = rope.rotary_dim;
    RETURN_IF_ERROR(keys.Float("rope.freq_base_swa", &local.freq_base));
    config->local_rope = local;
  }
  return absl::OkStatus();
}

// The window, whose layers a list, a period or the family says.
absl::Status ReadWindow(const ArchKeys& keys, ModelConfig* config) {
  // Gemma 2's first files have no such key: llama.cpp takes the model's own number.
  const int64_t fallback = keys.architecture() == "gemma2" ? 4096 : 0;
  RETURN_IF_ERROR(keys.OptionalInt("attention.sliding_window", fallback, &config->window));
  constexpr char kPattern[] = "attention.sliding_window_pattern";
  if (!keys.Has(kPattern) || config->window == 0) return absl::OkStatus();
  int64_t period = 0;
  if (keys.Int(kPattern, &period).ok()) {
    if (period < 1) return keys.Error(kPattern, "must be at least 1");
    config->local_layers = EveryNthGlobal(config->layers, period);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::vector<double> local, keys.metadata().Numbers(keys.Key(kPattern)));
  if (static_cast<int64_t>(local.size()) != config->layers) {
    return keys.Error(
        kPattern, absl::StrCat("has ", local.size(), " entries for ", config->layers, " layers"));
  }
  for (double entry : local) config->local_layers.push_back(entry != 0 ? 1 : 0);
  return absl::OkStatus();
}

absl::Status ReadCaps(const ArchKeys& keys, ModelConfig* config) {
  if (!IsGemma(keys)) return absl::OkStatus();
  // Again what llama.cpp takes for files that came before the keys.
  const bool second = keys.architecture() == "gemma2";
  RETURN_IF_ERROR(
      keys.OptionalFloat("attn_logit_softcapping", second ? 50 : 0, &config->attention_cap));
  return keys.OptionalFloat("final_logit_softcapping", second ? 30 : 0, &config->logit_cap);
}

}  // namespace

absl::Status ReadGgufConfig(const GgufMetadata& metadata, ModelConfig* config) {
  ASSIGN_OR_RETURN(const std::string_view architecture, metadata.String("general.architecture"));
  // "mistral" is a name of ours: its files say llama.
  if (FindArchitecture(architecture) == nullptr || architecture == "mistral") {
    return absl::InvalidArgumentError(absl::StrCat(metadata.file_name(), ": architecture ",
                                                   QuoteName(architecture), " is not supported (",
                                                   ArchitectureNames(), ")"));
  }
  config->architecture = std::string(architecture);
  const ArchKeys keys(metadata, architecture);
  RETURN_IF_ERROR(keys.Int("embedding_length", &config->hidden));
  RETURN_IF_ERROR(keys.Int("block_count", &config->layers));
  if (config->layers < 1 || config->layers > kMaxLayers) {
    return keys.Error("block_count",
                      absl::StrCat("is ", config->layers, "; it must be from 1 to ", kMaxLayers));
  }
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
  RETURN_IF_ERROR(ReadRope(keys, config));
  RETURN_IF_ERROR(ReadWindow(keys, config));
  RETURN_IF_ERROR(ReadCaps(keys, config));
  return RefuseUnsupported(keys);
}

absl::Status ReadGgufLongRope(const GgufMetadata& metadata, std::vector<float> short_factors,
                              std::vector<float> long_factors, ModelConfig* config) {
  const ArchKeys keys(metadata, config->architecture);
  RopeConfig& rope = config->rope;
  if (rope.scaling != RopeScaling::kNone) {
    return keys.Error("rope.scaling.type", "stands beside the tensors of longrope");
  }
  rope.scaling = RopeScaling::kLongRope;
  rope.short_factors = std::move(short_factors);
  rope.long_factors = std::move(long_factors);
  RETURN_IF_ERROR(keys.Int("rope.scaling.original_context_length", &rope.original_context));
  if (rope.original_context < 1) {
    return keys.Error("rope.scaling.original_context_length", "must be at least 1");
  }
  rope.factor =
      static_cast<double>(config->context_length) / static_cast<double>(rope.original_context);
  double factor = 1.0;
  RETURN_IF_ERROR(ReadAttentionFactor(keys, &factor));
  const bool said =
      keys.Has("rope.scaling.attn_factor") || keys.Has("rope.scaling.yarn_attn_factor");
  if (said) rope.attention_factor = factor;
  return absl::OkStatus();
}

}  // namespace millrace::model
