// What an output head in int8 costs: KL divergence from the same computation with the file's own,
// on the demo model and on the random models of the goldens. `--write FILE` writes the table into
// the document of which it is a part. The first argument is the demo model's path.
//
// The demo model's table is Q8_0 in its file, so that making it int8 once more would show nothing.
// It is first made 16-bit, with what rounding took from it put back at random: each value moves by
// up to half a step of its group.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/thread_pool.h"
#include "model/load_model.h"
#include "tests/golden/model/arch_golden.h"
#include "tests/golden/model/golden_file.h"
#include "tests/golden/model/measured.h"
#include "tests/golden/model/oracle_run.h"

namespace millrace::golden {
namespace {

constexpr char kBegin[] = "<!-- table: written by head_error_test --write -->";
constexpr char kEnd[] = "<!-- end of head table -->";
constexpr double kExactLimit = 1e-3;

MeasureArguments g_arguments;

// A row of the table: KL(a || b) over the positions.
double AddRow(const std::string& name, const LogitRows& a, const LogitRows& b, std::string& table) {
  double mean = 0, largest = 0;
  int same = 0;
  for (const auto& [position, x] : a) {
    const std::vector<float>& y = b.at(position);
    const double kl = KlDivergence(x, y);
    mean += kl / static_cast<double>(a.size());
    largest = std::max(largest, kl);
    same += std::max_element(x.begin(), x.end()) - x.begin() ==
            std::max_element(y.begin(), y.end()) - y.begin();
  }
  absl::StrAppendFormat(&table, "| %s | %d | %.6f | %.5f | %d |\n", name, a.size(), mean, largest,
                        same);
  return mean;
}

std::unique_ptr<model::Transformer> Make(const model::ModelDescription& description,
                                         kernels::Stream& stream) {
  model::PackArgs args;
  args.stream = &stream;
  auto made = model::FindArchitecture(description.config.architecture)->make(description, args);
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *std::move(made) : nullptr;
}

// The matrix in bf16, each value moved by up to half of 1 / 127 of the largest of its 32.
std::vector<uint16_t> Unrounded(const kernels::RawMatrix& matrix) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<float> half(-0.5f, 0.5f);
  std::vector<uint16_t> out;
  std::vector<float> row(static_cast<size_t>(matrix.cols));
  for (int64_t r = 0; r < matrix.rows; ++r) {
    kernels::DequantizeRawRow(matrix, r, row.data());
    for (size_t k = 0; k < row.size(); ++k) {
      const auto group = row.begin() + static_cast<std::ptrdiff_t>(k / 32 * 32);
      if (k % 32 == 0) {
        float largest = 0;
        for (auto it = group; it != group + 32; ++it) largest = std::max(largest, std::abs(*it));
        for (auto it = group; it != group + 32; ++it) *it += half(random) * largest / 127;
      }
      uint32_t bits;
      std::memcpy(&bits, &row[k], 4);
      out.push_back(static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16));
    }
  }
  return out;
}

TEST(HeadError, OfTheDemoModel) {
  const auto golden = GoldenReader::Read("tests/golden/model/smollm2.golden");
  ASSERT_TRUE(golden.ok()) << golden.status();
  const auto file = model::ModelFile::Open(g_arguments.model_path);
  ASSERT_TRUE(file.ok()) << file.status();
  model::ModelDescription description = (*file)->description();
  kernels::RawMatrix& head = description.tensors.at("embedding").matrix;
  const std::vector<uint16_t> half = Unrounded(head);
  head.type = kernels::WeightType::kBF16;
  head.data = half.data();
  head.bytes = half.size() * 2;
  ThreadPool pool({.workers = 2, .pin = false});
  kernels::Stream stream(pool, kernels::ComputeMode::kFast);
  std::string table =
      "| model | positions | mean KL | largest | same top-1 |\n|---|---|---|---|---|\n";
  // Logits at the goldens' positions of all prompts, one after the other.
  const auto run_all = [&](const model::ModelDescription& made_of, kernels::ComputeMode mode) {
    const auto transformer = Make(made_of, stream);
    RunOptions run;
    run.mode = mode;
    LogitRows rows;
    int32_t base = 0;
    for (const GoldenPrompt& prompt : golden->prompts) {
      const auto logits = RunLogits(*transformer, pool, prompt.ids, prompt.positions, run);
      EXPECT_TRUE(logits.ok()) << logits.status();
      for (const auto& [position, row] : *logits) rows[base + position] = row;
      base += static_cast<int32_t>(prompt.ids.size());
    }
    return rows;
  };
  model::ModelDescription tied = description, untied = description;
  untied.config.tied_embeddings = false;
  untied.tensors["head"] = untied.tensors.at("embedding");
  for (model::ModelDescription* d : {&tied, &untied}) {
    model::ChooseHead(model::HeadType::kAuto, d);
    ASSERT_TRUE(d->int8_head);
  }
  const LogitRows want = run_all(description, kernels::ComputeMode::kExact);
  for (auto mode : {kernels::ComputeMode::kExact, kernels::ComputeMode::kFast}) {
    const bool exact = mode == kernels::ComputeMode::kExact;
    const std::string of = absl::StrFormat("demo model, %s mode, ", exact ? "exact" : "fast");
    double source = 0;
    if (!exact) source = AddRow(of + "bf16 head", want, run_all(description, mode), table);
    for (const auto& [what, made_of] :
         {std::pair("int8 head", &untied), std::pair("int8 head, which is the table too", &tied)}) {
      const double mean = AddRow(of + what, want, run_all(*made_of, mode), table);
      // In fast mode it adds less than the mode itself costs.
      EXPECT_LT(mean, exact ? kExactLimit : 2 * source) << what;
      EXPECT_GT(mean, 0.0);
    }
  }
  for (const char* name : {"llama_llama3", "qwen2", "gemma2", "gemma3", "phi3"}) {
    const auto arch = ArchGolden::Read(absl::StrFormat("tests/golden/model/arch_%s.golden", name));
    ASSERT_TRUE(arch.ok()) << arch.status();
    model::ModelDescription int8 = (*arch)->description();
    if (int8.tensors.at(std::string(model::HeadTensor(int8))).matrix.cols % 32 != 0) continue;
    int8.int8_head = true;  // from fp32, which ChooseHead leaves alone
    const auto plain = Make((*arch)->description(), stream), made = Make(int8, stream);
    ASSERT_TRUE(plain != nullptr && made != nullptr);
    const ArchPrompt& prompt = (*arch)->prompts().front();
    RunOptions run;
    run.max_model_len = prompt.max_model_len;
    const auto a = RunLogits(*plain, pool, prompt.ids, {}, run);
    const auto b = RunLogits(*made, pool, prompt.ids, {}, run);
    ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
    AddRow(absl::StrFormat("random %s, exact mode", name), *a, *b, table);
  }
  std::printf("%s", table.c_str());
  if (g_arguments.write_path.empty()) return;
  EXPECT_TRUE(WriteBetween(g_arguments.write_path, kBegin, kEnd, table + "\n"));
}

}  // namespace
}  // namespace millrace::golden

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  millrace::golden::g_arguments = millrace::golden::ReadMeasureArguments(argc, argv);
  return RUN_ALL_TESTS();
}
