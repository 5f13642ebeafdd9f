// The forward pass against transformers, fp32, on two small random llamas whose files are
// committed. Every weight type, grouped queries 3 to 1, tied and not, plain rope and llama3
// scaling.

#include <gtest/gtest.h>

#include <string>

#include "base/thread_pool.h"
#include "model/load_model.h"
#include "tests/golden/model/golden_file.h"
#include "tests/golden/model/oracle_run.h"

namespace millrace::golden {
namespace {

constexpr double kNormTolerance = 1e-4;
constexpr double kLargestTolerance = 1e-3;
constexpr char kFolder[] = "tests/golden/model/";

RowError WorstError(const GoldenFile& golden, const RowJudge& judge,
                    const model::Transformer& transformer, ThreadPool& pool) {
  RowError worst;
  for (const GoldenPrompt& prompt : golden.prompts) {
    const auto rows = RunLogits(transformer, pool, prompt.ids, prompt.positions, {});
    EXPECT_TRUE(rows.ok()) << rows.status();
    if (!rows.ok() || rows->size() != prompt.positions.size()) return {1e9, 1e9};
    for (size_t i = 0; i < prompt.rows.size(); ++i) {
      const RowError error = judge.Compare(rows->at(prompt.positions[i]), prompt.rows[i]);
      worst.norm = std::max(worst.norm, error.norm);
      worst.largest = std::max(worst.largest, error.largest);
    }
  }
  return worst;
}

class TinyOracle : public ::testing::TestWithParam<const char*> {};

TEST_P(TinyOracle, LogitsAndMutations) {
  const std::string base = std::string(kFolder) + GetParam();
  const auto golden = GoldenReader::Read(base + ".golden");
  ASSERT_TRUE(golden.ok()) << golden.status();
  const auto file = model::ModelFile::Open(base + ".gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  ThreadPool pool({.workers = 2, .pin = false});
  kernels::Stream stream(pool, kernels::ComputeMode::kExact);
  const RowJudge judge(*golden);

  const auto right = MakeMutant(**file, nullptr, stream);
  ASSERT_TRUE(right.ok()) << right.status();
  const RowError error = WorstError(*golden, judge, **right, pool);
  EXPECT_LE(error.norm, kNormTolerance);
  EXPECT_LE(error.largest, kLargestTolerance);
  RecordProperty("norm_error", std::to_string(error.norm));

  for (const Mutation& mutation : Mutations()) {
    const auto wrong = MakeMutant(**file, &mutation, stream);
    ASSERT_TRUE(wrong.ok()) << mutation.name << ": " << wrong.status();
    const RowError seen = WorstError(*golden, judge, **wrong, pool);
    EXPECT_GE(seen.norm, 20 * kNormTolerance) << mutation.name;
    EXPECT_GE(seen.largest, 20 * kLargestTolerance) << mutation.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TinyOracle, ::testing::Values("tiny_tied", "tiny_llama3"));

}  // namespace
}  // namespace millrace::golden
