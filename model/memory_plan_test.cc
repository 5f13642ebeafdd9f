#include "model/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/thread_pool.h"
#include "model/architectures.h"
#include "model/gguf.h"
#include "model/gguf_model.h"
#include "model/load_model.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/safetensors_writer.h"

namespace millrace::model {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

constexpr size_t kMiB = size_t{1} << 20;

// A model of about 5 MiB whose KV needs 2 * 2 layers * 2 heads * 64 * 4 B = 2 KiB a token in fp32.
class MemoryPlanTest : public ::testing::Test {
 protected:
  MemoryPlanTest() {
    testing::LlamaShape shape;
    shape.vocab = 1000, shape.hidden = 256, shape.heads = 4, shape.kv_heads = 2;
    shape.head_dim = 64, shape.feed_forward = 512, shape.context = 65536, shape.tied = false;
    file_ = testing::RandomLlama(shape, 1).Build();
    contents_ = *ParseGguf(std::as_bytes(std::span(file_)), "m.gguf");
    description_ = *DescribeGguf(contents_);
    request_.kv_groups = {Group(2, 0)};
    request_.max_num_seqs = 16;
  }
  static KvGroupLayout Group(int32_t layers, int32_t window) {
    KvGroupLayout group;
    group.layout.layers = layers;
    group.layout.kv_heads = 2;
    group.layout.head_dim = 64;
    group.window = window;
    return group;
  }
  MemoryPlan Plan(size_t available, size_t total = 0) const {
    const MachineMemory memory{total == 0 ? available : total, available, "test"};
    const auto plan = PlanMemory(description_, request_, memory);
    EXPECT_TRUE(plan.ok()) << plan.status();
    return *plan;
  }

  std::string file_;
  GgufContents contents_;
  ModelDescription description_;
  PlanRequest request_;
};

TEST_F(MemoryPlanTest, SizesAreThoseThatAreAllocated) {
  const MemoryPlan plan = Plan(4096 * kMiB);
  ThreadPool pool({.workers = 1, .pin = false});
  kernels::Stream stream(pool, kernels::ComputeMode::kExact);
  PackArgs args;
  args.stream = &stream;
  const auto transformer = kLlama.make(description_, args);
  ASSERT_TRUE(transformer.ok());
  EXPECT_EQ(plan.weight_files, FileBytes(description_));
  EXPECT_THAT(plan.Table(), HasSubstr("packed; " + HumanBytes(plan.weight_files) + " in files"));
  const kernels::RawMatrix& embedding = description_.tensors.at("embedding").matrix;
  const size_t table = kernels::PackedMatrix::PackedBytes(embedding.type, 1000, 256);
  const size_t norms = 5 * 256 * sizeof(float);
  EXPECT_EQ(plan.weights, (*transformer)->WeightBytes() + table + norms);
  EXPECT_GE(plan.activations,
            (*transformer)->WorkspaceFloats(512) * sizeof(float) + 64 * 1000 * sizeof(float));
  ASSERT_EQ(plan.kv_groups.size(), 1u);
  EXPECT_EQ(plan.kv, (static_cast<size_t>(plan.kv_groups[0].blocks) + 1) *
                         request_.kv_groups[0].layout.BlockBytes());
  EXPECT_EQ(plan.kv, plan.kv_groups[0].bytes);
}

// Act-order gathers a copy of the activations for each order of columns, which is more than what
// the projections need without it.
TEST(StepMemory, ScratchIsThatOfTheKernels) {
  size_t plain_weights = 0;
  for (bool order : {false, true}) {
    testing::HfShape shape;
    shape.hidden = 256, shape.heads = 4, shape.kv_heads = 2, shape.head_dim = 64;
    shape.feed_forward = 736, shape.type = "BF16";
    testing::HfModel model(shape);
    for (const std::string& module : model.Linears()) model.Gptq(module, 4, 32, order);
    model.Set("quantization_config",
              *Json::Parse(absl::StrCat(R"({"quant_method":"gptq","bits":4,"group_size":32,)",
                                        R"("sym":false,"desc_act":)", order ? "true}" : "false}")));
    const std::string dir = ::testing::TempDir() + "/step_memory_test";
    std::filesystem::remove_all(dir);
    model.Write(dir);
    const auto file = ModelFile::Open(dir);
    ASSERT_TRUE(file.ok()) << file.status();
    const ModelDescription& description = (*file)->description();
    const auto described = kLlama.describe(description);
    ASSERT_TRUE(described.ok()) << described.status();

    ThreadPool pool({.workers = 2, .pin = false});
    PlanRequest request;
    request.max_num_seqs = 4, request.tokens_per_step = 100, request.logits_rows = 8;
    request.threads = pool.workers();
    kernels::KvLayout layout;
    layout.layers = 2, layout.kv_heads = 2, layout.head_dim = 64;
    request.kv_groups = {{layout, 0}};
    const auto plan = PlanMemory(description, request, {kMiB << 12, kMiB << 12, "test"});
    ASSERT_TRUE(plan.ok()) << plan.status();
    // And keeps an index for each column of the six projections and of down, in two layers.
    if (!order) plain_weights = plan->weights;
    EXPECT_EQ(plan->weights, plain_weights + (order ? 2 * (6 * 256 + 736) * 4 : 0));
    for (auto mode : {kernels::ComputeMode::kExact, kernels::ComputeMode::kFast}) {
      kernels::Stream stream(pool, mode);
      PackArgs args;
      args.stream = &stream;
      const auto transformer = kLlama.make(description, args);
      ASSERT_TRUE(transformer.ok()) << transformer.status();
      const size_t floats = (*transformer)->WorkspaceFloats(100);
      EXPECT_EQ(floats, (*described)->WorkspaceFloats(100));
      std::unique_ptr<float, decltype(&std::free)> memory(
          static_cast<float*>(std::aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64)),
          &std::free);
      Workspace workspace{memory.get(), floats, 100};
      std::vector<std::byte> arena(layout.BlockBytes() * 5 + 64);
      const auto past = reinterpret_cast<uintptr_t>(arena.data()) % 64;
      const uint32_t table[] = {1, 2, 3, 4};
      const kernels::AttentionRow row = {0, 100, 0, 0, table};
      layout.blocks = 5;
      const KvView view = {&layout, arena.data() + (64 - past) % 64, {&row, 1}};
      std::vector<int32_t> positions(100);
      std::iota(positions.begin(), positions.end(), 0);
      const std::vector<int32_t> tokens(100, 3);
      ASSERT_TRUE(
          (*transformer)->Forward({tokens, positions, {&view, 1}, false}, workspace, stream).ok());
      std::vector<float> logits(8 * 64);
      ASSERT_TRUE(
          (*transformer)->Logits({positions.data(), 8}, workspace, logits.data(), stream).ok());
      StepBounds bounds{100, 8, 512, layout.block_tokens, stream.shape()};
      EXPECT_EQ((*described)->ScratchBytes(bounds), (*transformer)->ScratchBytes(bounds));
      EXPECT_LE(stream.scratch_bytes(), (*described)->ScratchBytes(bounds));
      // The down projection's input in fp32, gathered, and in 8 bits.
      const size_t gathered = order ? 100 * 736 * sizeof(float) : 0;
      const size_t quantized = mode == kernels::ComputeMode::kFast ? 100 * 736 : 0;
      EXPECT_GE(stream.scratch_bytes(), gathered + quantized);
      EXPECT_GE(plan->activations,
                (floats + logits.size()) * sizeof(float) + stream.scratch_bytes());
    }
    std::filesystem::remove_all(dir);
  }
}

TEST_F(MemoryPlanTest, DefaultKvIsAQuarterCutToWhatCanBeUsed) {
  // 16 sequences of 65,536 tokens could use 2 GiB: a quarter of 4 GiB is less.
  MemoryPlan plan = Plan(4096 * kMiB);
  EXPECT_TRUE(plan.Check().ok()) << plan.Check();
  EXPECT_LE(plan.kv, 1024 * kMiB);
  EXPECT_GT(plan.kv, 1023 * kMiB);
  EXPECT_THAT(plan.kv_reason, HasSubstr("quarter"));
  request_.max_model_len = 1000;  // 16 * 32 blocks and the null block
  plan = Plan(4096 * kMiB);
  EXPECT_EQ(plan.kv_groups[0].blocks, 512);
  EXPECT_THAT(plan.kv_reason, HasSubstr("can use"));
  EXPECT_EQ(plan.longest_model_len, 65536);
  EXPECT_THAT(plan.Table(), HasSubstr("fits: 16.0 sequences of --max-model-len 1000"));
}

TEST_F(MemoryPlanTest, EachRemedyReallyFits) {
  struct Case {
    size_t available;
    int64_t max_model_len;
    uint64_t kv_bytes;
    int64_t tokens;
    const char* remedy;  // must be among them
  };
  const std::vector<Case> cases = {
      // One sequence needs 128 MiB: not beside the rest.
      {200 * kMiB, 65536, 0, 512, "--max-model-len"},
      // The flag gives too little, then too much.
      {600 * kMiB, 65536, 100 * kMiB, 512, "--kv-cache-bytes"},
      {600 * kMiB, 65536, 900 * kMiB, 512, "--kv-cache-bytes"},
      // Activations.
      {300 * kMiB, 4096, 0, 65536, "--max-num-batched-tokens"},
  };
  for (const Case& c : cases) {
    request_.max_model_len = c.max_model_len;
    request_.kv_cache_bytes = c.kv_bytes;
    request_.tokens_per_step = c.tokens;
    const MemoryPlan plan = Plan(c.available);
    const absl::Status refused = plan.Check();
    ASSERT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << plan.Table();
    ASSERT_FALSE(plan.remedies.empty());
    EXPECT_EQ(std::string(refused.message()).find('\n'), std::string::npos);
    int flags = 0;
    for (const std::string& remedy : plan.remedies) {
      EXPECT_THAT(plan.Table(), HasSubstr(remedy));
      PlanRequest changed = request_;
      const std::string value = remedy.substr(remedy.rfind(' ') + 1);
      if (remedy.rfind("--max-model-len", 0) == 0) changed.max_model_len = std::stoll(value);
      if (remedy.rfind("--kv-cache-bytes", 0) == 0) changed.kv_cache_bytes = std::stoull(value);
      if (remedy.rfind("--max-num-seqs", 0) == 0) changed.max_num_seqs = std::stoll(value);
      if (remedy.rfind("--max-num-batched-tokens", 0) == 0) {
        changed.tokens_per_step = std::stoll(value);
      }
      if (remedy == "--kv-cache-dtype bf16") {
        for (KvGroupLayout& group : changed.kv_groups) group.layout.type = kernels::KvType::kBF16;
      }
      if (remedy.rfind("a machine", 0) == 0) continue;
      ++flags;
      const auto fixed = PlanMemory(description_, changed, {c.available, c.available, "test"});
      ASSERT_TRUE(fixed.ok()) << fixed.status();
      EXPECT_TRUE(fixed->Check().ok()) << remedy << "\n" << fixed->Table();
    }
    EXPECT_GT(flags, 0) << plan.Table();
    EXPECT_THAT(plan.remedies, Contains(HasSubstr(c.remedy))) << plan.Table();
  }
}

TEST_F(MemoryPlanTest, NothingFitsInNothing) {
  const MemoryPlan plan = Plan(16 * kMiB);
  EXPECT_FALSE(plan.Check().ok());
  EXPECT_THAT(plan.Table(), HasSubstr("alone need"));
  EXPECT_THAT(plan.Table(), HasSubstr("a machine or cgroup limit with"));
  EXPECT_EQ(plan.kv_groups[0].blocks, 0);
}

// Two groups of one layer each: 1 KiB a token in each, 32 KiB a block.
TEST_F(MemoryPlanTest, WindowsNeedTheirWindowOnly) {
  request_.kv_groups = {Group(1, 0), Group(1, 1024)};
  request_.tokens_per_step = 512;
  request_.max_model_len = 65536;
  request_.max_num_seqs = 1000;
  request_.kv_cache_bytes = 512 * kMiB;
  MemoryPlan plan = Plan(4096 * kMiB);
  ASSERT_EQ(plan.kv_groups.size(), 2u);
  // At any offset: the first of 1024 + 511 positions may be the last of its block.
  EXPECT_EQ(plan.kv_groups[0].per_sequence, 2048);
  EXPECT_EQ(plan.kv_groups[1].per_sequence, 49);
  // Reference sequences of 4,096 tokens: 128 and 49 blocks each.
  EXPECT_EQ(plan.kv_reference_len, 4096);
  EXPECT_NEAR(plan.kv_groups[0].blocks, 16382.0 * 128 / 177, 2);
  EXPECT_NEAR(plan.kv_groups[1].blocks, 16382.0 * 49 / 177, 2);
  EXPECT_LE(plan.kv, 512 * kMiB);
  EXPECT_EQ(plan.kv, plan.kv_groups[0].bytes + plan.kv_groups[1].bytes);
  EXPECT_THAT(plan.Table(), HasSubstr("1 layers that see the last 1024: "));
  // As one group, all layers keep everything.
  request_.kv_groups = {Group(2, 0)};
  EXPECT_GT(plan.kv_sequences, 1.4 * Plan(4096 * kMiB).kv_sequences);
  // What 16 sequences have no use for in one group goes to the other.
  request_.kv_groups = {Group(1, 0), Group(1, 1024)};
  request_.max_num_seqs = 16;
  plan = Plan(4096 * kMiB);
  EXPECT_EQ(plan.kv_groups[1].blocks, 49 * 16);
  EXPECT_NEAR(plan.kv_groups[0].blocks, 16382 - 49 * 16, 2);
}

TEST_F(MemoryPlanTest, TheReferenceLengthDividesTheMemory) {
  request_.kv_groups = {Group(1, 0), Group(1, 4096)};
  request_.max_num_seqs = 4096;
  request_.max_model_len = 8192;
  request_.kv_cache_bytes = 256 * kMiB;
  const auto blocks = [&](int64_t reference) {
    request_.kv_reference_len = reference;
    const MemoryPlan plan = Plan(4096 * kMiB);
    EXPECT_TRUE(plan.Check().ok()) << plan.Check();
    EXPECT_GT(plan.kv, 255 * kMiB);
    EXPECT_LE(plan.kv, 256 * kMiB);
    return std::pair(plan.kv_groups[0].blocks, plan.kv_groups[1].blocks);
  };
  EXPECT_EQ(blocks(0), blocks(8192)) << "no longer than --max-model-len";
  // Short sequences hold the same in both.
  EXPECT_EQ(blocks(2048).first, blocks(2048).second);
  EXPECT_GT(blocks(8192).first, blocks(8192).second * 17 / 10);
}

// All layers local: the longest model length is none of memory's business.
TEST_F(MemoryPlanTest, AWindowForAllLayers) {
  request_.kv_groups = {Group(2, 1024)};
  request_.max_model_len = 65536;
  request_.kv_cache_bytes = 8 * kMiB;  // 127 blocks
  const MemoryPlan plan = Plan(1024 * kMiB);
  EXPECT_TRUE(plan.Check().ok()) << plan.Check();
  EXPECT_EQ(plan.kv_groups[0].per_sequence, 49);
  EXPECT_NEAR(plan.kv_sequences, 127.0 / 49, 0.01);
  EXPECT_EQ(plan.longest_model_len, 65536);
}

TEST_F(MemoryPlanTest, RoomForOneSequenceInEachGroup) {
  request_.kv_groups = {Group(1, 0), Group(1, 1024)};
  request_.max_model_len = 65536;
  const size_t one = (2048 + 49 + 2) * request_.kv_groups[0].layout.BlockBytes();
  request_.kv_cache_bytes = one;
  MemoryPlan plan = Plan(1024 * kMiB);
  EXPECT_TRUE(plan.Check().ok()) << plan.Check();
  EXPECT_EQ(plan.kv_sequences, 1.0);
  request_.kv_cache_bytes = one - 1;
  plan = Plan(1024 * kMiB);
  EXPECT_FALSE(plan.Check().ok());
  EXPECT_THAT(plan.remedies, Contains("--kv-cache-bytes " + std::to_string(one)));
}

TEST_F(MemoryPlanTest, OptionsOutOfRange) {
  const MachineMemory memory{kMiB << 12, kMiB << 12, "test"};
  request_.max_model_len = 65537;
  EXPECT_THAT(std::string(PlanMemory(description_, request_, memory).status().message()),
              HasSubstr("--max-model-len is 65537, but the model was made for 65536; "
                        "--force-model-len"));
  request_.force_model_len = true;
  EXPECT_EQ(Plan(4096 * kMiB).max_model_len, 65537);
  request_.max_model_len = kMaxContext + 1;
  EXPECT_FALSE(PlanMemory(description_, request_, memory).ok());
  request_.force_model_len = false;
  request_.max_model_len = 0;
  request_.max_num_seqs = 0;
  EXPECT_FALSE(PlanMemory(description_, request_, memory).ok());
}

// A machine of 8,000 kB of which 6,000 are free.
class MachineMemoryTest : public ::testing::Test {
 protected:
  MachineMemoryTest() : root_(::testing::TempDir() + "/machine_memory_test") {
    std::filesystem::remove_all(root_);
    Put("proc/meminfo", "MemTotal:  8000 kB\nMemFree: 1 kB\nMemAvailable:  6000 kB\n");
  }
  ~MachineMemoryTest() override { std::filesystem::remove_all(root_); }
  void Put(const std::string& path, const std::string& text) {
    const std::filesystem::path full = std::filesystem::path(root_) / path;
    std::filesystem::create_directories(full.parent_path());
    testing::WriteFile(full.string(), text);
  }
  std::string root_;
};

TEST_F(MachineMemoryTest, WithoutLimits) {
  const MachineMemory memory = ReadMachineMemory(root_);
  EXPECT_EQ(memory.total, 8000u * 1024);
  EXPECT_EQ(memory.available, 6000u * 1024);
  EXPECT_EQ(memory.source, "machine");
}

TEST_F(MachineMemoryTest, CgroupV2TakesTheTightestAncestor) {
  Put("proc/self/cgroup", "0::/a/b\n");
  Put("sys/fs/cgroup/a/memory.max", "4096000\n");
  Put("sys/fs/cgroup/a/memory.current", "1000000\n");
  Put("sys/fs/cgroup/a/memory.stat", "anon 5\ninactive_file 300000\nactive_file 100000\n");
  Put("sys/fs/cgroup/a/b/memory.max", "max\n");
  const MachineMemory memory = ReadMachineMemory(root_);
  EXPECT_EQ(memory.total, 4096000u);
  EXPECT_EQ(memory.available, 4096000u - 600000u);
  EXPECT_EQ(memory.source, "cgroup limit");
}

TEST_F(MachineMemoryTest, CgroupV1InsideAContainer) {
  // The path is the host's; in the container only the mount's root exists.
  Put("proc/self/cgroup", "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/docker/x\n");
  Put("sys/fs/cgroup/memory/memory.limit_in_bytes", "2048000\n");
  Put("sys/fs/cgroup/memory/memory.usage_in_bytes", "48000\n");
  const MachineMemory memory = ReadMachineMemory(root_);
  EXPECT_EQ(memory.total, 2048000u);
  EXPECT_EQ(memory.available, 2000000u);
}

TEST_F(MachineMemoryTest, ALimitAboveTheMachineIsNone) {
  Put("proc/self/cgroup", "4:memory:/\n");
  Put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(ReadMachineMemory(root_).source, "machine");
}

TEST(MachineMemory, ThisMachineHasSome) {
  EXPECT_GT(ReadMachineMemory().total, kMiB);
}

}  // namespace
}  // namespace millrace::model
