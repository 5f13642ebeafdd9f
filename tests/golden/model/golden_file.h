#pragma once
// Reads what make_logits_golden.py writes.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace millrace::golden {

struct GoldenRow {
  double norm = 0;     // 2-norm of the whole row
  double largest = 0;  // max |logit|
  double log_sum = 0;  // log sum exp
  std::vector<int32_t> top_ids;
  std::vector<float> top;
  std::vector<float> subset;
  std::vector<float> projections;
};

struct GoldenPrompt {
  std::vector<int32_t> ids;
  std::vector<int32_t> positions;
  std::vector<GoldenRow> rows;  // one a position
};

struct GoldenFile {
  uint32_t vocab = 0;
  uint32_t projections = 0;
  uint64_t sign_seed = 0;
  std::vector<int32_t> subset_ids;
  std::vector<GoldenPrompt> prompts;
};

class GoldenReader {
 public:
  static absl::StatusOr<GoldenFile> Read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    GoldenReader reader;
    reader.bytes_.assign(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    GoldenFile out;
    const bool ok = reader.Parse(&out);
    if (!ok) return absl::InvalidArgumentError(path + ": not a golden file");
    return out;
  }

 private:
  template <typename T>
  std::vector<T> Array(size_t count) {
    std::vector<T> out;
    if (count * sizeof(T) > bytes_.size() - at_) {
      ok_ = false;
      return std::vector<T>(count <= 65536 ? count : 0);
    }
    out.resize(count);
    std::memcpy(out.data(), bytes_.data() + at_, count * sizeof(T));
    at_ += count * sizeof(T);
    return out;
  }
  template <typename T>
  T One() {
    return Array<T>(1)[0];
  }
  bool Parse(GoldenFile* out) {
    if (bytes_.substr(0, 4) != "MRLG") return false;
    at_ = 4;
    if (One<uint32_t>() != 1) return false;
    out->vocab = One<uint32_t>();
    const uint32_t subset = One<uint32_t>();
    const uint32_t top = One<uint32_t>();
    out->projections = One<uint32_t>();
    out->sign_seed = One<uint64_t>();
    out->subset_ids = Array<int32_t>(subset);
    while (ok_ && at_ < bytes_.size()) {
      GoldenPrompt prompt;
      const uint32_t ids = One<uint32_t>();
      const uint32_t positions = One<uint32_t>();
      prompt.ids = Array<int32_t>(ids);
      prompt.positions = Array<int32_t>(positions);
      for (uint32_t i = 0; ok_ && i < positions; ++i) {
        GoldenRow row;
        row.norm = One<double>();
        row.largest = One<double>();
        row.log_sum = One<double>();
        row.top_ids = Array<int32_t>(top);
        row.top = Array<float>(top);
        row.subset = Array<float>(subset);
        row.projections = Array<float>(out->projections);
        prompt.rows.push_back(std::move(row));
      }
      out->prompts.push_back(std::move(prompt));
    }
    return ok_ && !out->prompts.empty();
  }

  std::string bytes_;
  size_t at_ = 0;
  bool ok_ = true;
};

// Relative errors of one row against the golden one.
struct RowError {
  double norm = 0;  // |d|_2 / |logits|_2: the larger of the estimates from projections and subset
  double largest = 0;  // max |d| / max |logit|, over the subset and the golden's top
};

// The +-1 projections of make_logits_golden.py: bit p of splitmix64(id ^ seed).
class RowJudge {
 public:
  explicit RowJudge(const GoldenFile& golden) : golden_(golden), signs_(golden.vocab) {
    for (uint32_t id = 0; id < golden.vocab; ++id) {
      uint64_t z = (uint64_t{id} ^ golden.sign_seed) + 0x9E3779B97F4A7C15u;
      z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
      z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
      signs_[id] = z ^ (z >> 31);
    }
  }

  RowError Compare(std::span<const float> logits, const GoldenRow& row) const {
    RowError error;
    double subset = 0;
    double worst = 0;
    for (size_t i = 0; i < golden_.subset_ids.size(); ++i) {
      const double d = static_cast<double>(logits[static_cast<size_t>(golden_.subset_ids[i])]) -
                       static_cast<double>(row.subset[i]);
      subset += d * d;
      worst = std::max(worst, std::abs(d));
    }
    subset *= static_cast<double>(golden_.vocab) / static_cast<double>(golden_.subset_ids.size());
    for (size_t i = 0; i < row.top.size(); ++i) {
      worst = std::max(worst,
                       std::abs(static_cast<double>(logits[static_cast<size_t>(row.top_ids[i])]) -
                                static_cast<double>(row.top[i])));
    }
    std::vector<double> sums(golden_.projections);
    for (size_t id = 0; id < logits.size(); ++id) {
      for (size_t p = 0; p < sums.size(); ++p) {
        sums[p] += (signs_[id] >> p & 1) != 0 ? static_cast<double>(logits[id])
                                              : -static_cast<double>(logits[id]);
      }
    }
    double projected = 0;
    for (size_t p = 0; p < sums.size(); ++p) {
      const double d = sums[p] - static_cast<double>(row.projections[p]);
      projected += d * d;
    }
    projected /= static_cast<double>(sums.size());
    error.norm = std::sqrt(std::max(projected, subset)) / row.norm;
    error.largest = worst / row.largest;
    if (std::isnan(projected) || std::isnan(subset)) error.norm = error.largest = INFINITY;
    return error;
  }

 private:
  const GoldenFile& golden_;
  std::vector<uint64_t> signs_;
};

// One line a prompt: "prompt ids : greedy ids".
struct GreedyLine {
  std::vector<int32_t> prompt;
  std::vector<int32_t> tokens;
};

inline std::vector<GreedyLine> ReadGreedy(const std::string& path) {
  std::ifstream in(path);
  std::vector<GreedyLine> out;
  for (std::string line; std::getline(in, line);) {
    GreedyLine parsed;
    std::istringstream words(line);
    bool after = false;
    for (std::string word; words >> word;) {
      if (word == ":") {
        after = true;
        continue;
      }
      (after ? parsed.tokens : parsed.prompt).push_back(std::stoi(word));
    }
    out.push_back(std::move(parsed));
  }
  return out;
}

}  // namespace millrace::golden
