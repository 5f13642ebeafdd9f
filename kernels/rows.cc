// Embed, RmsNorm, AddBias, Rope, Glu, SoftCap: ops that treat each token's row alone.

#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/dispatch.h"
#include "kernels/ops.h"
#include "kernels/parallel.h"

namespace millrace::kernels {
namespace {

struct SinCos {
  float sine, cosine;
};

// Sine and cosine of a fp32 angle, rounded from double: the same bits on every machine, which
// libm's per-CPU variants do not promise. The angle is reduced by n pi/2 with pi/2 in two parts (33
// bits of it, so that n times them is exact, and the rest); the Taylor remainders at pi/4 are below
// 3e-14.
SinCos SinCosOf(float angle) {
  const double x = static_cast<double>(angle);
  if (!(std::abs(x) < 1e6)) return {std::sin(angle), std::cos(angle)};
  constexpr double kMagic = 0x1.8p52;  // adding it rounds to a whole number
  const double n = (x * 0.63661977236758134308 + kMagic) - kMagic;
  const double r = (x - n * 1.57079632673412561417) - n * 6.07710050650619224932e-11;
  const double r2 = r * r;
  double s = 1.0 / 6227020800.0;
  s = s * r2 - 1.0 / 39916800.0;
  s = s * r2 + 1.0 / 362880.0;
  s = s * r2 - 1.0 / 5040.0;
  s = s * r2 + 1.0 / 120.0;
  s = s * r2 - 1.0 / 6.0;
  const float sine = static_cast<float>(r + r * r2 * s);
  double c = -1.0 / 87178291200.0;
  c = c * r2 + 1.0 / 479001600.0;
  c = c * r2 - 1.0 / 3628800.0;
  c = c * r2 + 1.0 / 40320.0;
  c = c * r2 - 1.0 / 720.0;
  c = c * r2 + 1.0 / 24.0;
  c = c * r2 - 0.5;
  const float cosine = static_cast<float>(1.0 + r2 * c);
  switch (static_cast<int64_t>(n) & 3) {
    case 0:
      return {sine, cosine};
    case 1:
      return {cosine, -sine};
    case 2:
      return {-sine, -cosine};
    default:
      return {-cosine, sine};
  }
}

absl::Status CheckRopeInputs(std::span<const int32_t> positions, std::span<const float> inv_freq) {
  if (inv_freq.empty()) return absl::InvalidArgumentError("rope: no frequencies");
  for (int32_t p : positions) {
    if (p < 0) return absl::InvalidArgumentError(absl::StrCat("rope: position ", p));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Embed(const EmbedArgs& args, Stream& stream) {
  if (args.table == nullptr || args.table->rows() == 0 ||
      (args.out == nullptr && !args.ids.empty())) {
    return absl::InvalidArgumentError("embed: no table or no output");
  }
  for (int32_t id : args.ids) {
    if (id < 0 || id >= args.table->rows()) {
      return absl::InvalidArgumentError(
          absl::StrCat("embed: token id ", id, " is not in a table of ", args.table->rows()));
    }
  }
  const int64_t dim = args.table->cols();
  // One row is gathered value by value, so it costs about 8 vector loops' worth.
  ForEach(stream, args.ids.size(), static_cast<size_t>(dim) * 8,
          [&](size_t begin, size_t end, int) {
            for (size_t t = begin; t < end; ++t) {
              float* out = args.out + static_cast<int64_t>(t) * dim;
              args.table->UnpackRow(args.ids[t], out);
              if (args.scale == 1.0f) continue;
              for (int64_t i = 0; i < dim; ++i) out[i] *= args.scale;
            }
          });
  return absl::OkStatus();
}

absl::Status RmsNorm(const RmsNormArgs& args, Stream& stream) {
  if (args.tokens < 0 || args.dim <= 0 || args.weight == nullptr ||
      (args.tokens > 0 && (args.x == nullptr || args.out == nullptr))) {
    return absl::InvalidArgumentError(
        absl::StrCat("rms_norm: bad arguments, [", args.tokens, ", ", args.dim, "]"));
  }
  const RmsNormFunction row = ChooseRowKernels(stream.tier()).rms_norm;
  ForEach(stream, static_cast<size_t>(args.tokens), static_cast<size_t>(args.dim),
          [&](size_t begin, size_t end, int) {
            for (size_t t = begin; t < end; ++t) {
              const int64_t offset = static_cast<int64_t>(t) * args.dim;
              row(args.x + offset, args.weight, args.out + offset, args.dim, args.eps,
                  args.accumulate);
            }
          });
  return absl::OkStatus();
}

absl::Status AddBias(const AddBiasArgs& args, Stream& stream) {
  if (args.tokens < 0 || args.dim <= 0 || args.bias == nullptr ||
      (args.tokens > 0 && args.x == nullptr)) {
    return absl::InvalidArgumentError(
        absl::StrCat("add_bias: bad arguments, [", args.tokens, ", ", args.dim, "]"));
  }
  ForEach(stream, static_cast<size_t>(args.tokens), static_cast<size_t>(args.dim),
          [&](size_t begin, size_t end, int) {
            for (size_t t = begin; t < end; ++t) {
              float* x = args.x + static_cast<int64_t>(t) * args.dim;
              for (int64_t i = 0; i < args.dim; ++i) x[i] += args.bias[i];
            }
          });
  return absl::OkStatus();
}

absl::Status RopeTable(const RopeTableArgs& args, Stream& stream) {
  if (absl::Status status = CheckRopeInputs(args.positions, args.inv_freq); !status.ok())
    return status;
  if (args.out == nullptr && !args.positions.empty()) {
    return absl::InvalidArgumentError("rope_table: no output");
  }
  const size_t pairs = args.inv_freq.size();
  ForEach(stream, args.positions.size(), pairs * 32, [&](size_t begin, size_t end, int) {
    for (size_t t = begin; t < end; ++t) {
      float* cosine = args.out + t * 2 * pairs;
      const float position = static_cast<float>(args.positions[t]);
      for (size_t i = 0; i < pairs; ++i) {
        const SinCos v = SinCosOf(position * args.inv_freq[i]);
        cosine[i] = v.cosine * args.scale;
        cosine[pairs + i] = v.sine * args.scale;
      }
    }
  });
  return absl::OkStatus();
}

absl::Status Rope(const RopeArgs& args, Stream& stream) {
  const auto pairs = static_cast<int64_t>(args.inv_freq.size());
  if (args.heads <= 0 || args.head_dim <= 0 || 2 * pairs > args.head_dim ||
      (args.x == nullptr && !args.positions.empty())) {
    return absl::InvalidArgumentError(absl::StrCat("rope: bad arguments, heads ", args.heads,
                                                   " of ", args.head_dim, ", pairs ", pairs));
  }
  const float* table = args.table;
  if (table == nullptr) {
    const size_t floats = args.positions.size() * 2 * static_cast<size_t>(pairs);
    auto* scratch = static_cast<float*>(stream.Scratch(floats * sizeof(float)));
    absl::Status status = RopeTable({args.positions, args.inv_freq, scratch, 1.0f}, stream);
    if (!status.ok()) return status;
    table = scratch;
  }
  const RowKernels& kernels = ChooseRowKernels(stream.tier());
  const RotateFunction rotate =
      args.interleaved ? kernels.rotate_interleaved : kernels.rotate_halves;
  const int64_t row = args.heads * args.head_dim;
  ForEach(stream, args.positions.size(), static_cast<size_t>(row),
          [&](size_t begin, size_t end, int) {
            for (size_t t = begin; t < end; ++t) {
              const float* cosine = table + static_cast<int64_t>(t) * 2 * pairs;
              float* x = args.x + static_cast<int64_t>(t) * row;
              for (int64_t h = 0; h < args.heads; ++h) {
                rotate(x + h * args.head_dim, cosine, cosine + pairs, pairs);
              }
            }
          });
  return absl::OkStatus();
}

absl::Status Glu(const GluArgs& args, Stream& stream) {
  if (args.tokens < 0 || args.dim <= 0 ||
      (args.tokens > 0 && (args.gate == nullptr || args.up == nullptr || args.out == nullptr))) {
    return absl::InvalidArgumentError(
        absl::StrCat("glu: bad arguments, [", args.tokens, ", ", args.dim, "]"));
  }
  const RowKernels& kernels = ChooseRowKernels(stream.tier());
  const GluFunction run =
      args.activation == Activation::kSilu ? kernels.swiglu : kernels.geglu_tanh;
  // An exponential and a division: about 4 plain vector loops.
  ForEach(stream, static_cast<size_t>(args.tokens), static_cast<size_t>(args.dim) * 4,
          [&](size_t begin, size_t end, int) {
            const int64_t offset = static_cast<int64_t>(begin) * args.dim;
            run(args.gate + offset, args.up + offset, args.out + offset,
                static_cast<int64_t>(end - begin) * args.dim);
          });
  return absl::OkStatus();
}

absl::Status SoftCap(const SoftCapArgs& args, Stream& stream) {
  if (args.count < 0 || !(args.cap > 0) || (args.count > 0 && args.x == nullptr)) {
    return absl::InvalidArgumentError(
        absl::StrCat("soft_cap: bad arguments, ", args.count, " values, cap ", args.cap));
  }
  const SoftCapFunction run = ChooseRowKernels(stream.tier()).soft_cap;
  ForEach(stream, static_cast<size_t>(args.count), 4, [&](size_t begin, size_t end, int) {
    run(args.x + begin, static_cast<int64_t>(end - begin), args.cap);
  });
  return absl::OkStatus();
}

}  // namespace millrace::kernels
