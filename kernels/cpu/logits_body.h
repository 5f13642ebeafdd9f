// Passes over a row of logits, for a tier: the file that includes this names the tier by
// MILLRACE_LOGITS_TIER. Written with the compiler's vectors of 16 lanes, which it cuts to what the
// tier has; every lane does the same single operations in the same order in each (contraction is
// off), so all tiers give equal bytes.
#pragma once

#include "kernels/logits.h"

namespace millrace::kernels::MILLRACE_LOGITS_TIER {

extern const LogitsKernels kLogits;

namespace {

constexpr int64_t kLanes = 16;
typedef float F __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef double D __attribute__((vector_size(128)));

inline F Load(const float* p) {
  F x;
  __builtin_memcpy(&x, p, sizeof(x));
  return x;
}
inline I AsInt(F x) {
  I bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline F AsFloat(I bits) {
  F x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}
inline bool Any(I mask) {
  int64_t words[8], all = 0;
  __builtin_memcpy(words, &mask, sizeof(words));
  for (int64_t word : words) all |= word;
  return all != 0;
}

// exp(x) for x <= 0, within 2e-7 relative; 0 below -87. x = n ln2 + r with |r| <= ln2 / 2; the
// Taylor series of degree 7 leaves r^8 / 8! < 6e-9. 1.5 * 2^23 added leaves the nearest integer;
// the upper part of ln2 has 9 bits, so that n times it is exact.
inline F NegativeExp(F x) {
  const I small = x < -87.0f;
  const F clamped = small ? F{} - 87.0f : x;
  const F n = (clamped * 1.44269504f + 12582912.0f) - 12582912.0f;
  const F r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  F p = F{} + 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const I exponent = __builtin_convertvector(n, I) << 23;
  const F scaled = AsFloat(AsInt(p) + exponent);
  return small ? F{} : scaled;
}

// The last values of a row as a whole vector, the rest of it `fill`.
inline F LoadTail(const float* p, int64_t count, float fill) {
  float lanes[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) lanes[i] = i < count ? p[i] : fill;
  return Load(lanes);
}

LogitsScan Scan(const float* x, int64_t count) {
  const I exponent = I{} + 0x7f800000;  // all its bits set: infinity or not a number
  I bad = {};

  F top = F{} - __builtin_inff();
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const F v = Load(x + i);
    bad |= (AsInt(v) & exponent) == exponent;
    top = v > top ? v : top;
  }
  if (i < count) {
    const F v = LoadTail(x + i, count - i, x[i]);
    bad |= (AsInt(v) & exponent) == exponent;
    top = v > top ? v : top;
  }
  LogitsScan scan;
  scan.finite = !Any(bad);
  scan.peak = top[0];
  for (int64_t lane = 1; lane < kLanes; ++lane) {
    scan.peak = top[lane] > scan.peak ? top[lane] : scan.peak;
  }
  return scan;
}

void Weigh(const float* logits, int64_t count, LogitsScale s, float* weights) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    F w = NegativeExp((Load(logits + i) - s.peak) * s.scale);
    w = w < s.least ? F{} : w;
    __builtin_memcpy(weights + i, &w, sizeof(w));
  }
  if (i == count) return;
  F w = NegativeExp((LoadTail(logits + i, count - i, s.peak) - s.peak) * s.scale);
  w = w < s.least ? F{} : w;
  for (int64_t lane = 0; i + lane < count; ++lane) weights[i + lane] = w[lane];
}

double Sum(const float* x, int64_t count) {
  D lanes = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) lanes += __builtin_convertvector(Load(x + i), D);
  double sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
  for (; i < count; ++i) sum += static_cast<double>(x[i]);
  return sum;
}

int64_t FindAbove(const float* x, int64_t begin, int64_t count, float threshold) {
  int64_t i = begin;
  for (; i + kLanes <= count; i += kLanes) {
    if (Any(Load(x + i) > threshold)) break;
  }
  while (i < count && !(x[i] > threshold)) ++i;
  return i;
}

void DropBelow(const float* values, int64_t count, LogitsBorder border, float* weights) {
  for (int64_t i = 0; i < count;) {
    // Lower ids than the border's win a tie with it, higher ones lose.
    const bool before = i <= border.id;
    const int64_t end = before ? (border.id + 1 < count ? border.id + 1 : count) : count;
    for (; i + kLanes <= end; i += kLanes) {
      const F v = Load(values + i), w = Load(weights + i);
      const F kept = (before ? v < border.value : v <= border.value) ? F{} : w;
      __builtin_memcpy(weights + i, &kept, sizeof(kept));
    }
    for (; i < end; ++i) {
      if (before ? values[i] < border.value : values[i] <= border.value) weights[i] = 0;
    }
  }
}

}  // namespace

const LogitsKernels kLogits = {Scan, Weigh, Sum, FindAbove, DropBelow};

}  // namespace millrace::kernels::MILLRACE_LOGITS_TIER
