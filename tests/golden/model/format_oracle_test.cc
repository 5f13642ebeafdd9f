// Each architecture in each weight format against transformers on the dequantized weights, through
// the node's own readers: exact mode to the last bits, the default mode within what its number
// formats cost in transformers itself; and what mistakes of quantized formats would do.
// `--write FILE` writes the tables.

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <string>

#include "absl/strings/str_format.h"
#include "base/thread_pool.h"
#include "tests/golden/model/format_golden.h"
#include "tests/golden/model/format_mutations.h"
#include "tests/golden/model/measured.h"

namespace millrace::golden {
namespace {

constexpr double kTolerance = 1e-4;     // exact mode: relative 2-norm of a position, and KL
constexpr double kDefaultGoal = 1e-3;   // issue 4's wish for the default mode: mean KL
constexpr double kOverSimulated = 2.5;  // of the default mode over its number formats' own cost
// Dense matrices on AMX's tiles: both operands in bf16, which `simulated` leaves in fp32.
constexpr double kDenseOnTiles = 1e-2;
constexpr double kMargin = 20;  // of a mutation over the tolerance

const char* const kArchitectures[] = {"llama", "mistral", "qwen2", "qwen3",
                                      "phi3",  "gemma2",  "gemma3"};

struct Difference {
  double norm = 0;     // relative 2-norm of the worst position
  double mean_kl = 0;  // of positions, in nats
  double largest_kl = 0;
};

class FormatOracle : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto golden =
        FormatGolden::Read(std::string("tests/golden/model/format_") + GetParam() + ".golden");
    ASSERT_TRUE(golden.ok()) << golden.status();
    golden_ = *std::move(golden);
  }
  absl::StatusOr<std::unique_ptr<model::Transformer>> Pack(
      const model::ModelDescription& description) {
    model::PackArgs args;
    args.stream = &stream_;
    return model::FindArchitecture(description.config.architecture)->make(description, args);
  }
  Difference Compare(const FormatCase& format, const model::Transformer& transformer,
                     kernels::ComputeMode mode, kernels::IsaTier tier = kernels::DetectIsaTier()) {
    Difference out;
    RunOptions run;
    run.mode = mode;
    run.tier = tier;
    run.max_model_len = golden_->max_model_len();
    const std::vector<int32_t>& positions = golden_->positions();
    const auto rows = RunLogits(transformer, pool_, golden_->ids(), positions, run);
    EXPECT_TRUE(rows.ok()) << rows.status();
    if (!rows.ok() || rows->size() != positions.size()) return {INFINITY, INFINITY, INFINITY};
    for (size_t i = 0; i < positions.size(); ++i) {
      const float* want = &format.logits[i * golden_->vocab()];
      const std::vector<float>& got = rows->at(positions[i]);
      double difference = 0, norm = 0;
      for (size_t v = 0; v < golden_->vocab(); ++v) {
        const double x = want[v], d = static_cast<double>(got[v]) - x;
        difference += d * d;
        norm += x * x;
      }
      const double error = std::sqrt(difference / norm), kl = KlDivergence({want, got.size()}, got);
      if (std::isnan(error) || std::isnan(kl)) return {INFINITY, INFINITY, INFINITY};
      out.norm = std::max(out.norm, error);
      out.mean_kl += kl / static_cast<double>(positions.size());
      out.largest_kl = std::max(out.largest_kl, kl);
    }
    return out;
  }

  std::unique_ptr<FormatGolden> golden_;
  ThreadPool pool_{{.workers = 2, .pin = false}};
  kernels::Stream stream_{pool_, kernels::ComputeMode::kExact};
};

std::map<std::string, std::string> g_agreement, g_mistakes;  // tables, by architecture

TEST_P(FormatOracle, EveryFormatAgrees) {
  std::string& table = g_agreement[GetParam()];
  for (const FormatCase& format : golden_->formats()) {
    const std::string name = format.carrier + " " + format.name;
    const auto made = golden_->Make(format);
    ASSERT_TRUE(made.ok()) << name << ": " << made.status();
    const auto transformer = Pack((*made)->description);
    ASSERT_TRUE(transformer.ok()) << name << ": " << transformer.status();
    const Difference exact = Compare(format, **transformer, kernels::ComputeMode::kExact);
    EXPECT_LE(exact.norm, kTolerance) << name;
    EXPECT_LT(exact.largest_kl, kTolerance) << name;
    const Difference fast = Compare(format, **transformer, kernels::ComputeMode::kFast);
    double simulated = 0;
    for (double kl : format.simulated) {
      simulated += kl / static_cast<double>(format.simulated.size());
    }
    EXPECT_LE(fast.mean_kl, std::max(kDefaultGoal, kOverSimulated * simulated)) << name;
    EXPECT_GT(fast.mean_kl, 1e-8) << name << ": did the default mode run?";
    const Difference tiles =
        Compare(format, **transformer, kernels::ComputeMode::kFast, kernels::IsaTier::kAmxEmulated);
    const bool dense = format.name == "F16" || format.name == "BF16";
    EXPECT_LE(tiles.mean_kl,
              std::max(dense ? kDenseOnTiles : kDefaultGoal, kOverSimulated * simulated))
        << name;
    absl::StrAppendFormat(
        &table, "| %s | %s | %s | %.1e | %.0e | %.1e%s | %.1e | %.1e | %.1e |\n", GetParam(),
        format.carrier, format.name, exact.norm, std::max(exact.largest_kl, 0.0), fast.mean_kl,
        fast.mean_kl < kDefaultGoal ? "" : " (over)", fast.largest_kl, simulated, tiles.mean_kl);
  }
}

TEST_P(FormatOracle, MistakesAreSeen) {
  std::string& table = g_mistakes[GetParam()];
  for (const FormatCase& format : golden_->formats()) {
    const auto made = golden_->Make(format);
    ASSERT_TRUE(made.ok()) << made.status();
    for (const FormatMutation& mutation : FormatMutations()) {
      FormatMutant mutant((*made)->description);
      if (!mutation.apply(mutant)) continue;  // not of this format
      const auto wrong = Pack(mutant.description);
      ASSERT_TRUE(wrong.ok()) << mutation.name << ": " << wrong.status();
      const double seen = Compare(format, **wrong, kernels::ComputeMode::kExact).norm;
      EXPECT_GE(seen, kMargin * kTolerance) << format.name << ": " << mutation.name;
      absl::StrAppendFormat(&table, "| %s | %s | %s | %.3f | %.0f |\n", GetParam(), format.name,
                            mutation.name, seen, seen / kTolerance);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, FormatOracle, ::testing::ValuesIn(kArchitectures),
                         [](const auto& item) { return std::string(item.param); });

void Write(const char* path) {
  std::ofstream out(path);
  out << "# Every architecture in every weight format, against transformers\n\n"
         "Small random models, logits of 12 positions against transformers (fp32, eager) on the "
         "dequantized weights.\nExact mode: the worst position's relative 2-norm and the largest "
         "KL (limits: 1e-4 both). Default mode: mean\nand largest KL; `(over)` where the mean is "
         "above issue 4's wish of 1e-3. `simulated` is the mean KL of\ntransformers itself with "
         "that mode's number formats (8-bit activations before quantized matrices, attention\nin "
         "bf16); the test holds the default mode to 2.5 times that, or 1e-3. `AMX` is the mean "
         "KL of the "
         "default mode\non AMX's tiles (emulated; the same limit, but 1e-2 where dense). Written "
         "by\n"
         "`format_oracle_test --write tests/golden/model/format_kl.md`.\n\n"
         "| architecture | carrier | format | exact: 2-norm | exact: KL | default: mean KL | "
         "largest | simulated | AMX |\n|---|---|---|---|---|---|---|---|---|\n";
  for (const auto& [name, table] : g_agreement) out << table;
  out << "\nMistakes of quantized formats, in exact mode (the test asks for 20 times the "
         "tolerance):\n\n| architecture | format | mistake | rel. 2-norm | times the tolerance |\n"
         "|---|---|---|---|---|\n";
  for (const auto& [name, table] : g_mistakes) out << table;
}

}  // namespace
}  // namespace millrace::golden

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const int result = RUN_ALL_TESTS();
  if (argc == 3 && std::string(argv[1]) == "--write" && result == 0) {
    millrace::golden::Write(argv[2]);
  }
  return result;
}
