// `millrace bench` on a tiny random model: the shape of its two reports, what it refuses, and that
// sequences which are copies compute what the original does. No time is checked.

#include "cli/bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/gguf_writer.h"

namespace millrace::cli {
namespace {

using ::testing::HasSubstr;

class BenchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = (std::filesystem::temp_directory_path() /
             ("millrace_bench_test_" + std::to_string(getpid()) + ".gguf"))
                .string();
    millrace::testing::LlamaShape shape;
    shape.type = kernels::WeightType::kQ8_0;
    millrace::testing::WriteFile(path_, millrace::testing::RandomLlama(shape, 1).Build());
  }
  void TearDown() override { std::filesystem::remove(path_); }

  // As typed: "bench MODEL" and these.
  CommandLine Parse(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {"millrace", "bench", path_});
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    ::testing::internal::CaptureStderr();
    const CommandLine line = ParseCommandLine(static_cast<int>(argv.size()), argv.data());
    ::testing::internal::GetCapturedStderr();
    return line;
  }
  // Quick: the probes read a gigabyte.
  BenchOptions Small() const {
    BenchOptions options = Parse({"--batches", "1,3", "--contexts", "40,5", "--prefill", "70",
                                  "--steps", "2", "--threads", "1", "--probe-seconds", "0"})
                               .bench;
    return options;
  }

  std::string path_;
};

TEST_F(BenchTest, TheCommandLineIsRead) {
  const BenchOptions options = Small();
  EXPECT_EQ(options.model.model, path_);
  EXPECT_EQ(options.batches, (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(options.contexts, (std::vector<int64_t>{40, 5}));
  EXPECT_EQ(options.prefill, 70);
  EXPECT_FALSE(options.model.exact);
  EXPECT_TRUE(Parse({"--numerics", "exact"}).bench.model.exact);
  EXPECT_FALSE(Parse({"--numerics", "default"}).bench.model.exact);
  EXPECT_FALSE(Parse({"--numerics", "default"}).bench.model.batch_invariant);
  EXPECT_TRUE(Parse({"--numerics", "batch-invariant"}).bench.model.batch_invariant);
  EXPECT_FALSE(Parse({"--numerics", "batch-invariant"}).bench.model.exact);
  EXPECT_EQ(Parse({}).bench.batches, (std::vector<int64_t>{1, 8, 32}));
}

TEST_F(BenchTest, WrongArgumentsLeaveWithTwo) {
  for (const std::vector<std::string>& wrong :
       std::vector<std::vector<std::string>>{{"--batches", "0"},
                                             {"--batches", "1,x"},
                                             {"--contexts", "-1"},
                                             {"--steps", "0"},
                                             {"--numerics", "sloppy"},
                                             {"--kv-dtype", "f64"},
                                             {"--max-num-seqs", "4"}}) {
    const CommandLine line = Parse(wrong);
    EXPECT_EQ(line.command, Command::kNone) << wrong[0] << " " << wrong[1];
    EXPECT_EQ(line.exit_code, 2) << wrong[0] << " " << wrong[1];
  }
}

TEST_F(BenchTest, EveryBatchAndContextIsMeasured) {
  const auto report = MeasureModel(Small());
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_EQ(report->prefills.size(), 1u);
  EXPECT_EQ(report->prefills[0].tokens, 70);
  ASSERT_EQ(report->decodes.size(), 4u);
  const std::pair<int64_t, int64_t> expected[] = {{1, 40}, {3, 40}, {1, 5}, {3, 5}};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(report->decodes[i].batch, expected[i].first);
    EXPECT_EQ(report->decodes[i].context, expected[i].second);
    EXPECT_GT(report->decodes[i].seconds, 0);
  }
  // 2 layers of q 96x64, k and v 32x64, o 64x96, three of 96x64; a head of 100x64.
  const double layers = 2.0 * (96 * 64 + 2 * 32 * 64 + 64 * 96 + 3 * 96 * 64), head = 100 * 64;
  EXPECT_DOUBLE_EQ(report->prefills[0].ops, 2 * (70 * layers + head));
  EXPECT_DOUBLE_EQ(report->decodes[1].ops, 2 * 3 * (layers + head));
  // bf16 keys and values: 2 layers, 1 head of 32; 2 steps at lengths 42 and 43.
  const double kv = 2 * 2 * 32 * 2;
  EXPECT_DOUBLE_EQ(report->decodes[1].bytes, report->weight_bytes + 3 * 42.5 * kv);
  EXPECT_EQ(report->limits.ops_per_second, 0);
}

TEST_F(BenchTest, TheReportsNameWhatRan) {
  BenchOptions options = Small();
  options.model.exact = true;
  auto report = MeasureModel(options);
  ASSERT_TRUE(report.ok()) << report.status();
  const std::string unprobed = ReportTable(*report);
  EXPECT_THAT(unprobed, HasSubstr("numerics exact, KV f32, 1 threads"));
  EXPECT_THAT(unprobed, HasSubstr(kernels::IsaTierName(kernels::DetectIsaTier())));
  EXPECT_THAT(unprobed, Not(HasSubstr("limits")));
  EXPECT_THAT(unprobed, HasSubstr("stolen"));

  // The matrix unit's tier, emulated here, runs in the default numerics alone.
  options.model.exact = false;
  options.model.cpu_tier = "amx-emulated";
  const auto tiled = MeasureModel(options);
  ASSERT_TRUE(tiled.ok()) << tiled.status();
  EXPECT_THAT(ReportTable(*tiled), HasSubstr("amx-emulated, numerics default"));
  options.model.batch_invariant = true;
  const auto invariant = MeasureModel(options);
  ASSERT_TRUE(invariant.ok()) << invariant.status();
  EXPECT_THAT(ReportTable(*invariant),
              HasSubstr(std::string(kernels::IsaTierName(kernels::DetectIsaTier())) +
                        ", numerics batch-invariant"));

  report->limits = {report->decodes[0].bytes / report->decodes[0].seconds * 2, 1e12, "probe"};
  EXPECT_THAT(ReportTable(*report), HasSubstr("50 %"));
  const Json json = ReportJson(*report);
  const auto parsed = Json::Parse(json.Dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->Find("decode")->array().size(), 4u);
  double share = 0, rate = 0;
  ASSERT_TRUE(parsed->Find("decode")->array()[0].Find("bandwidth_share")->GetDouble(&share));
  EXPECT_NEAR(share, 0.5, 1e-9);
  ASSERT_TRUE(parsed->Find("prefill")->array()[0].Find("tokens_per_second")->GetDouble(&rate));
  EXPECT_GT(rate, 0);
  for (const char* key : {"cpu", "cpu_flags", "tier", "threads", "steal_share", "busy_share",
                          "read_bytes_per_second", "int8_ops_per_second", "kv_dtype"}) {
    EXPECT_NE(parsed->Find(key), nullptr) << key;
  }
}

TEST_F(BenchTest, DefaultsAreCutToTheModelAndWishesAreNot) {
  BenchOptions options = Small();
  options.contexts.clear();
  options.prefill = 512;
  options.prefill_given = false;
  const auto report = MeasureModel(options);  // a context of 256
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->prefills[0].tokens, 256);
  EXPECT_EQ(report->decodes.back().context, 128);

  options.prefill_given = true;
  EXPECT_THAT(MeasureModel(options).status().message(), HasSubstr("--prefill 512 is more than"));
  options = Small();
  options.contexts = {254};
  EXPECT_THAT(MeasureModel(options).status().message(), HasSubstr("at most 253"));
  options.contexts = {253};
  EXPECT_TRUE(MeasureModel(options).ok());
  options.steps = 256;
  EXPECT_THAT(MeasureModel(options).status().message(), HasSubstr("--steps 256 is more than"));
}

TEST_F(BenchTest, APromptMayBeLongerThanEveryContext) {
  BenchOptions options = Small();
  options.batches = {1};
  options.contexts = {5};
  options.prefill = 200;
  const auto report = MeasureModel(options);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->prefills[0].tokens, 200);
}

TEST_F(BenchTest, JsonIsOneLineAndTheTableHasARowForEach) {
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(RunBench(Small(), true), 0);
  const std::string line = ::testing::internal::GetCapturedStdout();
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  EXPECT_TRUE(Json::Parse(line).ok());
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(RunBench(Small(), false), 0);
  const std::string table = ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(table, HasSubstr("\nprefill       -       70 "));
  EXPECT_THAT(table, HasSubstr("\ndecode        3       40 "));
}

TEST_F(BenchTest, FailuresAreOneLine) {
  BenchOptions options = Small();
  options.model.model = "/nowhere.gguf";
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(RunBench(options, false), 1);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("millrace: "));
}

TEST_F(BenchTest, WhatCannotFitIsRefusedBeforeLoading) {
  millrace::testing::LlamaShape shape;
  shape.context = 1 << 20;
  millrace::testing::WriteFile(path_, millrace::testing::RandomLlama(shape, 1).Build());
  BenchOptions options = Small();
  options.batches = {1, 65536};
  options.contexts = {1'000'000};
  const absl::Status status = MeasureModel(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("batch 65536 at context 1000000: it needs"));
  EXPECT_THAT(status.message(), HasSubstr("smaller --batches"));
}

}  // namespace
}  // namespace millrace::cli
