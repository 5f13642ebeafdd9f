#include "model/config.h"

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

// The first rule of rope that is broken, or null.
const char* BrokenRopeRule(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  if (!(Positive(rope.freq_base) && rope.freq_base >= 1.0 && rope.freq_base <= 1e12)) {
    return "the rope frequency base must be from 1 to 1e12";
  }
  if (rope.rotary_dim < 2 || rope.rotary_dim % 2 != 0) return "the rotary size must be even";
  if (rope.rotary_dim > config.head_dim) return "the rotary size exceeds the head size";
  if (!(Positive(rope.factor) && rope.factor <= 1e6)) return "the rope factor must be positive";
  if (rope.scaling == RopeScaling::kLlama3) {
    if (!Positive(rope.low_freq_factor) || !Positive(rope.high_freq_factor)) {
      return "llama3 rope: the frequency factors must be positive";
    }
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      return "llama3 rope: the high frequency factor must exceed the low one";
    }
    if (rope.original_context < 1 || rope.original_context > kMaxContext) {
      return "llama3 rope: the original context length is out of range";
    }
  }
  if (!rope.freq_factors.empty()) {
    if (static_cast<int64_t>(rope.freq_factors.size()) != rope.rotary_dim / 2) {
      return "rope factors: their number is not half the rotary size";
    }
    for (float factor : rope.freq_factors) {
      if (!Positive(factor)) return "rope factors: one is not a positive number";
    }
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
  if (const char* broken = BrokenRopeRule(config)) return absl::InvalidArgumentError(broken);
  return absl::OkStatus();
}

std::vector<float> RopeInverseFrequencies(const RopeConfig& rope) {
  const float dim = static_cast<float>(rope.rotary_dim);
  std::vector<float> out(static_cast<size_t>(rope.rotary_dim / 2));
  for (size_t i = 0; i < out.size(); ++i) {
    // 1 / base^(2i/dim), each operation rounded to fp32: the order of the reference. The power goes
    // through double, which rounds right where float implementations differ in the last place.
    const float exponent = static_cast<float>(2 * i) / dim;
    const float power = static_cast<float>(std::pow(rope.freq_base, static_cast<double>(exponent)));
    float freq = 1.0f / power;
    if (rope.scaling == RopeScaling::kLinear) {
      freq /= static_cast<float>(rope.factor);
    } else if (rope.scaling == RopeScaling::kLlama3) {
      // Wavelengths in tokens against the window of the original training.
      const float context = static_cast<float>(rope.original_context);
      const float low = static_cast<float>(rope.low_freq_factor);
      const float high = static_cast<float>(rope.high_freq_factor);
      const float wavelength = 2.0f * std::numbers::pi_v<float> / freq;
      const float divided = freq / static_cast<float>(rope.factor);
      if (wavelength > context / low) {
        freq = divided;
      } else if (wavelength >= context / high) {
        const float ramp = (context / wavelength - low) / (high - low);
        freq = (1.0f - ramp) * divided + ramp * freq;
      }
    }
    if (!rope.freq_factors.empty()) freq /= rope.freq_factors[i];
    out[i] = freq;
  }
  return out;
}

}  // namespace millrace::model
