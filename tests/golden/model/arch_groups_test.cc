// KV memory by groups of layers: in exact mode a group of local layers, with block tables of its
// own, blocks that go back when their window has passed and memory for little more than a window,
// gives the bytes that one group for all layers gives, which keeps everything.
//
// Controls: the blocks that went back are counted; they are overwritten with NaNs at once, and so
// are null and fresh ones; and a block overwritten while it is still seen does show.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "executor/step_driver.h"
#include "executor/step_executor.h"
#include "model/architectures.h"
#include "tests/golden/model/arch_golden.h"

namespace millrace::golden {
namespace {

constexpr int32_t kBlockTokens = 16;
constexpr int32_t kDecoded = 90;  // tokens drawn after the prompt

// Blocks that the tokens [position, position + count) of one sequence see at most in a group.
int32_t BlocksSeen(int32_t window, int32_t count) {
  return (window - 1 + count + kBlockTokens - 2) / kBlockTokens + 1;
}

// One sequence on an executor with one KV group, or with one for each of model::LayerGroups.
// Thread: one caller.
class OneSequence {
 public:
  OneSequence(const model::Transformer& transformer, ThreadPool& pool, int32_t chunk, bool groups)
      : chunk_(chunk) {
    executor::StepExecutorOptions options;
    options.mode = kernels::ComputeMode::kExact;
    options.block_tokens = kBlockTokens;
    options.max_num_seqs = 1;
    options.max_model_len = static_cast<int32_t>(transformer.config().context_length);
    options.poison_kv = true;
    const int32_t all = options.max_model_len / kBlockTokens;
    options.kv_blocks = all + 1;
    for (const model::LayerGroup& group : model::LayerGroups(transformer.config())) {
      if (!groups) break;
      const auto window = static_cast<int32_t>(group.window);
      // One more is the driver's source of NaNs.
      options.kv_group_blocks.push_back((window == 0 ? all : BlocksSeen(window, chunk)) + 1);
    }
    options.observer = [this](const executor::LogitsRow& row) {
      rows_[row.position].assign(row.logits.begin(), row.logits.end());
    };
    auto executor = executor::StepExecutor::Create(transformer, pool, options);
    EXPECT_TRUE(executor.ok()) << executor.status();
    executor_ = *std::move(executor);
    driver_.emplace(*executor_, executor::StepDriverOptions{.poison_released = true});
  }

  void Prefill(const std::vector<int32_t>& prompt) {
    sequence_ = driver_->Add(prompt);
    while (driver_->pending(sequence_) > 0) {
      const int32_t count = std::min(chunk_, driver_->pending(sequence_));
      const bool last = count == driver_->pending(sequence_);
      ASSERT_TRUE(Step({sequence_, count, last, true}));
      if (last) return;
    }
  }
  // False: the row has failed.
  bool Decode() { return Step({sequence_, 1, true}); }

  executor::StepDriver& driver() { return *driver_; }
  std::vector<executor::KvGroupCapacity> groups() const { return executor_->Capacity().kv_groups; }
  int32_t length() const { return static_cast<int32_t>(driver_->tokens(sequence_).size()); }
  const std::vector<TokenId>& tokens() const { return driver_->tokens(sequence_); }
  const std::map<int32_t, std::vector<float>>& rows() const { return rows_; }

 private:
  bool Step(const executor::DriverWork& work) {
    const auto result = driver_->Step({&work, 1});
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() && !result->rows[0].failed;
  }

  const int32_t chunk_;
  int sequence_ = 0;
  std::unique_ptr<executor::StepExecutor> executor_;
  std::optional<executor::StepDriver> driver_;
  std::map<int32_t, std::vector<float>> rows_;  // logits by position
};

class ArchGroups : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto golden =
        ArchGolden::Read(std::string("tests/golden/model/arch_") + GetParam() + ".golden");
    ASSERT_TRUE(golden.ok()) << golden.status();
    golden_ = *std::move(golden);
    kernels::Stream stream(pool_, kernels::ComputeMode::kExact);
    model::PackArgs args;
    args.stream = &stream;
    const model::ModelDescription& description = golden_->description();
    auto made = model::FindArchitecture(description.config.architecture)->make(description, args);
    ASSERT_TRUE(made.ok()) << made.status();
    transformer_ = *std::move(made);
  }
  const std::vector<int32_t>& prompt() const { return golden_->prompts().back().ids; }

  std::unique_ptr<ArchGolden> golden_;
  ThreadPool pool_{{.workers = 2, .pin = false}};
  std::unique_ptr<model::Transformer> transformer_;
};

TEST_P(ArchGroups, GroupsGiveTheBytesOfOneGroup) {
  OneSequence one(*transformer_, pool_, 64, false);
  ASSERT_EQ(one.groups().size(), 1u);
  one.Prefill(prompt());
  for (int32_t i = 0; i < kDecoded; ++i) ASSERT_TRUE(one.Decode());
  ASSERT_EQ(one.rows().size(), prompt().size() + kDecoded);
  for (const auto& [position, logits] : one.rows()) {
    for (const float logit : logits) ASSERT_TRUE(std::isfinite(logit)) << position;
  }
  for (const int32_t chunk : {1, 7, 23, 64}) {
    OneSequence several(*transformer_, pool_, chunk, true);
    several.Prefill(prompt());
    for (int32_t i = 0; i < kDecoded; ++i) ASSERT_TRUE(several.Decode());
    EXPECT_TRUE(one.rows() == several.rows()) << "chunks of " << chunk;
    EXPECT_EQ(one.tokens(), several.tokens()) << "chunks of " << chunk;
    int64_t local = 0;
    for (uint32_t g = 0; g < several.groups().size(); ++g) {
      const executor::KvGroupCapacity group = several.groups()[g];
      // The last token drawn was not fed.
      const int32_t passed =
          group.window == 0 ? 0 : (several.length() - 2 - group.window + 1) / kBlockTokens;
      EXPECT_EQ(several.driver().blocks_let_go(g), passed) << "group " << g;
      local += passed;
      // The same memory served again and again.
      EXPECT_TRUE(group.window == 0 || passed > group.blocks);
    }
    EXPECT_GT(local, 0);
  }
}

// Without this the test above could be blind: what is still seen, once overwritten, fails the row.
TEST_P(ArchGroups, ABlockOverwrittenTooEarlyShows) {
  for (uint32_t g = 0; g < model::LayerGroups(transformer_->config()).size(); ++g) {
    OneSequence run(*transformer_, pool_, 23, true);
    run.Prefill(prompt());
    ASSERT_TRUE(run.Decode());
    const auto& table = run.driver().table(0, g);
    const auto oldest =
        std::find_if(table.begin(), table.end(), [](BlockId block) { return block != kNullBlock; });
    ASSERT_NE(oldest, table.end());
    run.driver().PoisonBlock(0, static_cast<size_t>(oldest - table.begin()), g);
    EXPECT_FALSE(run.Decode()) << "group " << g;
  }
}

TEST_P(ArchGroups, AViewForEachGroupOrOneForAll) {
  kernels::Stream stream(pool_, kernels::ComputeMode::kExact);
  std::vector<float> memory(transformer_->WorkspaceFloats(1));
  model::Workspace workspace{memory.data(), memory.size(), 1};
  const size_t groups = model::LayerGroups(transformer_->config()).size();
  for (size_t count = 0; count <= groups + 1; ++count) {
    const std::vector<model::KvView> views(count);
    model::Batch batch;  // of no tokens: refused for its views only
    batch.kv = views;
    const absl::Status status = transformer_->Forward(batch, workspace, stream);
    const bool of_views = status.message().find("KV groups") != std::string::npos;
    EXPECT_EQ(of_views, count != 1 && count != groups) << count << ": " << status;
  }
}

// All layers of mistral and phi3 are local; the others have a group of global ones too.
INSTANTIATE_TEST_SUITE_P(Architectures, ArchGroups,
                         ::testing::Values("mistral", "qwen2", "phi3", "gemma2", "gemma3"),
                         [](const auto& item) { return std::string(item.param); });

}  // namespace
}  // namespace millrace::golden
