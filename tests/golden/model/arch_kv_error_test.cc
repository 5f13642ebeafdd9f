// What keys and values in 8 bits cost on the demo model: KL divergence from the same computation
// with fp32 ones, by the length of the context, beside bf16's. `--write FILE` writes the table into
// the document of which it is a part. The first argument is the model's path.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/thread_pool.h"
#include "model/load_model.h"
#include "tests/golden/model/golden_file.h"
#include "tests/golden/model/oracle_run.h"

namespace millrace::golden {
namespace {

constexpr char kBegin[] = "<!-- table: written by arch_kv_error_test --write -->";
constexpr char kEnd[] = "<!-- end of table -->";
constexpr int32_t kMeasured = 32;  // positions before each length

std::string g_model_path;
std::string g_write_path;

struct Difference {
  double mean = 0;
  double largest = 0;
  int same_top = 0;
};

// KL(a || b) over the rows of some positions.
Difference Compare(const LogitRows& a, const LogitRows& b, int32_t begin, int32_t end) {
  Difference out;
  const auto log_sum = [](const std::vector<float>& row) {
    const double top = static_cast<double>(*std::max_element(row.begin(), row.end()));
    double sum = 0;
    for (float x : row) sum += std::exp(static_cast<double>(x) - top);
    return top + std::log(sum);
  };
  for (int32_t p = begin; p < end; ++p) {
    const std::vector<float>&x = a.at(p), &y = b.at(p);
    const double norm_x = log_sum(x), norm_y = log_sum(y);
    double kl = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double log_p = static_cast<double>(x[i]) - norm_x;
      kl += std::exp(log_p) * (log_p - static_cast<double>(y[i]) + norm_y);
    }
    out.mean += kl / (end - begin);
    out.largest = std::max(out.largest, kl);
    out.same_top += std::max_element(x.begin(), x.end()) - x.begin() ==
                    std::max_element(y.begin(), y.end()) - y.begin();
  }
  return out;
}

TEST(KvError, OfTheDemoModelByLength) {
  const auto golden = GoldenReader::Read("tests/golden/model/smollm2.golden");
  ASSERT_TRUE(golden.ok()) << golden.status();
  const std::vector<int32_t>& ids = golden->prompts.back().ids;  // the long one
  const std::vector<int32_t> lengths = {128, 256, 512, static_cast<int32_t>(ids.size())};
  std::vector<int32_t> positions;
  for (int32_t length : lengths) {
    for (int32_t p = length - kMeasured; p < length; ++p) positions.push_back(p);
  }
  ThreadPool pool({.workers = 2, .pin = false});
  kernels::Stream stream(pool, kernels::ComputeMode::kFast);
  const auto model = model::LoadModel(g_model_path, {}, stream);
  ASSERT_TRUE(model.ok()) << model.status();
  std::map<kernels::KvType, LogitRows> rows;
  for (auto type : {kernels::KvType::kF32, kernels::KvType::kBF16, kernels::KvType::kInt8}) {
    RunOptions run;
    run.mode = kernels::ComputeMode::kFast;
    run.kv_type = type;
    auto logits = RunLogits(*model->transformer, pool, ids, positions, run);
    ASSERT_TRUE(logits.ok()) << logits.status();
    rows[type] = *std::move(logits);
  }
  std::string table =
      "| context | bf16: mean KL | largest | same top-1 | int8: mean KL | largest | same top-1 |\n"
      "|---|---|---|---|---|---|---|\n";
  for (int32_t length : lengths) {
    absl::StrAppendFormat(&table, "| %d |", length);
    for (auto type : {kernels::KvType::kBF16, kernels::KvType::kInt8}) {
      const Difference d =
          Compare(rows[kernels::KvType::kF32], rows[type], length - kMeasured, length);
      absl::StrAppendFormat(&table, " %.5f | %.4f | %d of %d |", d.mean, d.largest, d.same_top,
                            kMeasured);
      // A cache that is wrong gives whole nats; these types give hundredths at most.
      EXPECT_LT(d.mean, 0.05) << kernels::KvTypeName(type) << " at " << length;
      EXPECT_GT(d.mean, 0.0) << kernels::KvTypeName(type) << " at " << length;
    }
    table += "\n";
  }
  std::printf("%s", table.c_str());
  if (g_write_path.empty()) return;
  std::ifstream in(g_write_path);
  std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const size_t begin = text.find(kBegin), end = text.find(kEnd);
  ASSERT_NE(begin, std::string::npos);
  ASSERT_NE(end, std::string::npos);
  text.replace(begin, end - begin, std::string(kBegin) + "\n\n" + table + "\n");
  std::ofstream(g_write_path) << text;
}

}  // namespace
}  // namespace millrace::golden

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--write" && i + 1 < argc) {
      millrace::golden::g_write_path = argv[++i];
    } else {
      millrace::golden::g_model_path = argument;
    }
  }
  return RUN_ALL_TESTS();
}
