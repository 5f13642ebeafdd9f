// Attention with KV cold in memory.
//   attention_bench
// Names: KV type / tier / heads over KV heads x dimension / sequences x new tokens @ tokens before,
// of them shared. GB/s counts the bytes of K and V that the queries see, shared ones for each
// sequence, so that it may pass the memory's; GOP/s 4 operations a query, position and dimension.

#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <cmath>
#include <memory>
#include <string>

#include "kernels/ops.h"
#include "kernels/test_support.h"

namespace millrace::kernels {
namespace {

using testing::Random;

struct Heads {
  int64_t heads, kv_heads, dim;
};
constexpr Heads kDemo = {9, 3, 64};

ThreadPool& Pool(int workers) {
  static std::unique_ptr<ThreadPool> pool;
  if (pool == nullptr || pool->workers() != workers) {
    ThreadPoolOptions options;
    options.workers = workers;
    pool.reset();
    pool = std::make_unique<ThreadPool>(options);
  }
  return *pool;
}

struct Load {
  int64_t sequences;   // in the batch
  int64_t tokens;      // new ones of each
  int64_t context;     // positions before them
  int64_t shared = 0;  // of the context, in the same blocks; a multiple of a block
};

void RunAttention(benchmark::State& state, Load load, Heads h, KvType type, IsaTier tier) {
  const auto workers = static_cast<int>(state.range(0));
  Stream stream(Pool(workers), ComputeMode::kFast, tier);
  KvLayout layout;
  layout.type = type;
  layout.kv_heads = static_cast<int32_t>(h.kv_heads);
  layout.head_dim = static_cast<int32_t>(h.dim);
  const int64_t length = load.context + load.tokens;
  const int64_t blocks_each = (length + layout.block_tokens - 1) / layout.block_tokens;
  // Layers take turns, as in a model, so that one is cold again when its turn comes.
  layout.blocks = 1 + load.sequences * blocks_each;
  const int64_t layer_bytes = layout.blocks * static_cast<int64_t>(layout.LayerBlockBytes());
  layout.layers =
      static_cast<int32_t>(std::clamp<int64_t>((int64_t{128} << 20) / layer_bytes, 1, 512));
  // Huge pages, as a server's arena should have: a block is some pages, and strewn.
  constexpr size_t kHuge = size_t{2} << 20;
  const size_t bytes =
      (static_cast<size_t>(layout.blocks) * layout.BlockBytes() + kHuge - 1) / kHuge * kHuge;
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> arena(static_cast<std::byte*>(std::aligned_alloc(kHuge, bytes)));
  madvise(arena.get(), bytes, MADV_HUGEPAGE);
  Random random(1);
  std::vector<uint16_t> pattern(size_t{1} << 19);
  for (uint16_t& value : pattern) {
    // bf16 in +-[0.0625, 0.5); pairs of them are sane fp32 too
    value = static_cast<uint16_t>(0x3d80 + (random.Next() & 0x817f));
  }
  for (size_t i = 0; i < bytes; i += pattern.size() * 2) {
    std::memcpy(arena.get() + i, pattern.data(), std::min(bytes - i, pattern.size() * 2));
  }
  const int64_t tokens = load.sequences * load.tokens;
  const std::vector<float> q = random.Floats(tokens * h.heads * h.dim);
  const std::vector<float> k = random.Floats(tokens * h.kv_heads * h.dim), v = k;
  std::vector<float> out(q.size());
  std::vector<uint32_t> table(static_cast<size_t>(layout.blocks - 1));
  for (size_t i = 0; i < table.size(); ++i) {  // a sequence's blocks are not neighbours
    const auto each = static_cast<size_t>(blocks_each);
    table[i] = static_cast<uint32_t>(1 + i % each * static_cast<size_t>(load.sequences) + i / each);
  }
  const int64_t shared_blocks = load.shared / layout.block_tokens;
  for (int64_t i = 1; i < load.sequences; ++i) {
    std::copy_n(table.begin(), shared_blocks, table.begin() + i * blocks_each);
  }
  std::vector<AttentionRow> rows(static_cast<size_t>(load.sequences));
  for (int64_t s = 0; s < load.sequences; ++s) {
    AttentionRow& row = rows[static_cast<size_t>(s)];
    row.token_begin = static_cast<int32_t>(s * load.tokens);
    row.token_count = static_cast<int32_t>(load.tokens);
    row.position = static_cast<int32_t>(load.context);
    row.table = &table[static_cast<size_t>(s * blocks_each)];
  }
  AttentionArgs args;
  args.q = q.data();
  args.k = k.data();
  args.v = v.data();
  args.out = out.data();
  args.tokens = tokens;
  args.heads = h.heads;
  args.scale = 1.0f / std::sqrt(static_cast<float>(h.dim));
  args.layout = &layout;
  args.arena = arena.get();
  args.rows = rows;
  for (auto _ : state) {
    args.layer = (args.layer + 1) % layout.layers;
    if (!Attention(args, stream).ok()) state.SkipWithError("attention failed");
  }
  const double seen = static_cast<double>(load.tokens) * (static_cast<double>(load.context) +
                                                          static_cast<double>(load.tokens + 1) / 2);
  const auto calls = static_cast<double>(state.iterations()) * static_cast<double>(load.sequences);
  const double kv_bytes = static_cast<double>(layout.LayerBlockBytes()) / layout.block_tokens *
                          static_cast<double>(length);
  using benchmark::Counter;
  state.counters["GB/s"] = Counter(calls * kv_bytes * 1e-9, Counter::kIsRate);
  state.counters["GOP/s"] = Counter(calls * seen * h.heads * h.dim * 4 * 1e-9, Counter::kIsRate);
}

void Register(Load load, Heads h, KvType type, IsaTier tier) {
  if (!RunsIsaTier(tier)) return;
  std::string name = std::string(KvTypeName(type)) + "/" + IsaTierName(tier) + "/" +
                     std::to_string(h.heads) + "over" + std::to_string(h.kv_heads) + "x" +
                     std::to_string(h.dim) + "/" + std::to_string(load.sequences) + "x" +
                     std::to_string(load.tokens) + "@" + std::to_string(load.context);
  if (load.shared > 0) name += "shared" + std::to_string(load.shared);
  auto* b = benchmark::RegisterBenchmark(name.c_str(), RunAttention, load, h, type, tier);
  b->ArgNames({"workers"})->UseRealTime()->Unit(benchmark::kMicrosecond)->Arg(1);
  if (UsableCpuCount() > 1) b->Arg(UsableCpuCount());
}

void RegisterAll() {
  const Load loads[] = {{1, 1, 127},  {1, 1, 1023}, {1, 1, 8000}, {8, 1, 127},   {8, 1, 1023},
                        {32, 1, 511}, {1, 64, 0},   {1, 512, 0},  {1, 256, 2048}};
  for (const Load& load : loads) {
    for (KvType type : {KvType::kBF16, KvType::kF32, KvType::kInt8}) {
      for (IsaTier tier : {IsaTier::kAvx2, IsaTier::kAvx512Vnni}) {
        Register(load, kDemo, type, tier);
      }
    }
  }
  for (const Heads& heads : {kDemo, Heads{14, 2, 64}}) {  // prompts on tiles
    for (KvType type : {KvType::kBF16, KvType::kInt8}) {
      Register({1, 512, 0}, heads, type, IsaTier::kAmx);
      Register({1, 256, 2048}, heads, type, IsaTier::kAmx);
    }
  }
  // Groups of 1, 3, 4, 7 and 8 heads; Llama-3.2-1B is 32 over 8 of 64, Qwen2.5-0.5B 14 over 2.
  const Heads shapes[] = {{8, 8, 64},  {9, 3, 64},   {32, 8, 64},  {14, 2, 64}, {16, 2, 64},
                          {4, 4, 128}, {12, 4, 128}, {16, 4, 128}, {32, 4, 128}};
  const Load decodes[] = {{8, 1, 127},       {32, 1, 127},      {1, 1, 1023},  {1, 1, 8000},
                          {1, 1, 32000},     {8, 1, 1023},      {32, 1, 1023}, {8, 1, 8000},
                          {8, 1, 1023, 960}, {32, 1, 1023, 960}};
  for (const Heads& shape : shapes) {
    for (const Load& load : decodes) {
      for (KvType type : {KvType::kBF16, KvType::kInt8}) {
        Register(load, shape, type, DetectIsaTier());
        Register(load, shape, type, IsaTier::kAmx);
      }
    }
  }
}

}  // namespace
}  // namespace millrace::kernels

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  millrace::kernels::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
