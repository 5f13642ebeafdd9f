#pragma once
// From a row of logits to a token. A total function of the row and the arguments: one row is worked
// by one thread in one fixed order, so that neither batch nor thread count changes a byte.
//
//   raw logits --> log-probabilities reported
//     + logit_bias, repetition, frequency and presence penalties, banned tokens, mask
//     / temperature --> min_p --> top_k --> top_p --> one draw    (greedy: the largest, lowest id)

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "executor/penalties.h"
#include "kernels/logits.h"
#include "kernels/stream.h"
#include "messages/request.h"
#include "messages/token_event.h"

namespace millrace::executor {

struct SampleArgs {
  const float* logits = nullptr;  // [vocab_size]
  const SamplingParams* params = nullptr;
  const PenaltyCounts* counts = nullptr;  // null: no penalties
  std::span<const TokenId> banned;        // cannot be sampled now
  std::span<const uint32_t> mask;         // bit t: token t may be sampled; empty: all may
  int32_t choice = 0;
  int32_t sample_index = 0;
};

struct Sample {
  TokenId token = -1;      // -1: the logits were not finite, or nothing may be sampled
  TokenLogprobs logprobs;  // when params->logprobs >= 0
};

// True when every value is a finite number.
bool AllFinite(const float* logits, int64_t count);

// Holds scratch memory. Thread: one caller at a time; one object a worker.
class Sampler {
 public:
  explicit Sampler(int64_t vocab_size, kernels::IsaTier tier = kernels::DetectIsaTier());

  Sample Draw(const SampleArgs& args);

  // The raw log-probability of `target`, its rank, and the `top` most likely.
  // REQUIRES: finite logits.
  TokenLogprobs Score(const float* logits, TokenId target, int32_t top);

 private:
  // A token with what it is ordered by.
  struct Candidate {
    float value;
    TokenId token;
  };
  // Most first; equal values by lower id.
  static bool Before(const Candidate& a, const Candidate& b) {
    return a.value != b.value ? a.value > b.value : a.token < b.token;
  }

  const float* Modify(const SampleArgs& args);
  double SumWeights();
  void KeepTopK(const float* logits, int32_t k);
  void KeepTopP(double p);
  size_t CrossingBucket(double wanted, double* sum);
  TokenId Pick(double uniform);
  // The `k` largest of values[vocab] in order, into candidates_. With `positive_only`, of those
  // whose weight is above 0.
  void SelectTop(const float* values, size_t k, bool positive_only);

  int64_t vocab_size_;
  const kernels::LogitsKernels& kernels_;
  std::vector<float> modified_;
  std::vector<float> weights_;      // e^((logit - peak) / temperature), the largest is 1; 0: cut
  std::vector<double> block_sums_;  // of kBlock weights each
  std::vector<double> buckets_;
  std::vector<Candidate> candidates_;
};

}  // namespace millrace::executor
