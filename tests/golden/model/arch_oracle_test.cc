// Each architecture against transformers (fp32, eager) on a small random model, in exact mode; and
// what each of many mistakes would do to it. `--write FILE` writes the table of mistakes.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <string>

#include "absl/strings/str_format.h"
#include "base/thread_pool.h"
#include "tests/golden/model/arch_golden.h"
#include "tests/golden/model/arch_mutations.h"
#include "tests/golden/model/oracle_run.h"

namespace millrace::golden {
namespace {

constexpr double kTolerance = 1e-4;  // relative 2-norm of a position
constexpr double kMargin = 20;       // of a mutation over the tolerance
constexpr char kFolder[] = "tests/golden/model/arch_";

const char* const kGoldens[] = {"llama_linear", "llama_llama3", "llama_yarn", "mistral", "qwen2",
                                "qwen3",        "phi3",         "gemma2",     "gemma3"};

std::map<std::string, std::string> g_tables;  // by golden

absl::StatusOr<std::unique_ptr<model::Transformer>> Make(const model::ModelDescription& description,
                                                         kernels::Stream& stream) {
  model::PackArgs args;
  args.stream = &stream;
  return model::FindArchitecture(description.config.architecture)->make(description, args);
}

// Relative 2-norm of the worst position of all prompts.
double WorstError(const ArchGolden& golden, const model::Transformer& transformer, ThreadPool& pool,
                  RunOptions run) {
  double worst = 0;
  for (const ArchPrompt& prompt : golden.prompts()) {
    run.max_model_len = prompt.max_model_len;
    const auto rows = RunLogits(transformer, pool, prompt.ids, prompt.positions, run);
    EXPECT_TRUE(rows.ok()) << rows.status();
    if (!rows.ok() || rows->size() != prompt.positions.size()) return INFINITY;
    for (size_t i = 0; i < prompt.positions.size(); ++i) {
      const std::vector<float>& got = rows->at(prompt.positions[i]);
      double difference = 0, norm = 0;
      for (size_t v = 0; v < golden.vocab(); ++v) {
        const double want = prompt.logits[i * golden.vocab() + v];
        difference += (got[v] - want) * (got[v] - want);
        norm += want * want;
      }
      const double error = std::sqrt(difference / norm);
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
  }
  return worst;
}

class ArchOracle : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto golden = ArchGolden::Read(std::string(kFolder) + GetParam() + ".golden");
    ASSERT_TRUE(golden.ok()) << golden.status();
    golden_ = *std::move(golden);
  }
  std::unique_ptr<ArchGolden> golden_;
  ThreadPool pool_{{.workers = 2, .pin = false}};
  kernels::Stream stream_{pool_, kernels::ComputeMode::kExact};
};

TEST_P(ArchOracle, AgreesAndSeesMistakes) {
  const auto right = Make(golden_->description(), stream_);
  ASSERT_TRUE(right.ok()) << right.status();
  const double error = WorstError(*golden_, **right, pool_, {});
  EXPECT_LE(error, kTolerance);
  std::string table = absl::StrFormat("| **%s** | **%.1e** | |\n", GetParam(), error);
  for (const ArchMutation& mutation : ArchMutations()) {
    if (!mutation.applies(golden_->description().config)) continue;
    Mutant mutant;
    mutant.description = golden_->description();
    mutation.apply(mutant);
    const auto wrong = Make(mutant.description, stream_);
    ASSERT_TRUE(wrong.ok()) << mutation.name << ": " << wrong.status();
    const double seen = WorstError(*golden_, **wrong, pool_, {});
    EXPECT_GE(seen, kMargin * kTolerance) << mutation.name;
    absl::StrAppendFormat(&table, "| %s | %.3f | %.0f |\n", mutation.name, seen, seen / kTolerance);
  }
  g_tables[GetParam()] = table;
}

// The bytes are the same in every tier and however the prompt is cut.
TEST_P(ArchOracle, BytesDoNotDependOnChunksAndTiers) {
  const auto transformer = Make(golden_->description(), stream_);
  ASSERT_TRUE(transformer.ok()) << transformer.status();
  for (const ArchPrompt& prompt : golden_->prompts()) {
    RunOptions run;
    run.max_model_len = prompt.max_model_len;
    const auto whole = RunLogits(**transformer, pool_, prompt.ids, {}, run);
    ASSERT_TRUE(whole.ok()) << whole.status();
    ASSERT_GE(whole->size(), prompt.ids.size());
    for (int tier = 0; tier <= static_cast<int>(kernels::DetectIsaTier()); ++tier) {
      run.tier = static_cast<kernels::IsaTier>(tier);
      if (!kernels::RunsIsaTier(run.tier)) continue;
      for (int32_t chunk : {1, 7, 64}) {
        if (chunk == 1 && run.tier == kernels::IsaTier::kScalar) continue;  // slow
        run.chunk = chunk;
        const auto rows = RunLogits(**transformer, pool_, prompt.ids, {}, run);
        ASSERT_TRUE(rows.ok()) << rows.status();
        EXPECT_TRUE(*rows == *whole) << kernels::IsaTierName(run.tier) << ", chunks of " << chunk;
      }
    }
  }
}

// The default mode differs by bf16 keys and values alone: the weights are plain.
TEST_P(ArchOracle, TheDefaultModeIsNear) {
  const auto transformer = Make(golden_->description(), stream_);
  ASSERT_TRUE(transformer.ok()) << transformer.status();
  RunOptions run;
  run.mode = kernels::ComputeMode::kFast;
  const double error = WorstError(*golden_, **transformer, pool_, run);
  // bf16 keeps 8 bits; scores spread by 3 take that to a few per cent of a weight.
  EXPECT_LE(error, 0.15);
  EXPECT_GT(error, 1e-5);  // and it did run
}

// Keys and values in 8 bits: steps of 1/127 of a head's largest value, one to two times bf16's
// error at that value and more below it. The bytes depend on the sequence alone, as those of other
// types do.
TEST_P(ArchOracle, KeysAndValuesInInt8AreNear) {
  const auto transformer = Make(golden_->description(), stream_);
  ASSERT_TRUE(transformer.ok()) << transformer.status();
  RunOptions run;
  run.kv_type = kernels::KvType::kInt8;
  const double error = WorstError(*golden_, **transformer, pool_, run);
  RecordProperty("error", std::to_string(error));
  EXPECT_LE(error, 0.15);
  EXPECT_GT(error, 1e-3);
  const ArchPrompt& prompt = golden_->prompts().front();
  run.max_model_len = prompt.max_model_len;
  const auto whole = RunLogits(**transformer, pool_, prompt.ids, {}, run);
  run.chunk = 7;
  const auto chunked = RunLogits(**transformer, pool_, prompt.ids, {}, run);
  ASSERT_TRUE(whole.ok() && chunked.ok());
  EXPECT_TRUE(*whole == *chunked);
}

INSTANTIATE_TEST_SUITE_P(Architectures, ArchOracle, ::testing::ValuesIn(kGoldens),
                         [](const auto& item) { return std::string(item.param); });

}  // namespace
}  // namespace millrace::golden

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const int result = RUN_ALL_TESTS();
  if (argc != 3 || std::string(argv[1]) != "--write" || result != 0) return result;
  std::ofstream out(argv[2]);
  out << "# What each mistake does to the goldens of the architectures\n\n"
         "Relative 2-norm of the worst position in exact mode (the tolerance is 1e-4), and how "
         "many "
         "times the\ntolerance that is; the test asks for 20. Written by `arch_oracle_test --write "
         "tests/golden/model/arch_mutations.md`.\n\n"
         "| golden, mistake | rel. 2-norm | times the tolerance |\n|---|---|---|\n";
  for (const auto& [name, table] : millrace::golden::g_tables) out << table;
  return 0;
}
