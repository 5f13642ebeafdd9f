#pragma once
// Runs products and says how far from the slow twin they may be, for the tests of gemm.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/payload.h"
#include "kernels/ref/ref.h"
#include "kernels/test_formats.h"

namespace millrace::kernels::testing {

inline constexpr double kEps = 0x1p-24;  // half a unit in the last place of fp32

inline std::vector<float> RunGemm(const std::vector<const PackedMatrix*>& weights,
                                  const std::vector<float>& x, int64_t tokens, Stream& stream,
                                  std::vector<float> start = {}) {
  int64_t rows = 0;
  for (const PackedMatrix* w : weights) rows += w->rows();
  const bool accumulate = !start.empty();
  std::vector<float> out =
      accumulate ? std::move(start) : std::vector<float>(static_cast<size_t>(tokens * rows), NAN);
  std::vector<float*> outputs;
  float* p = out.data();
  for (const PackedMatrix* w : weights) {
    outputs.push_back(p);
    p += tokens * w->rows();
  }
  GemmArgs args;
  args.x = x.data();
  args.tokens = tokens;
  args.weights = weights;
  args.outputs = outputs;
  args.accumulate = accumulate;
  EXPECT_TRUE(Gemm(args, stream).ok());
  return out;
}

inline PackedMatrix Pack(const RandomMatrix& m, Stream& stream) {
  auto packed = PackedMatrix::Pack(m.raw, stream);
  EXPECT_TRUE(packed.ok()) << packed.status();
  return *std::move(packed);
}

// fp32 over K products: each partial sum is off by at most eps of the magnitude, K + 2 times over.
inline double ExactTolerance(const ref::Values& want, size_t i, int64_t cols) {
  return static_cast<double>(cols + 2) * kEps * want.magnitude[i];
}

// The tiers with tiles: the emulation, and where there is one the matrix unit itself.
inline std::vector<IsaTier> TiledTiers() {
  if (RunsIsaTier(IsaTier::kAmx)) return {IsaTier::kAmxEmulated, IsaTier::kAmx};
  std::fprintf(stderr, "NOT RUN: tier amx, this CPU lacks it (its emulation runs)\n");
  return {IsaTier::kAmxEmulated};
}

// On tiles of bf16 both operands move by at most 2^-8 of themselves, and fp32 as above.
inline double TiledTolerance(const ref::Values& want, size_t i, int64_t cols) {
  return 2.01 * 0x1p-8 * want.magnitude[i] + ExactTolerance(want, i, cols);
}

// In fast mode each activation moves by at most half a step, largest / 254, of its block: the
// result by that times the sum of the block's |w|. Rounding in fp32 comes on top, relative to the
// terms before they cancel (|q| d, at most 15 d and |m| instead of |w|), hence the wide factor.
// Blocks are of packed columns; where a token has one scale, it is a block as a whole.
inline std::vector<double> FastTolerance(const RawMatrix& raw, const PackedMatrix& packed,
                                         const std::vector<float>& x, int64_t tokens) {
  const PackedMatrix::Payload& p = packed.payload();
  std::vector<int32_t> gather = p.gather;
  for (int32_t k = 0; p.gather.empty() && k < raw.cols; ++k) gather.push_back(k);
  const size_t width = p.per_token ? gather.size() : 32;
  std::vector<double> out(static_cast<size_t>(tokens * raw.rows));
  std::vector<float> w(static_cast<size_t>(raw.cols));
  for (int64_t n = 0; n < raw.rows; ++n) {
    DequantizeRawRow(raw, n, w.data());
    for (int64_t t = 0; t < tokens; ++t) {
      double bound = 0;
      for (size_t b = 0; b < gather.size(); b += width) {
        double largest = 0, weights = 0, widest = 0;
        for (size_t i = b; i < b + width; ++i) {
          if (gather[i] < 0) continue;
          const auto k = static_cast<size_t>(gather[i]);
          const double value = x[static_cast<size_t>(t * raw.cols) + k];
          largest = std::max(largest, std::abs(value));
          weights += std::abs(w[k]);
          widest = std::max(widest, std::abs(static_cast<double>(w[k])));
        }
        bound += largest / 254 * weights * 1.0001;
        bound += largest * static_cast<double>(width) * 32 * widest *
                 static_cast<double>(gather.size() / 32 + 4) * kEps;
      }
      out[static_cast<size_t>(t * raw.rows + n)] = bound;
    }
  }
  return out;
}

}  // namespace millrace::kernels::testing
