#include "model/hf_config.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/architectures.h"
#include "model/gguf.h"
#include "model/hf_keys.h"

namespace millrace::model {
namespace {

// What transformers 5.23 takes for keys that a config.json leaves out. -1: no default, or as many
// as another key says.
struct Family {
  const char* model_type;
  const char* architecture;  // neutral
  int64_t kv_heads;
  int64_t head_dim;
  int64_t context;
  double norm_eps;
  const char* activation_key;
  const char* activation;
  bool tied;
  bool attention_bias_key;  // the class has the key; without it biases are a fixed trait
  int64_t window;           // used when the key is absent; null means none
};

constexpr Family kFamilies[] = {
    {"llama", "llama", -1, -1, 2048, 1e-6, "hidden_act", "silu", false, true, 0},
    {"mistral", "mistral", 8, -1, 131072, 1e-6, "hidden_act", "silu", false, false, 4096},
    {"qwen2", "qwen2", 32, -1, 32768, 1e-6, "hidden_act", "silu", false, false, 0},
    {"qwen3", "qwen3", 32, 128, 32768, 1e-6, "hidden_act", "silu", false, true, 0},
    {"phi3", "phi3", -1, -1, 4096, 1e-5, "hidden_act", "silu", false, false, 0},
    {"gemma2", "gemma2", 4, 256, 8192, 1e-6, "hidden_activation", "gelu_pytorch_tanh", true, true,
     4096},
    {"gemma3_text", "gemma3", 4, 256, 131072, 1e-6, "hidden_activation", "gelu_pytorch_tanh", true,
     true, 4096},
};

std::string FamilyNames() {
  std::string out;
  for (const Family& family : kFamilies) {
    absl::StrAppend(&out, out.empty() ? "" : ", ", family.model_type);
  }
  return out;
}

bool IsGemma(const Family& family) {
  return std::string_view(family.model_type).substr(0, 5) == "gemma";
}

// What would change the answers and is not computed here. Each is fine when absent or neutral.
absl::Status RefuseUnsupported(const HfKeys& keys) {
  const Json no = false;
  const Json zero = 0;
  const Json one = 1;
  struct Row {
    const char* key;
    JsonArray neutral;
  };
  const Row rows[] = {
      {"mlp_bias", {no}},
      {"pretraining_tp", {zero, one}},
      {"num_experts", {zero}},
      {"num_local_experts", {zero}},
      {"n_routed_experts", {zero}},
      {"num_nextn_predict_layers", {zero}},
      {"use_bidirectional_attention", {no}},
      {"attention_multiplier", {}},
      {"residual_multiplier", {one}},
      {"embedding_multiplier", {one}},
      {"logits_scaling", {one}},
      {"qk_layernorm", {no}},
      {"use_qk_norm", {no}},
      {"no_rope_layers", {}},
      {"attn_temperature_tuning", {no}},
      {"attention_chunk_size", {}},
      {"clip_qkv", {}},
      {"alibi", {no}},
      {"is_encoder_decoder", {no}},
      {"add_cross_attention", {no}},
      {"chunk_size_feed_forward", {zero}},
      {"vision_config", {}},
      {"audio_config", {}},
      {"text_config", {}},
      {"mrope_section", {}},
  };
  for (const Row& row : rows) RETURN_IF_ERROR(keys.Neutral(row.key, row.neutral));
  return absl::OkStatus();
}

// A list of positive numbers.
absl::Status ReadFactors(const HfKeys& keys, std::string_view key, std::vector<float>* out) {
  const Json* list = keys.Find(key);
  if (list == nullptr) return keys.Error(key, "is missing");
  if (!list->is_array()) return keys.Error(key, "is no list");
  for (const Json& entry : list->array()) {
    double value = 0;
    if (!entry.GetDouble(&value)) return keys.Error(key, "holds something that is no number");
    out->push_back(static_cast<float>(value));
  }
  return absl::OkStatus();
}

// The parts of the configuration that rope needs.
struct RopeContext {
  const Family* family;
  int64_t head_dim;
  int64_t context;   // max_position_embeddings
  int64_t original;  // of the whole configuration (Phi-3 keeps it there); 0: not there
  double theta;      // where the parameters have none
  double partial;
};

absl::Status ReadScaling(const HfKeys& keys, const RopeContext& context, RopeConfig* rope) {
  std::string type = "default";
  RETURN_IF_ERROR(keys.String("type", &type));  // the older name
  RETURN_IF_ERROR(keys.String("rope_type", &type));
  const std::string_view family = context.family->model_type;
  // Phi-3's own names for it, which its class reads as longrope.
  if (family == "phi3" && (type == "su" || type == "yarn")) type = "longrope";
  if (type == "default") return absl::OkStatus();

  rope->original_context = context.context;
  RETURN_IF_ERROR(keys.Int("original_max_position_embeddings", &rope->original_context));
  if (context.original > 0) rope->original_context = context.original;
  double factor = 0;
  RETURN_IF_ERROR(keys.Float("factor", &factor));
  const bool by_ratio = factor == 0 && rope->original_context > 0;
  if (type == "linear") {
    rope->scaling = RopeScaling::kLinear;
  } else if (type == "llama3") {
    rope->scaling = RopeScaling::kLlama3;
    if (!keys.Has("low_freq_factor")) return keys.Error("low_freq_factor", "is missing");
    if (!keys.Has("high_freq_factor")) return keys.Error("high_freq_factor", "is missing");
    RETURN_IF_ERROR(keys.Float("low_freq_factor", &rope->low_freq_factor));
    RETURN_IF_ERROR(keys.Float("high_freq_factor", &rope->high_freq_factor));
  } else if (type == "yarn") {
    rope->scaling = RopeScaling::kYarn;
    RETURN_IF_ERROR(keys.Float("beta_fast", &rope->beta_fast));
    RETURN_IF_ERROR(keys.Float("beta_slow", &rope->beta_slow));
    RETURN_IF_ERROR(keys.Bool("truncate", &rope->truncate));
    RETURN_IF_ERROR(keys.Float("mscale", &rope->mscale));
    RETURN_IF_ERROR(keys.Float("mscale_all_dim", &rope->mscale_all_dim));
    RETURN_IF_ERROR(keys.Float("attention_factor", &rope->attention_factor));
  } else if (type == "longrope") {
    rope->scaling = RopeScaling::kLongRope;
    RETURN_IF_ERROR(ReadFactors(keys, "short_factor", &rope->short_factors));
    RETURN_IF_ERROR(ReadFactors(keys, "long_factor", &rope->long_factors));
    RETURN_IF_ERROR(keys.Float("attention_factor", &rope->attention_factor));
  } else {
    return keys.Error("rope_type", absl::StrCat("is ", QuoteName(type),
                                                "; only default, linear, llama3, yarn and longrope "
                                                "are supported"));
  }
  const bool may_omit = type == "yarn" || type == "longrope";
  if (factor == 0 && !(may_omit && by_ratio)) return keys.Error("factor", "is missing");
  rope->factor = factor != 0 ? factor
                             : static_cast<double>(context.context) /
                                   static_cast<double>(rope->original_context);
  return absl::OkStatus();
}

absl::Status ReadRopeParameters(const HfKeys& keys, const RopeContext& context, RopeConfig* rope) {
  RETURN_IF_ERROR(keys.Neutral("mrope_section", {}));
  rope->freq_base = context.theta;
  RETURN_IF_ERROR(keys.Float("rope_theta", &rope->freq_base));
  double partial = context.partial;
  RETURN_IF_ERROR(keys.Float("partial_rotary_factor", &partial));
  if (!(partial > 0 && partial <= 1)) {
    return keys.Error("partial_rotary_factor", "must be above 0 and at most 1");
  }
  rope->rotary_dim = static_cast<int64_t>(static_cast<double>(context.head_dim) * partial);
  RETURN_IF_ERROR(ReadScaling(keys, context, rope));
  for (const std::string& key : keys.Unread()) {
    return keys.Error(key, "is no rope parameter that is known here");
  }
  return absl::OkStatus();
}

absl::Status CheckObject(const HfKeys& keys, std::string_view key, const Json* value) {
  return value == nullptr || value->is_object() ? absl::OkStatus()
                                                : keys.Error(key, "is no object");
}

// Gemma 3 has two sets of parameters: rope_scaling is of the global layers, and so is rope_theta;
// rope_local_base_freq is the local layers'. New style, each kind of layer has its object.
absl::Status ReadTwoRopes(const HfKeys& keys, RopeContext context, ModelConfig* config) {
  const Json empty = JsonObject{};
  const Json* nested = keys.Find("rope_parameters");
  const Json* scaling = keys.Find("rope_scaling");
  double local_theta = 10000.0;
  RETURN_IF_ERROR(keys.Float("rope_theta", &context.theta));
  RETURN_IF_ERROR(keys.Float("rope_local_base_freq", &local_theta));
  RETURN_IF_ERROR(CheckObject(keys, "rope_parameters", nested));
  RETURN_IF_ERROR(CheckObject(keys, "rope_scaling", scaling));
  const Json* full = nested == nullptr ? nullptr : nested->Find("full_attention");
  const Json* sliding = nested == nullptr ? nullptr : nested->Find("sliding_attention");
  if (nested != nullptr && full == nullptr && sliding == nullptr && !nested->object().empty()) {
    return keys.Error("rope_parameters", "names neither full_attention nor sliding_attention");
  }
  if (scaling != nullptr) {
    if (full != nullptr) return keys.Error("rope_scaling", "is there beside rope_parameters");
    full = scaling;
  }
  if (full == nullptr || full->is_null()) full = &empty;
  if (sliding == nullptr || sliding->is_null()) sliding = &empty;
  RETURN_IF_ERROR(CheckObject(keys, "rope_parameters.full_attention", full));
  RETURN_IF_ERROR(CheckObject(keys, "rope_parameters.sliding_attention", sliding));
  const HfKeys full_keys(*full, keys.file(), "rope_parameters.full_attention.");
  RETURN_IF_ERROR(ReadRopeParameters(full_keys, context, &config->rope));
  context.theta = local_theta;
  const HfKeys local_keys(*sliding, keys.file(), "rope_parameters.sliding_attention.");
  config->local_rope.emplace();
  return ReadRopeParameters(local_keys, context, &*config->local_rope);
}

absl::Status ReadRope(const HfKeys& keys, const Family& family, ModelConfig* config) {
  RopeContext context{&family, config->head_dim, config->context_length, 0, 10000.0, 1.0};
  RETURN_IF_ERROR(keys.Float("partial_rotary_factor", &context.partial));
  RETURN_IF_ERROR(keys.Int("original_max_position_embeddings", &context.original));
  if (family.architecture == std::string_view("gemma3")) {
    context.theta = 1e6;
    return ReadTwoRopes(keys, context, config);
  }
  RETURN_IF_ERROR(keys.Float("rope_theta", &context.theta));
  const Json empty = JsonObject{};
  const char* name = "rope_scaling";
  const Json* parameters = keys.Find(name);
  if (const Json* current = keys.Find("rope_parameters"); parameters == nullptr) {
    name = "rope_parameters";
    parameters = current;
  }
  if (parameters == nullptr) parameters = &empty;
  RETURN_IF_ERROR(CheckObject(keys, name, parameters));
  const HfKeys rope_keys(*parameters, keys.file(), absl::StrCat(name, "."));
  RETURN_IF_ERROR(ReadRopeParameters(rope_keys, context, &config->rope));
  // Yarn's own statement of how far it reaches: some files leave max_position_embeddings at the
  // length before it.
  const RopeConfig& rope = config->rope;
  if (rope.scaling == RopeScaling::kYarn) {
    const double reach = rope.factor * static_cast<double>(rope.original_context);
    if (reach > static_cast<double>(config->context_length) && reach <= kMaxContext) {
      config->context_length = static_cast<int64_t>(reach);
    }
  }
  return absl::OkStatus();
}

// Which layers are local: a list of names, or a rule of the family.
absl::Status ReadLocalLayers(const HfKeys& keys, const Family& family, ModelConfig* config) {
  const std::string_view type = family.model_type;
  const bool qwen = type == "qwen2" || type == "qwen3";
  config->window = family.window;
  if (keys.Mentions("sliding_window") && !keys.Has("sliding_window")) config->window = 0;
  // Llama's class has no window: whatever such a file says of one is not looked at.
  if (type != "llama") RETURN_IF_ERROR(keys.Int("sliding_window", &config->window));
  bool use = !qwen;
  RETURN_IF_ERROR(keys.Bool("use_sliding_window", &use));
  if (!use) config->window = 0;
  if (config->window < 0) return keys.Error("sliding_window", "is negative");
  int64_t first_local = 28;  // Qwen: layers from this one on
  RETURN_IF_ERROR(keys.Int("max_window_layers", &first_local));
  int64_t pattern = type == "gemma2" ? 2 : 6;
  RETURN_IF_ERROR(keys.Int("_sliding_window_pattern", &pattern));
  RETURN_IF_ERROR(keys.Int("sliding_window_pattern", &pattern));
  if (pattern < 1) return keys.Error("sliding_window_pattern", "must be at least 1");

  const Json* types = keys.Find("layer_types");
  if (types == nullptr) {
    if (IsGemma(family)) {
      config->local_layers = EveryNthGlobal(config->layers, pattern);
    } else if (qwen && config->window > 0) {
      for (int64_t i = 0; i < config->layers; ++i) {
        config->local_layers.push_back(i >= first_local ? 1 : 0);
      }
    }
  } else {
    if (!types->is_array() || static_cast<int64_t>(types->array().size()) != config->layers) {
      return keys.Error("layer_types", "is no list with an entry for each layer");
    }
    for (const Json& layer : types->array()) {
      const bool local = layer == Json("sliding_attention");
      if (!local && layer != Json("full_attention")) {
        return keys.Error("layer_types",
                          "holds something else than full_attention and sliding_attention");
      }
      config->local_layers.push_back(local ? 1 : 0);
    }
    const bool any = std::count(config->local_layers.begin(), config->local_layers.end(), 1) > 0;
    if (any && config->window == 0) {
      return keys.Error("layer_types", "has local layers, but there is no sliding_window");
    }
    // Classes without the key look at none.
    if (type == "llama" || type == "phi3" || type == "mistral") {
      if (any) return keys.Error("layer_types", "is not supported for this model_type");
      config->local_layers.clear();
    }
  }
  return absl::OkStatus();
}

// A window that no position can leave is none; so is one that no layer has. Gemma 3's local layers
// differ by their rope too.
void DropIdleWindow(ModelConfig* config) {
  const std::vector<uint8_t>& local = config->local_layers;
  const bool none = !local.empty() && std::count(local.begin(), local.end(), 1) == 0;
  const bool whole = config->window >= config->context_length && !config->local_rope.has_value();
  if (config->window > 0 && !none && !whole) return;
  config->window = 0;
  config->local_layers.clear();
}

absl::Status ReadAttention(const HfKeys& keys, const Family& family, ModelConfig* config) {
  std::string activation = family.activation;
  RETURN_IF_ERROR(keys.String(family.activation_key, &activation));
  if (activation != family.activation && !(activation == "swish" && !IsGemma(family))) {
    return keys.Error(family.activation_key, absl::StrCat("is ", QuoteName(activation), "; only ",
                                                          family.activation, " is supported"));
  }
  config->activation =
      IsGemma(family) ? kernels::Activation::kGeluTanh : kernels::Activation::kSilu;
  if (family.attention_bias_key) {
    bool bias = false;
    RETURN_IF_ERROR(keys.Bool("attention_bias", &bias));
    config->qkv_bias = config->o_bias = bias;
  } else {
    config->qkv_bias = family.model_type == std::string_view("qwen2");
  }
  if (!IsGemma(family)) {
    RETURN_IF_ERROR(keys.Neutral("attn_logit_softcapping", {}));
    return keys.Neutral("final_logit_softcapping", {});
  }
  const bool second = family.model_type == std::string_view("gemma2");
  double scalar = 256;
  RETURN_IF_ERROR(keys.Float("query_pre_attn_scalar", &scalar));
  if (!(scalar > 0)) return keys.Error("query_pre_attn_scalar", "must be above 0");
  config->query_scale = 1.0 / std::sqrt(scalar);
  config->norm_offset = 1;
  const auto cap = [&keys](const char* key, double fallback, double* out) {
    *out = keys.Mentions(key) ? 0 : fallback;
    return keys.Float(key, out);
  };
  RETURN_IF_ERROR(cap("attn_logit_softcapping", second ? 50 : 0, &config->attention_cap));
  return cap("final_logit_softcapping", second ? 30 : 0, &config->logit_cap);
}

absl::Status ReadSizes(const HfKeys& keys, const Family& family, ModelConfig* config) {
  struct Required {
    const char* key;
    int64_t* out;
  };
  const Required required[] = {{"hidden_size", &config->hidden},
                               {"num_hidden_layers", &config->layers},
                               {"num_attention_heads", &config->heads},
                               {"intermediate_size", &config->feed_forward},
                               {"vocab_size", &config->vocab_size}};
  for (const Required& row : required) {
    if (!keys.Has(row.key)) return keys.Error(row.key, "is missing");
    RETURN_IF_ERROR(keys.Int(row.key, row.out));
  }
  if (config->heads < 1) return keys.Error("num_attention_heads", "must be at least 1");
  // Everything below builds lists of this length.
  if (config->layers < 1 || config->layers > kMaxLayers) {
    return keys.Error("num_hidden_layers", absl::StrCat("must be from 1 to ", kMaxLayers));
  }
  config->kv_heads = config->heads;
  if (family.kv_heads > 0 && !keys.Mentions("num_key_value_heads")) {
    config->kv_heads = family.kv_heads;
  }
  RETURN_IF_ERROR(keys.Int("num_key_value_heads", &config->kv_heads));
  if (family.head_dim > 0) {
    config->head_dim = family.head_dim;
  } else if (config->hidden % config->heads == 0) {
    config->head_dim = config->hidden / config->heads;
  }
  RETURN_IF_ERROR(keys.Int("head_dim", &config->head_dim));
  if (config->head_dim < 1) return keys.Error("num_attention_heads", "do not divide hidden_size");
  config->context_length = family.context;
  RETURN_IF_ERROR(keys.Int("max_position_embeddings", &config->context_length));
  config->norm_eps = family.norm_eps;
  RETURN_IF_ERROR(keys.Float("rms_norm_eps", &config->norm_eps));
  config->tied_embeddings = family.tied;
  return keys.Bool("tie_word_embeddings", &config->tied_embeddings);
}

}  // namespace

absl::Status ReadEndTokens(const Json& root, const std::string& file, std::vector<int32_t>* out) {
  const HfKeys keys(root, file);
  const Json* value = keys.Find("eos_token_id");
  if (value == nullptr) return absl::OkStatus();
  constexpr size_t kMaxEnds = 64;
  const JsonArray one{*value};
  const JsonArray& list = value->is_array() ? value->array() : one;
  if (list.size() > kMaxEnds) return keys.Error("eos_token_id", "has more than 64 entries");
  for (const Json& entry : list) {
    int64_t id = 0;
    if (!entry.GetInt64(&id) || id < 0 || id > INT32_MAX) {
      return keys.Error("eos_token_id", "is no token id or list of token ids");
    }
    const int32_t token = static_cast<int32_t>(id);
    if (std::find(out->begin(), out->end(), token) == out->end()) out->push_back(token);
  }
  return absl::OkStatus();
}

absl::StatusOr<HfConfig> ReadHfConfig(const Json& root, const std::string& file) {
  const HfKeys keys(root, file);
  HfConfig out;
  RETURN_IF_ERROR(keys.String("model_type", &out.model_type));
  const Family* family =
      std::find_if(std::begin(kFamilies), std::end(kFamilies),
                   [&](const Family& row) { return out.model_type == row.model_type; });
  if (family == std::end(kFamilies)) {
    return keys.Error("model_type", absl::StrCat("is ", QuoteName(out.model_type),
                                                 ", which is not supported (", FamilyNames(), ")"));
  }
  ModelConfig& config = out.config;
  config.architecture = family->architecture;
  RETURN_IF_ERROR(ReadSizes(keys, *family, &config));
  RETURN_IF_ERROR(ReadAttention(keys, *family, &config));
  RETURN_IF_ERROR(ReadLocalLayers(keys, *family, &config));
  RETURN_IF_ERROR(ReadRope(keys, *family, &config));
  DropIdleWindow(&config);
  RETURN_IF_ERROR(RefuseUnsupported(keys));
  RETURN_IF_ERROR(ReadEndTokens(root, file, &config.end_tokens));
  keys.Find("quantization_config");  // read elsewhere
  keys.Find("architectures");
  keys.Find("eos_token_id");
  out.ignored = keys.Unread();
  return out;
}

}  // namespace millrace::model
