#pragma once
// What the tests that measure a model share: KL divergence, and tables that a document holds.

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>

namespace millrace::golden {

// KL(softmax(a) || softmax(b)) in nats, computed in double. REQUIRES: rows of equal length.
inline double KlDivergence(std::span<const float> a, std::span<const float> b) {
  const auto log_sum = [](std::span<const float> row) {
    const auto top = static_cast<double>(*std::max_element(row.begin(), row.end()));
    double sum = 0;
    for (const float x : row) sum += std::exp(static_cast<double>(x) - top);
    return top + std::log(sum);
  };
  const double norm_a = log_sum(a), norm_b = log_sum(b);
  double kl = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double log_p = static_cast<double>(a[i]) - norm_a;
    kl += std::exp(log_p) * (log_p - (static_cast<double>(b[i]) - norm_b));
  }
  return kl;
}

// MODEL [--write FILE]: the model's path, and the document that gets the tables; empty: none.
struct MeasureArguments {
  std::string model_path;
  std::string write_path;
};
inline MeasureArguments ReadMeasureArguments(int argc, char** argv) {
  MeasureArguments out;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--write" && i + 1 < argc) {
      out.write_path = argv[++i];
    } else {
      out.model_path = argument;
    }
  }
  return out;
}

// Replaces what lies between two marks of a document. False: it has not both.
inline bool WriteBetween(const std::string& path, std::string_view begin_mark,
                         std::string_view end_mark, const std::string& tables) {
  std::ifstream in(path);
  std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const size_t begin = text.find(begin_mark);
  const size_t end = text.find(end_mark);
  if (begin == std::string::npos || end == std::string::npos) return false;
  text.replace(begin, end - begin, std::string(begin_mark) + "\n\n" + tables);
  std::ofstream(path) << text;
  return true;
}

}  // namespace millrace::golden
