#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "absl/strings/str_cat.h"

namespace millrace::model {
namespace {

struct Range {
  const char* what;
  int64_t value;
  int64_t low;
  int64_t high;
};

bool Positive(double value) {
  return std::isfinite(value) && value > 0;
}

bool Valid(const std::vector<float>& factors, int64_t size) {
  if (static_cast<int64_t>(factors.size()) != size) return false;
  for (float factor : factors) {
    if (!Positive(factor)) return false;
  }
  return true;
}

// The first rule of a scaling that is broken, or null.
const char* BrokenScalingRule(const RopeConfig& rope) {
  const bool original = rope.original_context >= 1 && rope.original_context <= kMaxContext;
  switch (rope.scaling) {
    case RopeScaling::kNone:
    case RopeScaling::kLinear:
      return nullptr;
    case RopeScaling::kLlama3:
      if (!Positive(rope.low_freq_factor) || !Positive(rope.high_freq_factor)) {
        return "llama3 rope: the frequency factors must be positive";
      }
      if (rope.high_freq_factor <= rope.low_freq_factor) {
        return "llama3 rope: the high frequency factor must exceed the low one";
      }
      return original ? nullptr : "llama3 rope: the original context length is out of range";
    case RopeScaling::kYarn:
      if (!Positive(rope.beta_fast) || !Positive(rope.beta_slow)) {
        return "yarn rope: beta_fast and beta_slow must be positive";
      }
      if (rope.freq_base <= 1.0) return "yarn rope: the frequency base must exceed 1";
      if (!(rope.mscale >= 0 && rope.mscale <= 100) ||
          !(rope.mscale_all_dim >= 0 && rope.mscale_all_dim <= 100)) {
        return "yarn rope: mscale and mscale_all_dim must be from 0 to 100";
      }
      return original ? nullptr : "yarn rope: the original context length is out of range";
    case RopeScaling::kLongRope:
      if (!Valid(rope.short_factors, rope.rotary_dim / 2) ||
          !Valid(rope.long_factors, rope.rotary_dim / 2)) {
        return "longrope: short and long factors must be positive, half the rotary size each";
      }
      // Its logarithm divides.
      return original && rope.original_context > 1
                 ? nullptr
                 : "longrope: the original context length is out of range";
  }
  return "unknown rope scaling";
}

// The first rule of rope that is broken, or null.
const char* BrokenRopeRule(const RopeConfig& rope, int64_t head_dim) {
  if (!(Positive(rope.freq_base) && rope.freq_base >= 1.0 && rope.freq_base <= 1e12)) {
    return "the rope frequency base must be from 1 to 1e12";
  }
  if (rope.rotary_dim < 2 || rope.rotary_dim % 2 != 0) return "the rotary size must be even";
  if (rope.rotary_dim > head_dim) return "the rotary size exceeds the head size";
  if (!(Positive(rope.factor) && rope.factor <= 1e6)) return "the rope factor must be positive";
  if (!(rope.attention_factor >= 0 && rope.attention_factor <= 100)) {
    return "the rope attention factor must be from 0 to 100";
  }
  if (!rope.freq_factors.empty() && !Valid(rope.freq_factors, rope.rotary_dim / 2)) {
    return "rope factors: they must be positive numbers, half the rotary size of them";
  }
  return BrokenScalingRule(rope);
}

// The first rule of attention and of the scales that is broken, or null.
const char* BrokenLayerRule(const ModelConfig& config) {
  if (config.window < 0 || config.window > kMaxContext) return "the window is out of range";
  if (!config.local_layers.empty() &&
      static_cast<int64_t>(config.local_layers.size()) != config.layers) {
    return "the list of local layers has not one entry a layer";
  }
  if (!config.local_layers.empty() && config.window == 0 &&
      std::count(config.local_layers.begin(), config.local_layers.end(), 0) != config.layers) {
    return "some layers are local, but there is no window";
  }
  const double scales[] = {config.query_scale, config.attention_cap, config.logit_cap,
                           config.embedding_scale};
  for (double scale : scales) {
    if (!(scale >= 0 && scale <= 1e6)) {
      return "query scale, soft caps and embedding scale must be from 0 to 1e6";
    }
  }
  if (config.norm_offset != 0 && config.norm_offset != 1) return "the norm offset must be 0 or 1";
  for (int32_t token : config.end_tokens) {
    if (token < 0 || token >= config.vocab_size) return "an end token is not in the vocabulary";
  }
  return nullptr;
}

}  // namespace

absl::Status ValidateConfig(const ModelConfig& config) {
  const Range ranges[] = {
      {"vocabulary size", config.vocab_size, 1, kMaxVocab},
      {"embedding length", config.hidden, 1, kMaxHidden},
      {"layer count", config.layers, 1, kMaxLayers},
      {"head count", config.heads, 1, kMaxHeads},
      {"KV head count", config.kv_heads, 1, kMaxHeads},
      {"head size", config.head_dim, 1, kMaxHeadDim},
      {"feed-forward length", config.feed_forward, 1, kMaxFeedForward},
      {"context length", config.context_length, 1, kMaxContext},
  };
  for (const Range& range : ranges) {
    if (range.value < range.low || range.value > range.high) {
      return absl::InvalidArgumentError(absl::StrCat("the ", range.what, " is ", range.value,
                                                     "; it must be from ", range.low, " to ",
                                                     range.high));
    }
  }
  if (config.heads % config.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the head count ", config.heads, " is no multiple of the KV head count ", config.kv_heads));
  }
  if (!Positive(config.norm_eps) || config.norm_eps > 0.1) {
    return absl::InvalidArgumentError("the norm epsilon must be above 0 and at most 0.1");
  }
  const char* broken = BrokenRopeRule(config.rope, config.head_dim);
  if (broken == nullptr && config.local_rope.has_value()) {
    broken = BrokenRopeRule(*config.local_rope, config.head_dim);
  }
  if (broken == nullptr) broken = BrokenLayerRule(config);
  return broken == nullptr ? absl::OkStatus() : absl::InvalidArgumentError(broken);
}

std::vector<LayerGroup> LayerGroups(const ModelConfig& config) {
  LayerGroup kinds[2];
  kinds[1].window = config.window;
  for (int64_t i = 0; i < config.layers; ++i) {
    kinds[config.IsLocal(i) ? 1 : 0].layers.push_back(static_cast<int32_t>(i));
  }
  std::vector<LayerGroup> out;
  for (LayerGroup& group : kinds) {
    if (!group.layers.empty()) out.push_back(std::move(group));
  }
  return out;
}

std::vector<uint8_t> EveryNthGlobal(int64_t layers, int64_t n) {
  std::vector<uint8_t> out(static_cast<size_t>(layers));
  for (int64_t i = 0; i < layers; ++i) out[static_cast<size_t>(i)] = (i + 1) % n != 0;
  return out;
}

namespace {

// Wavelengths in tokens against the window of the original training.
float Llama3Frequency(const RopeConfig& rope, float freq) {
  const float context = static_cast<float>(rope.original_context);
  const float low = static_cast<float>(rope.low_freq_factor);
  const float high = static_cast<float>(rope.high_freq_factor);
  const float wavelength = 2.0f * std::numbers::pi_v<float> / freq;
  const float divided = freq / static_cast<float>(rope.factor);
  if (wavelength > context / low) return divided;
  if (wavelength < context / high) return freq;
  const float ramp = (context / wavelength - low) / (high - low);
  return (1.0f - ramp) * divided + ramp * freq;
}

// From which pair to which one yarn's ramp goes. Pair i of d/2 turns original_context / (2 pi) *
// base^(-2i/d) times in the original context; solved for i at beta_fast and beta_slow turns.
struct YarnRamp {
  float low = 0;
  float high = 0;
};
YarnRamp RampOf(const RopeConfig& rope) {
  const double dim = static_cast<double>(rope.rotary_dim);
  const auto pair = [&](double turns) {
    return dim *
           std::log(static_cast<double>(rope.original_context) / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(rope.freq_base));
  };
  double low = pair(rope.beta_fast), high = pair(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;  // as the reference does: a step is a steep ramp
  return {static_cast<float>(low), static_cast<float>(high - low)};
}

}  // namespace

std::vector<float> RopeInverseFrequencies(const RopeConfig& rope, bool long_context) {
  const float dim = static_cast<float>(rope.rotary_dim);
  const float factor = static_cast<float>(rope.factor);
  const YarnRamp ramp = rope.scaling == RopeScaling::kYarn ? RampOf(rope) : YarnRamp();
  std::vector<float> out(static_cast<size_t>(rope.rotary_dim / 2));
  for (size_t i = 0; i < out.size(); ++i) {
    // 1 / base^(2i/dim), each operation rounded to fp32: the order of the reference. The power goes
    // through double, which rounds right where float implementations differ in the last place.
    const float exponent = static_cast<float>(2 * i) / dim;
    const float power = static_cast<float>(std::pow(rope.freq_base, static_cast<double>(exponent)));
    float freq = 1.0f / power;
    switch (rope.scaling) {
      case RopeScaling::kNone:
        break;
      case RopeScaling::kLinear:
        freq /= factor;
        break;
      case RopeScaling::kLlama3:
        freq = Llama3Frequency(rope, freq);
        break;
      case RopeScaling::kYarn: {
        const float keep =
            1.0f - std::clamp((static_cast<float>(i) - ramp.low) / ramp.high, 0.0f, 1.0f);
        freq = 1.0f / (factor * power) * (1.0f - keep) + freq * keep;
        break;
      }
      case RopeScaling::kLongRope:
        freq = 1.0f / ((long_context ? rope.long_factors : rope.short_factors)[i] * power);
        break;
    }
    if (!rope.freq_factors.empty()) freq /= rope.freq_factors[i];
    out[i] = freq;
  }
  return out;
}

float RopeAttentionFactor(const RopeConfig& rope) {
  if (rope.attention_factor != 0) return static_cast<float>(rope.attention_factor);
  if (rope.factor <= 1.0) return 1.0f;
  const double log = std::log(rope.factor);
  if (rope.scaling == RopeScaling::kYarn) {  // arXiv:2309.00071, equation 22; DeepSeek's two scales
    if (rope.mscale != 0 && rope.mscale_all_dim != 0) {
      return static_cast<float>((0.1 * rope.mscale * log + 1.0) /
                                (0.1 * rope.mscale_all_dim * log + 1.0));
    }
    return static_cast<float>(0.1 * log + 1.0);
  }
  if (rope.scaling == RopeScaling::kLongRope) {  // arXiv:2402.13753, as Phi-3's configuration
    return static_cast<float>(
        std::sqrt(1.0 + log / std::log(static_cast<double>(rope.original_context))));
  }
  return 1.0f;
}

}  // namespace millrace::model
