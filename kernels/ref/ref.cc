#include "kernels/ref/ref.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace millrace::kernels::ref {

Values Embed(const RawMatrix& table, std::span<const int32_t> ids) {
  Values out;
  std::vector<float> row(static_cast<size_t>(table.cols));
  for (int32_t id : ids) {
    DequantizeRawRow(table, id, row.data());
    for (float w : row) {
      out.value.push_back(w);
      out.magnitude.push_back(std::abs(w));
    }
  }
  return out;
}

Values Gemm(const RawMatrix& weights, std::span<const float> x, int64_t tokens) {
  const size_t rows = static_cast<size_t>(weights.rows), cols = static_cast<size_t>(weights.cols);
  Values out;
  out.value.resize(static_cast<size_t>(tokens) * rows);
  out.magnitude.resize(out.value.size());
  std::vector<float> w(cols);
  for (size_t n = 0; n < rows; ++n) {
    DequantizeRawRow(weights, static_cast<int64_t>(n), w.data());
    for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
      double sum = 0, magnitude = 0;
      for (size_t k = 0; k < cols; ++k) {
        const double product = static_cast<double>(w[k]) * x[t * cols + k];
        sum += product;
        magnitude += std::abs(product);
      }
      out.value[t * rows + n] = sum;
      out.magnitude[t * rows + n] = magnitude;
    }
  }
  return out;
}

Values RmsNorm(const RmsNormArgs& args) {
  Values out;
  for (int64_t t = 0; t < args.tokens; ++t) {
    const float* x = args.x + t * args.dim;
    double squares = 0;
    for (int64_t i = 0; i < args.dim; ++i) squares += static_cast<double>(x[i]) * x[i];
    const double root = std::sqrt(squares / static_cast<double>(args.dim) + args.eps);
    for (int64_t i = 0; i < args.dim; ++i) {
      const double norm = x[i] / root * args.weight[i];
      const double before = args.accumulate ? args.out[t * args.dim + i] : 0.0;
      out.value.push_back(before + norm);
      out.magnitude.push_back(std::abs(before) + std::abs(norm));
    }
  }
  return out;
}

Values Rope(const RopeArgs& args) {
  const size_t row = static_cast<size_t>(args.heads * args.head_dim);
  const size_t pairs = args.inv_freq.size(), dim = static_cast<size_t>(args.head_dim);
  Values out;
  out.value.assign(args.x, args.x + args.positions.size() * row);
  for (double v : out.value) out.magnitude.push_back(std::abs(v));
  for (size_t t = 0; t < args.positions.size(); ++t) {
    for (size_t h = 0; h < static_cast<size_t>(args.heads); ++h) {
      for (size_t i = 0; i < pairs; ++i) {
        const size_t head = t * row + h * dim;
        const size_t first = args.interleaved ? head + 2 * i : head + i;
        const size_t second = args.interleaved ? first + 1 : first + pairs;
        const float angle = static_cast<float>(args.positions[t]) * args.inv_freq[i];
        const double c = std::cos(static_cast<double>(angle)),
                     s = std::sin(static_cast<double>(angle));
        const double a = out.value[first], b = out.value[second];
        out.value[first] = a * c - b * s;
        out.value[second] = b * c + a * s;
        out.magnitude[first] = out.magnitude[second] = std::abs(a) + std::abs(b);
      }
    }
  }
  return out;
}

Values Glu(const GluArgs& args) {
  Values out;
  for (int64_t i = 0; i < args.tokens * args.dim; ++i) {
    const double g = args.gate[i];
    const double u = std::sqrt(2 / std::numbers::pi) * (g + 0.044715 * g * g * g);
    const double activated = args.activation == Activation::kSilu ? g / (1.0 + std::exp(-g))
                                                                  : 0.5 * g * (1.0 + std::tanh(u));
    out.value.push_back(activated * args.up[i]);
    out.magnitude.push_back(std::abs(out.value.back()));
  }
  return out;
}

Values Attend(const AttendArgs& args) {
  Values out;
  const auto positions = static_cast<size_t>(args.last + 1);
  for (int64_t h = 0; h < args.heads; ++h) {
    const int64_t kv_head = h / (args.heads / args.kv_heads);
    auto at = [&](std::span<const float> kv, size_t position, int64_t d) {
      const int64_t row = static_cast<int64_t>(position) * args.kv_heads + kv_head;
      return static_cast<double>(kv[static_cast<size_t>(row * args.head_dim + d)]);
    };
    std::vector<double> p(positions, 0.0);
    double top = -INFINITY, total = 0;
    for (auto j = static_cast<size_t>(args.first); j < positions; ++j) {
      for (int64_t d = 0; d < args.head_dim; ++d) {
        p[j] += args.q[static_cast<size_t>(h * args.head_dim + d)] * at(args.k, j, d);
      }
      p[j] *= args.scale;
      if (args.soft_cap > 0) p[j] = args.soft_cap * std::tanh(p[j] / args.soft_cap);
      top = std::max(top, p[j]);
    }
    for (auto j = static_cast<size_t>(args.first); j < positions; ++j) {
      p[j] = std::exp(p[j] - top);
      total += p[j];
    }
    for (int64_t d = 0; d < args.head_dim; ++d) {
      double sum = 0, magnitude = 0;
      for (auto j = static_cast<size_t>(args.first); j < positions; ++j) {
        sum += p[j] / total * at(args.v, j, d);
        magnitude += p[j] / total * std::abs(at(args.v, j, d));
      }
      out.value.push_back(sum);
      out.magnitude.push_back(magnitude);
    }
  }
  return out;
}

}  // namespace millrace::kernels::ref
