#pragma once
// Passes over a row of logits, from which a sampler is made: one row, one thread. All tiers give
// equal bytes. The tier files include this header too, so it holds no inline function
// (cpu/kernels.h).

#include <cstdint>

namespace millrace::kernels {

enum class IsaTier : uint8_t;

struct LogitsScan {
  bool finite = false;  // every value is a finite number
  float peak = 0;       // the largest of those that are not NaN
};
// weight = e^((logit - peak) * scale), but 0 where that is below `least`.
struct LogitsScale {
  float peak = 0;
  float scale = 1;
  float least = 0;
};
// Values are ordered by size, equal ones by lower id.
struct LogitsBorder {
  float value = 0;
  int64_t id = 0;
};

struct LogitsKernels {
  // REQUIRES: count >= 1.
  LogitsScan (*scan)(const float* logits, int64_t count);
  // No logit is above the peak. Weights are within 2e-7 of e^x, and 0 below e^-87.
  void (*weigh)(const float* logits, int64_t count, LogitsScale scale, float* weights);
  // In 16 chains, then these in order, then what is left of a multiple of 16.
  double (*sum)(const float* x, int64_t count);
  // The first i >= begin with x[i] > threshold; count when there is none.
  int64_t (*find_above)(const float* x, int64_t begin, int64_t count, float threshold);
  // weights[i] = 0 where values[i] comes after the border. `values` may be `weights`.
  void (*drop_below)(const float* values, int64_t count, LogitsBorder border, float* weights);
};
// Thread: any.
const LogitsKernels& ChooseLogits(IsaTier tier);

}  // namespace millrace::kernels
