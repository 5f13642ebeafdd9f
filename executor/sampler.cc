#include "executor/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "executor/random.h"

namespace millrace::executor {
namespace {

constexpr int64_t kBlock = 256;  // weights summed together; a draw skips whole blocks
constexpr int kLanes = 16;       // independent chains, which the compiler turns into vectors
constexpr float kNever = -std::numeric_limits<float>::infinity();

// exp(x) for x <= 0, within 2e-7 relative; 0 below -87. Plain arithmetic in a fixed order, so equal
// bytes everywhere, and vectors where the compiler has them. x = n ln2 + r with |r| <= ln2 / 2; the
// Taylor series of degree 7 leaves r^8 / 8! < 6e-9.
inline float NegativeExp(float x) {
  constexpr float kLog2e = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;  // 9 bits: n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer
  const float clamped = x < -87.0f ? -87.0f : x;
  const float n = (clamped * kLog2e + kRound) - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int32_t exponent = static_cast<int32_t>(n) * (1 << 23);
  const float scaled = std::bit_cast<float>(std::bit_cast<int32_t>(p) + exponent);
  return x < -87.0f ? 0.0f : scaled;
}

float Peak(const float* values, int64_t count) {
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, kNever);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      lanes[j] = values[i + j] > lanes[j] ? values[i + j] : lanes[j];
    }
  }
  float peak = *std::max_element(lanes, lanes + kLanes);
  for (; i < count; ++i) peak = std::max(peak, values[i]);
  return peak;
}

TokenId FirstOf(const float* values, int64_t count, float wanted) {
  for (int64_t i = 0; i < count; ++i) {
    if (values[i] == wanted) return static_cast<TokenId>(i);
  }
  return -1;
}

}  // namespace

bool AllFinite(const float* logits, int64_t count) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    // All exponent bits set: infinity or not a number.
    const uint32_t exponent = std::bit_cast<uint32_t>(logits[i]) & 0x7f800000u;
    bad |= exponent == 0x7f800000u ? 1u : 0u;
  }
  return bad == 0;
}

Sampler::Sampler(int64_t vocab_size)
    : vocab_size_(vocab_size),
      weights_(static_cast<size_t>(vocab_size)),
      block_sums_(static_cast<size_t>((vocab_size + kBlock - 1) / kBlock)),
      // A weight in (0, 1] by its exponent and 4 bits of mantissa: 127 * 16 values, and 1 itself.
      buckets_((0x3f800000u >> 19) + 1) {}

const float* Sampler::Modify(const SampleArgs& args) {
  const SamplingParams& params = *args.params;
  const bool penalized = args.counts != nullptr && params.penalized();
  if (!penalized && params.logit_bias.empty() && args.banned.empty() && args.mask.empty()) {
    return args.logits;
  }
  modified_.assign(args.logits, args.logits + vocab_size_);
  for (const auto& [token, bias] : params.logit_bias) modified_[static_cast<size_t>(token)] += bias;
  if (penalized) args.counts->Apply(params, modified_.data());
  for (TokenId token : args.banned) modified_[static_cast<size_t>(token)] = kNever;
  if (!args.mask.empty()) {
    for (size_t t = 0; t < modified_.size(); ++t) {
      if ((args.mask[t / 32] >> (t % 32) & 1) == 0) modified_[t] = kNever;
    }
  }
  return modified_.data();
}

void Sampler::Weigh(const float* logits, float peak, float scale) {
  float* weights = weights_.data();
  for (int64_t i = 0; i < vocab_size_; ++i) weights[i] = NegativeExp((logits[i] - peak) * scale);
}

double Sampler::SumWeights() {
  double total = 0;
  for (size_t block = 0; block < block_sums_.size(); ++block) {
    const int64_t begin = static_cast<int64_t>(block) * kBlock;
    const int64_t count = std::min(kBlock, vocab_size_ - begin);
    const float* weights = weights_.data() + begin;
    double lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(weights[i + j]);
    }
    double sum = 0;
    for (double lane : lanes) sum += lane;
    for (; i < count; ++i) sum += static_cast<double>(weights[i]);
    block_sums_[block] = sum;
    total += sum;
  }
  return total;
}

void Sampler::SelectTop(const float* values, size_t k, bool positive_only) {
  candidates_.clear();
  if (k == 0) return;
  // A buffer of 2k: when it is full, the worse half goes and its border becomes the threshold, so
  // that most tokens cost one comparison.
  const size_t room = std::max<size_t>(2 * k, 64);
  float threshold = kNever;
  const auto shrink = [&] {
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<int64_t>(k) - 1,
                     candidates_.end(), &Before);
    candidates_.resize(k);
    threshold = candidates_[k - 1].value;
  };
  for (int64_t i = 0; i < vocab_size_; ++i) {
    // Ids ascend, so an equal value comes after those that are kept.
    if (values[i] <= threshold && candidates_.size() >= k) continue;
    if (positive_only && !(weights_[static_cast<size_t>(i)] > 0)) continue;
    candidates_.push_back({values[i], static_cast<TokenId>(i)});
    if (candidates_.size() == room) shrink();
  }
  std::sort(candidates_.begin(), candidates_.end(), &Before);
  if (candidates_.size() > k) candidates_.resize(k);
}

void Sampler::KeepTopK(const float* logits, int32_t k) {
  SelectTop(logits, static_cast<size_t>(k), true);
  if (candidates_.size() < static_cast<size_t>(k)) return;
  const Candidate last = candidates_.back();
  for (int64_t i = 0; i < vocab_size_; ++i) {
    const Candidate here{logits[i], static_cast<TokenId>(i)};
    if (Before(last, here)) weights_[static_cast<size_t>(i)] = 0;
  }
}

// The smallest set of the most likely tokens whose weight is at least `p` of the whole. Only the
// bucket in which the sum crosses is sorted.
void Sampler::KeepTopP(double p) {
  std::fill(buckets_.begin(), buckets_.end(), 0.0);
  const auto bucket_of = [](float weight) { return std::bit_cast<uint32_t>(weight) >> 19; };
  double total = 0;
  for (float weight : weights_) {
    if (!(weight > 0)) continue;
    buckets_[bucket_of(weight)] += static_cast<double>(weight);
    total += static_cast<double>(weight);
  }
  const double wanted = p * total;
  double sum = 0;
  size_t crossing = buckets_.size();
  while (crossing > 0) {
    --crossing;
    if (sum + buckets_[crossing] >= wanted) break;
    sum += buckets_[crossing];
  }
  candidates_.clear();
  for (int64_t i = 0; i < vocab_size_; ++i) {
    const float weight = weights_[static_cast<size_t>(i)];
    if (weight > 0 && bucket_of(weight) == crossing) {
      candidates_.push_back({weight, static_cast<TokenId>(i)});
    }
  }
  std::sort(candidates_.begin(), candidates_.end(), &Before);
  if (candidates_.empty()) return;  // rounding put the border below every token: all stay
  Candidate last = candidates_.back();
  for (const Candidate& candidate : candidates_) {
    sum += static_cast<double>(candidate.value);
    if (sum < wanted) continue;
    last = candidate;
    break;
  }
  for (int64_t i = 0; i < vocab_size_; ++i) {
    float& weight = weights_[static_cast<size_t>(i)];
    if (Before(last, {weight, static_cast<TokenId>(i)})) weight = 0;
  }
}

TokenId Sampler::Pick(double uniform) {
  double target = uniform * SumWeights();
  size_t block = 0;
  // To the block in which the running sum passes the target, but never past the last with weight.
  TokenId last = -1;
  for (; block < block_sums_.size(); ++block) {
    if (!(block_sums_[block] > 0)) continue;
    const int64_t begin = static_cast<int64_t>(block) * kBlock;
    const int64_t end = std::min(begin + kBlock, vocab_size_);
    const bool inside = target < block_sums_[block];
    for (int64_t i = begin; i < end; ++i) {
      const double weight = static_cast<double>(weights_[static_cast<size_t>(i)]);
      if (!(weight > 0)) continue;
      last = static_cast<TokenId>(i);
      if (!inside) continue;
      if (target < weight) return last;
      target -= weight;
    }
    if (inside) return last;  // rounding: the last of the block that the sum said
    target -= block_sums_[block];
  }
  return last;
}

TokenLogprobs Sampler::Score(const float* logits, TokenId target, int32_t top) {
  const float peak = Peak(logits, vocab_size_);
  Weigh(logits, peak, 1.0f);
  const double log_sum = static_cast<double>(peak) + std::log(SumWeights());
  const auto logprob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit) - log_sum);
  };
  TokenLogprobs out;
  const Candidate own{logits[target], target};
  out.logprob = logprob(own.value);
  int32_t above = 0;
  for (int64_t i = 0; i < vocab_size_; ++i) {
    above += logits[i] > own.value || (logits[i] == own.value && i < target) ? 1 : 0;
  }
  out.rank = above + 1;
  SelectTop(logits, static_cast<size_t>(top), false);
  for (const Candidate& candidate : candidates_) {
    out.top.push_back({candidate.token, logprob(candidate.value)});
  }
  return out;
}

Sample Sampler::Draw(const SampleArgs& args) {
  Sample out;
  if (!AllFinite(args.logits, vocab_size_)) return out;
  const SamplingParams& params = *args.params;
  const float* logits = Modify(args);
  const float peak = Peak(logits, vocab_size_);
  if (!std::isfinite(peak)) return out;  // everything is banned, or a bias overflowed
  if (params.greedy()) {
    out.token = FirstOf(logits, vocab_size_, peak);
  } else {
    Weigh(logits, peak, 1.0f / params.temperature);
    if (params.min_p > 0) {
      for (float& weight : weights_) weight = weight < params.min_p ? 0.0f : weight;
    }
    if (params.top_k > 0 && params.top_k < vocab_size_) KeepTopK(logits, params.top_k);
    if (params.top_p < 1.0f) KeepTopP(static_cast<double>(params.top_p));
    out.token = Pick(SampleUniform(params.seed, args.choice, args.sample_index));
  }
  if (params.logprobs >= 0) out.logprobs = Score(args.logits, out.token, params.logprobs);
  return out;
}

}  // namespace millrace::executor
