#pragma once
// The slow twins: every op in double precision, in the order of its formula, one value at a time.
// Tests compare the kernels with these. Each twin can also give the magnitude of what it summed
// (the same sum over absolute values), from which a test derives how far rounding may carry a
// result.

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/ops.h"

namespace millrace::kernels::ref {

// Result and magnitude, element by element.
struct Values {
  std::vector<double> value;
  std::vector<double> magnitude;
};

// [ids, cols] from the file's own layout.
Values Embed(const RawMatrix& table, std::span<const int32_t> ids);

// x [tokens, cols] W^T, [tokens, rows]; magnitude: sum of |x w|.
Values Gemm(const RawMatrix& weights, std::span<const float> x, int64_t tokens);

// [tokens, dim]; magnitude: |value|.
Values RmsNorm(const RmsNormArgs& args);

// What Rope makes of args.x, which stays as it is; angles as fp32 products, then in double.
// Magnitude: |x0| + |x1| of the pair.
Values Rope(const RopeArgs& args);

// [tokens, dim]; magnitude: |value|.
Values Glu(const GluArgs& args);

// One token of a sequence: its queries against the sequence's whole history.
struct AttendArgs {
  std::span<const float> q;  // [heads, head_dim]
  std::span<const float> k;  // [positions, kv_heads, head_dim]: what the cache holds
  std::span<const float> v;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t first = 0;  // positions [first, last] are attended to
  int64_t last = 0;
  double scale = 0;
  double soft_cap = 0;  // 0: none
};
// [heads, head_dim]; magnitude: sum of p |v| (at most the largest |v|).
Values Attend(const AttendArgs& args);

}  // namespace millrace::kernels::ref
