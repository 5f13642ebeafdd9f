#include "executor/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "executor/random.h"

namespace millrace::executor {
namespace {

constexpr int64_t kBlock = 256;  // weights summed together; a draw skips whole blocks
constexpr float kNever = -std::numeric_limits<float>::infinity();

// A weight in (0, 1] by its exponent and 4 bits of mantissa: 127 * 16 values, and 1 itself.
constexpr int kBucketBits = 19;
constexpr size_t kBuckets = (0x3f800000u >> kBucketBits) + 1;
size_t BucketOf(float weight) {
  return std::bit_cast<uint32_t>(weight) >> kBucketBits;
}
// The largest weight that lies below a bucket.
float Below(size_t bucket) {
  return bucket == 0 ? 0.0f
                     : std::bit_cast<float>((static_cast<uint32_t>(bucket) << kBucketBits) - 1);
}

}  // namespace

bool AllFinite(const float* logits, int64_t count) {
  return kernels::ChooseLogits(kernels::DetectIsaTier()).scan(logits, count).finite;
}

Sampler::Sampler(int64_t vocab_size, kernels::IsaTier tier)
    : vocab_size_(vocab_size),
      kernels_(kernels::ChooseLogits(tier)),
      weights_(static_cast<size_t>(vocab_size)),
      block_sums_(static_cast<size_t>((vocab_size + kBlock - 1) / kBlock)),
      buckets_(kBuckets) {}

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

double Sampler::SumWeights() {
  double total = 0;
  for (size_t block = 0; block < block_sums_.size(); ++block) {
    const int64_t begin = static_cast<int64_t>(block) * kBlock;
    block_sums_[block] =
        kernels_.sum(weights_.data() + begin, std::min(kBlock, vocab_size_ - begin));
    total += block_sums_[block];
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
    if (candidates_.size() >= k) i = kernels_.find_above(values, i, vocab_size_, threshold);
    if (i == vocab_size_) break;
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
  kernels_.drop_below(logits, vocab_size_, {candidates_.back().value, candidates_.back().token},
                      weights_.data());
}

// Adds up weights by bucket from the heaviest down until their sum reaches `wanted`. `sum` becomes
// that of the buckets above. A level of buckets a pass, since few weights are large and most passes
// are the only one.
size_t Sampler::CrossingBucket(double wanted, double* sum) {
  constexpr size_t kLevel = 8 * 16;  // 8 powers of 2
  *sum = 0;
  size_t crossing = kBuckets;
  for (size_t end = kBuckets; end > 0;) {
    const size_t begin = end > kLevel ? end - kLevel : 0;
    std::fill(buckets_.begin() + static_cast<int64_t>(begin),
              buckets_.begin() + static_cast<int64_t>(end), 0.0);
    const float below = Below(begin);
    for (int64_t i = 0; i < vocab_size_; ++i) {
      i = kernels_.find_above(weights_.data(), i, vocab_size_, below);
      if (i == vocab_size_) break;
      const float weight = weights_[static_cast<size_t>(i)];
      if (BucketOf(weight) < end) buckets_[BucketOf(weight)] += static_cast<double>(weight);
    }
    while (crossing > begin) {
      --crossing;
      if (*sum + buckets_[crossing] >= wanted) return crossing;
      *sum += buckets_[crossing];
    }
    end = begin;
  }
  return crossing;
}

// The smallest set of the most likely tokens whose weight is at least `p` of the whole. Only the
// bucket in which the sum crosses is sorted.
void Sampler::KeepTopP(double p) {
  const double wanted = p * SumWeights();
  double sum = 0;
  const size_t crossing = CrossingBucket(wanted, &sum);
  candidates_.clear();
  for (int64_t i = 0; i < vocab_size_; ++i) {
    i = kernels_.find_above(weights_.data(), i, vocab_size_, Below(crossing));
    if (i == vocab_size_) break;
    const float weight = weights_[static_cast<size_t>(i)];
    if (BucketOf(weight) == crossing) candidates_.push_back({weight, static_cast<TokenId>(i)});
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
  kernels_.drop_below(weights_.data(), vocab_size_, {last.value, last.token}, weights_.data());
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
  const float peak = kernels_.scan(logits, vocab_size_).peak;
  kernels_.weigh(logits, vocab_size_, {peak, 1.0f, 0.0f}, weights_.data());
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
  const kernels::LogitsScan raw = kernels_.scan(args.logits, vocab_size_);
  if (!raw.finite) return out;
  const SamplingParams& params = *args.params;
  const float* logits = Modify(args);
  const float peak = logits == args.logits ? raw.peak : kernels_.scan(logits, vocab_size_).peak;
  if (!std::isfinite(peak)) return out;  // everything is banned, or a bias overflowed
  if (params.greedy()) {
    // The first that is not below the peak.
    const auto first = kernels_.find_above(logits, 0, vocab_size_, std::nextafter(peak, kNever));
    out.token = static_cast<TokenId>(first);
  } else {
    kernels_.weigh(logits, vocab_size_, {peak, 1.0f / params.temperature, params.min_p},
                   weights_.data());
    if (params.top_k > 0 && params.top_k < vocab_size_) KeepTopK(logits, params.top_k);
    if (params.top_p < 1.0f) KeepTopP(static_cast<double>(params.top_p));
    out.token = Pick(SampleUniform(params.seed, args.choice, args.sample_index));
  }
  if (params.logprobs >= 0) out.logprobs = Score(args.logits, out.token, params.logprobs);
  return out;
}

}  // namespace millrace::executor
