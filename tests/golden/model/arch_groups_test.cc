// The seam for KV memory by groups of layers: a view of keys and values for each group, with block
// tables of its own whose entries before the window are null, gives the bytes that one view gives.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "model/architectures.h"
#include "tests/golden/model/arch_golden.h"

namespace millrace::golden {
namespace {

// Memory of some layers, filled with NaNs; blocks in descending order.
struct GroupMemory {
  GroupMemory(const model::ModelConfig& config, size_t layers, size_t tokens) {
    layout.layers = static_cast<int32_t>(layers);
    layout.kv_heads = static_cast<int32_t>(config.kv_heads);
    layout.head_dim = static_cast<int32_t>(config.head_dim);
    layout.block_tokens = 16;
    const size_t blocks = tokens / 16 + 1;
    for (size_t i = 0; i < blocks; ++i) table.push_back(static_cast<uint32_t>(blocks - i));
    memory.assign((blocks + 1) * layout.BlockBytes() + 64, std::byte{0xff});
  }
  std::byte* data() {
    const auto address = reinterpret_cast<uintptr_t>(memory.data());
    return memory.data() + (64 - address % 64) % 64;
  }
  kernels::KvLayout layout;
  std::vector<uint32_t> table;
  std::vector<std::byte> memory;
};

// Logits of all tokens, fed in chunks; `groups` are the layers that share memory.
std::vector<float> AllLogits(const model::Transformer& transformer, const std::vector<int32_t>& ids,
                             const std::vector<model::LayerGroup>& groups,
                             kernels::Stream& stream) {
  const model::ModelConfig& config = transformer.config();
  constexpr int32_t kChunk = 23;
  std::vector<GroupMemory> memories;
  for (const auto& group : groups) memories.emplace_back(config, group.layers.size(), ids.size());
  model::Workspace workspace;
  workspace.max_tokens = kChunk;
  workspace.floats = transformer.WorkspaceFloats(kChunk);
  std::vector<float> buffer(workspace.floats + 16, NAN);
  workspace.data =
      reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(buffer.data()) + 63) / 64 * 64);
  std::vector<float> out;
  for (int32_t begin = 0; begin < static_cast<int32_t>(ids.size()); begin += kChunk) {
    const int32_t count = std::min(kChunk, static_cast<int32_t>(ids.size()) - begin);
    std::vector<kernels::AttentionRow> rows(groups.size());
    std::vector<model::KvView> views(groups.size());
    for (size_t g = 0; g < groups.size(); ++g) {
      GroupMemory& memory = memories[g];
      const auto window = static_cast<int32_t>(groups[g].window);
      for (int32_t b = 0; window > 0 && (b + 1) * 16 <= begin + 1 - window; ++b) {
        memory.table[static_cast<size_t>(b)] = 0;
      }
      rows[g] = {0, count, begin, 0, memory.table.data()};
      views[g] = {&memory.layout, memory.data(), {&rows[g], 1}};
    }
    std::vector<int32_t> positions, wanted;
    for (int32_t i = 0; i < count; ++i) {
      positions.push_back(begin + i);
      wanted.push_back(i);
    }
    const std::span<const int32_t> tokens(ids);
    const model::Batch batch{tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(count)),
                             positions, views, false};
    EXPECT_TRUE(transformer.Forward(batch, workspace, stream).ok());
    const size_t vocab = static_cast<size_t>(config.vocab_size);
    const size_t at = out.size();
    out.resize(at + static_cast<size_t>(count) * vocab);
    EXPECT_TRUE(transformer.Logits(wanted, workspace, &out[at], stream).ok());
  }
  return out;
}

class ArchGroups : public ::testing::TestWithParam<const char*> {};

TEST_P(ArchGroups, ViewsByGroupGiveTheBytesOfOneView) {
  const auto golden =
      ArchGolden::Read(std::string("tests/golden/model/arch_") + GetParam() + ".golden");
  ASSERT_TRUE(golden.ok()) << golden.status();
  ThreadPool pool({.workers = 2, .pin = false});
  kernels::Stream stream(pool, kernels::ComputeMode::kExact);
  const model::ModelDescription& description = (*golden)->description();
  model::PackArgs args;
  args.stream = &stream;
  const auto transformer =
      model::FindArchitecture(description.config.architecture)->make(description, args);
  ASSERT_TRUE(transformer.ok()) << transformer.status();
  const std::vector<int32_t>& ids = (*golden)->prompts().front().ids;

  model::LayerGroup all;
  all.layers.resize(static_cast<size_t>(description.config.layers));
  const std::vector<float> one = AllLogits(**transformer, ids, {all}, stream);
  const std::vector<model::LayerGroup> groups = LayerGroups(description.config);
  const std::vector<float> several = AllLogits(**transformer, ids, groups, stream);
  ASSERT_EQ(one.size(), several.size());
  for (float logit : one) ASSERT_TRUE(std::isfinite(logit));
  EXPECT_EQ(0, std::memcmp(one.data(), several.data(), one.size() * sizeof(float)));

  // Three views for two groups, or none: refused.
  model::Workspace workspace;
  const std::vector<model::KvView> views(groups.size() + 1);
  model::Batch batch;
  batch.kv = views;
  EXPECT_FALSE((*transformer)->Forward(batch, workspace, stream).ok());
}

// mistral has one group (all local), the others two.
INSTANTIATE_TEST_SUITE_P(Architectures, ArchGroups,
                         ::testing::Values("mistral", "qwen2", "gemma2", "gemma3"),
                         [](const auto& item) { return std::string(item.param); });

}  // namespace
}  // namespace millrace::golden
