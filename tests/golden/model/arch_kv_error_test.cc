// What keys and values in 8 bits cost on the demo model: KL divergence from the same computation
// with fp32 ones, by the length of the context, beside bf16's. The first argument is the model's
// path. `--long` goes on from 1,024 to 8,192 tokens (minutes); `--write FILE` writes that table
// into the document of which it is a part. The text: long_text.ids, made by make_long_text.py.

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/thread_pool.h"
#include "model/load_model.h"
#include "tests/golden/model/measured.h"
#include "tests/golden/model/oracle_run.h"

namespace millrace::golden {
namespace {

constexpr char kBegin[] = "<!-- table: written by arch_kv_error_test --write -->";
constexpr char kEnd[] = "<!-- end of table -->";
constexpr int32_t kMeasured = 64;  // positions before each length

std::string g_model_path;
std::string g_write_path;
bool g_long = false;

std::vector<int32_t> ReadText() {
  std::ifstream in("tests/golden/model/long_text.ids", std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  std::vector<int32_t> out;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2) {
    out.push_back(static_cast<uint8_t>(bytes[i]) | static_cast<uint8_t>(bytes[i + 1]) << 8);
  }
  return out;
}

struct Difference {
  double mean = 0;
  double largest = 0;
  int same_top = 0;
};

// KL(a || b) over the rows of some positions.
Difference Compare(const LogitRows& a, const LogitRows& b, int32_t begin, int32_t end) {
  Difference out;
  for (int32_t p = begin; p < end; ++p) {
    const std::vector<float>&x = a.at(p), &y = b.at(p);
    const double kl = KlDivergence(x, y);
    out.mean += kl / (end - begin);
    out.largest = std::max(out.largest, kl);
    out.same_top += std::max_element(x.begin(), x.end()) - x.begin() ==
                    std::max_element(y.begin(), y.end()) - y.begin();
  }
  return out;
}

struct How {
  const char* name;
  kernels::ComputeMode mode;
  kernels::IsaTier tier = kernels::DetectIsaTier();
};

// One line a length: bf16's and int8's difference from fp32's when computed so.
std::string Lines(const model::Transformer& transformer, const How& how, std::vector<int32_t> ids,
                  const std::vector<int32_t>& lengths) {
  ids.resize(static_cast<size_t>(lengths.back()));
  std::vector<int32_t> positions;
  for (int32_t length : lengths) {
    for (int32_t p = length - kMeasured; p < length; ++p) positions.push_back(p);
  }
  ThreadPool pool({.workers = 2, .pin = false});
  std::map<kernels::KvType, LogitRows> rows;
  for (auto type : {kernels::KvType::kF32, kernels::KvType::kBF16, kernels::KvType::kInt8}) {
    RunOptions run;
    run.mode = how.mode;
    run.tier = how.tier;
    run.kv_type = type;
    run.chunk = 128;
    auto logits = RunLogits(transformer, pool, ids, positions, run);
    EXPECT_TRUE(logits.ok()) << logits.status();
    if (!logits.ok()) return "";
    rows[type] = *std::move(logits);
  }
  std::string out;
  for (int32_t length : lengths) {
    absl::StrAppendFormat(&out, "| %s | %d |", how.name, length);
    for (auto type : {kernels::KvType::kBF16, kernels::KvType::kInt8}) {
      const Difference d =
          Compare(rows[kernels::KvType::kF32], rows[type], length - kMeasured, length);
      absl::StrAppendFormat(&out, " %.5f | %.4f | %d of %d |", d.mean, d.largest, d.same_top,
                            kMeasured);
      // A cache that is wrong gives whole nats; these types give hundredths at most.
      EXPECT_LT(d.mean, 0.05) << kernels::KvTypeName(type) << " at " << length;
      EXPECT_GT(d.mean, 0.0) << kernels::KvTypeName(type) << " at " << length;
    }
    out += "\n";
  }
  return out;
}

TEST(KvError, OfTheDemoModelByLength) {
  const std::vector<int32_t> ids = ReadText();
  ASSERT_EQ(ids.size(), size_t{8192});
  ThreadPool pool({.workers = 2, .pin = false});
  kernels::Stream stream(pool, kernels::ComputeMode::kFast);
  const auto model = model::LoadModel(g_model_path, {}, stream);
  ASSERT_TRUE(model.ok()) << model.status();
  const model::Transformer& transformer = *model->transformer;
  using Mode = kernels::ComputeMode;
  std::string table =
      "| mode | context | bf16: mean KL | largest | same top-1 | int8: mean KL | largest | same "
      "top-1 |\n|---|---|---|---|---|---|---|---|\n";
  const How exact = {"exact", Mode::kExact}, fast = {"default", Mode::kFast};
  const How amx = {"default, AMX", Mode::kFast,
                   kernels::RunsIsaTier(kernels::IsaTier::kAmx) ? kernels::IsaTier::kAmx
                                                                : kernels::IsaTier::kAmxEmulated};
  if (g_long) {
    table += Lines(transformer, exact, ids, {128, 256, 512, 1024, 2048, 4096});
    table += Lines(transformer, fast, ids, {128, 256, 512, 1024, 2048, 4096, 8192});
    table += Lines(transformer, amx, ids, {128, 256, 512, 1024, 2048, 4096});
  } else {
    table += Lines(transformer, fast, ids, {128, 256, 512});
    table += Lines(transformer, amx, ids, {128});
  }
  std::printf("%s", table.c_str());
  if (g_write_path.empty()) return;
  EXPECT_TRUE(WriteBetween(g_write_path, kBegin, kEnd, table + "\n"));
}

}  // namespace
}  // namespace millrace::golden

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--long") {
      millrace::golden::g_long = true;
    } else if (argument == "--write" && i + 1 < argc) {
      millrace::golden::g_write_path = argv[++i];
      millrace::golden::g_long = true;
    } else {
      millrace::golden::g_model_path = argument;
    }
  }
  return RUN_ALL_TESTS();
}
