// What loading a model takes: never more memory than 1.1 times its weights. Measured by the
// kernel's own high-water mark of this process, on models of about 200 MB that are made here.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/thread_pool.h"
#include "model/load_model.h"
#include "model/packed_cache.h"
#include "tests/support/safetensors_writer.h"

namespace millrace::model {
namespace {

using testing::HfModel;
using testing::HfShape;

// A line of /proc/self/status ("VmHWM:"), in bytes.
size_t StatusBytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(key, 0) == 0) return std::stoull(line.substr(key.size())) * 1024;
  }
  return 0;
}

// From now on VmHWM is the highest since now. False where the kernel does not let us.
bool ResetHighWater() {
  std::ofstream("/proc/self/clear_refs") << "5";
  return StatusBytes("VmHWM:") < StatusBytes("VmRSS:") + (size_t{1} << 20);
}

// Written by a process of its own, so that what it takes to make the file is not ours.
std::string WriteModel(const std::string& name, bool gptq, size_t header_over) {
  const std::string dir = ::testing::TempDir() + "/" + name + std::to_string(::getpid());
  const pid_t child = ::fork();
  if (child == 0) {
    HfShape shape;
    shape.type = "BF16";
    shape.vocab = 4096, shape.hidden = 1024, shape.layers = gptq ? 24 : 8;
    shape.heads = 8, shape.kv_heads = 4, shape.head_dim = 128, shape.feed_forward = 3072;
    HfModel model(shape);
    if (gptq) {
      for (const std::string& module : model.Linears()) model.Gptq(module, 4, 64, false);
      model.Set("quantization_config",
                *Json::Parse(R"({"quant_method":"gptq","bits":4,"group_size":64,"sym":false})"));
    }
    model.weights().set_header_over(header_over);
    model.Write(dir, 4);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status == 0 ? dir : std::string();
}

void ExpectFrugal(const std::string& name, bool gptq, size_t header_over = 0) {
  const std::string dir = WriteModel(name, gptq, header_over);
  ASSERT_FALSE(dir.empty());
  ThreadPool pool({.workers = 2, .pin = false});
  kernels::Stream stream(pool, kernels::ComputeMode::kFast);
  ::malloc_trim(0);  // what the model before left in the heap would hide what this one takes
  const size_t before = StatusBytes("VmRSS:");
  ASSERT_TRUE(ResetHighWater());
  auto file = ModelFile::Open(dir);
  ASSERT_TRUE(file.ok()) << file.status();
  const ModelDescription description = (*file)->description();
  const size_t bytes = FileBytes(description);
  EXPECT_GT(bytes, size_t{100} << 20);
  // Opening reads tables, not weights, and keeps no page of them.
  EXPECT_LT(StatusBytes("VmRSS:"), before + (size_t{4} << 20));
  size_t packed = 0;
  for (const auto& item : description.tensors) {
    packed += kernels::PackedMatrix::PackedBytes(item.second.matrix);
  }
  const auto loaded = LoadModel(std::move(*file), {}, stream);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const size_t peak = StatusBytes("VmHWM:") - before;
  const double weights = static_cast<double>(std::max(bytes, packed));
  EXPECT_LT(static_cast<double>(peak), 1.1 * weights) << "packed " << packed << ", file " << bytes;
  EXPECT_GT(static_cast<double>(peak), 0.5 * weights);  // or the measure is broken
  std::printf("%s: files %zu MiB, packed %zu MiB, peak %zu MiB\n", name.c_str(), bytes >> 20,
              packed >> 20, peak >> 20);
  std::filesystem::remove_all(dir);
}

// Weights that are mapped are pages of a file: none of our own, and none of the source.
TEST(LoadMemory, StoredModelIsMappedOnly) {
  const std::string dir = WriteModel("stored", true, 0);
  ASSERT_FALSE(dir.empty());
  const std::string cache_dir = dir + ".cache";
  const pid_t child = ::fork();  // packs, so that what that takes is not ours
  if (child == 0) {
    ThreadPool pool({.workers = 2, .pin = false});
    kernels::Stream stream(pool, kernels::ComputeMode::kFast);
    auto file = ModelFile::Open(dir);
    auto cache = PackedCache::Open({cache_dir, uint64_t{1} << 30});
    if (!file.ok() || !cache.ok()) ::_exit(1);
    auto entry = (*cache)->Begin(**file, PackedKeyOf(**file), 1);
    if (!entry.ok()) ::_exit(2);
    LoadOptions options;
    options.made = [&](std::string_view name, const kernels::PackedMatrix& matrix) {
      (*entry)->Add(name, matrix);
    };
    const std::atomic<bool> stop{false};
    if (!LoadModel(*std::move(file), options, stream).ok()) ::_exit(3);
    // Reading back takes windows, not the file.
    const size_t resident = StatusBytes("VmRSS:");
    if (!ResetHighWater() || !(*entry)->Publish(stop).ok()) ::_exit(4);
    ::_exit(StatusBytes("VmHWM:") < resident + (size_t{40} << 20) ? 0 : 5);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_EQ(status, 0);

  ThreadPool pool({.workers = 2, .pin = false});
  kernels::Stream stream(pool, kernels::ComputeMode::kFast);
  ::malloc_trim(0);
  const size_t before = StatusBytes("VmRSS:"), own = StatusBytes("RssAnon:");
  ASSERT_TRUE(ResetHighWater());
  auto file = ModelFile::Open(dir);
  auto cache = PackedCache::Open({cache_dir, uint64_t{1} << 30});
  ASSERT_TRUE(file.ok() && cache.ok());
  const auto stored = (*cache)->Find(**file, PackedKeyOf(**file));
  ASSERT_TRUE(stored.ok()) << stored.status();
  (*stored)->Populate(pool);
  LoadOptions options;
  options.stored = stored->get();
  const auto loaded = LoadModel(*std::move(file), options, stream);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const size_t peak = StatusBytes("VmHWM:") - before;
  const auto packed = static_cast<double>((*stored)->bytes());
  EXPECT_LT(static_cast<double>(peak), 1.1 * packed);
  EXPECT_GT(static_cast<double>(peak), 0.9 * packed);  // all of it is here
  EXPECT_LT(StatusBytes("RssAnon:"), own + (size_t{8} << 20));
  std::printf("stored: %.0f MiB, peak %zu MiB\n", packed / (1 << 20), peak >> 20);
  std::filesystem::remove_all(dir);
  std::filesystem::remove_all(cache_dir);
}

TEST(LoadMemory, DenseModelIsNeverInMemoryTwice) {
  ExpectFrugal("dense", false);
}

TEST(LoadMemory, GptqModelIsNeverInMemoryTwice) {
  ExpectFrugal("gptq", true);
}

// Tensors at odd addresses are read where they lie.
TEST(LoadMemory, UnalignedModelIsNeverInMemoryTwice) {
  ExpectFrugal("unaligned", false, 5);
}

}  // namespace
}  // namespace millrace::model
