// Products on the demo model's shapes, streamed from memory: enough matrices to overflow the
// caches.
//   gemm_bench [--benchmark_filter=Q4_1/...]
// On a machine with AMX, what its tier gains and from how many tokens on:
//   gemm_bench --benchmark_filter='2048x2048/(amx|avx512-vnni)/fast'
// GB/s counts packed weight bytes, GOP/s 2 operations a weight and token.

#include <benchmark/benchmark.h>

#include <memory>
#include <string>

#include "kernels/ops.h"
#include "kernels/payload.h"
#include "kernels/test_formats.h"

namespace millrace::kernels {
namespace {

using testing::Format;
using testing::kAllFormats;
using testing::MakeMatrix;
using testing::Random;
using testing::RandomMatrix;

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

struct Case {
  Format format;
  int64_t rows, cols;
};

// Copies of one matrix, 64 MB of them at most and 64 at most, so that each is cold when its turn
// comes. Kept for the next benchmark: the packed form is the same for every mode and tier.
const std::vector<PackedMatrix>& Copies(const Case& c, Stream& stream) {
  static Case last = {};
  static std::vector<PackedMatrix> copies;
  if (last.format.name == c.format.name && last.rows == c.rows && last.cols == c.cols)
    return copies;
  last = c;
  copies.clear();
  const RandomMatrix m = MakeMatrix(c.format, c.rows, c.cols, 1);
  const size_t bytes = PackedMatrix::PackedBytes(m.raw);
  const size_t count = std::clamp<size_t>((size_t{64} << 20) / bytes, 2, 64);
  for (size_t i = 0; i < count; ++i) copies.push_back(*PackedMatrix::Pack(m.raw, stream));
  return copies;
}

void RunGemm(benchmark::State& state, Case c, ComputeMode mode, IsaTier tier) {
  const int64_t tokens = state.range(0);
  Stream stream(Pool(static_cast<int>(state.range(1))), mode, tier);
  const std::vector<PackedMatrix>& copies = Copies(c, stream);
  Random random(2);
  const std::vector<float> x = random.Floats(tokens * c.cols);
  std::vector<float> y(static_cast<size_t>(tokens * c.rows));
  float* out = y.data();
  size_t i = 0;
  for (auto _ : state) {
    const PackedMatrix* w = &copies[i++ % copies.size()];
    GemmArgs args;
    args.x = x.data();
    args.tokens = tokens;
    args.weights = std::span<const PackedMatrix* const>(&w, 1);
    args.outputs = std::span<float* const>(&out, 1);
    if (!Gemm(args, stream).ok()) state.SkipWithError("gemm failed");
  }
  const auto calls = static_cast<double>(state.iterations());
  using benchmark::Counter;
  state.counters["GB/s"] =
      Counter(calls * static_cast<double>(copies[0].bytes()) * 1e-9, Counter::kIsRate);
  state.counters["GOP/s"] =
      Counter(calls * 2e-9 * static_cast<double>(c.rows * c.cols * tokens), Counter::kIsRate);
}

// Reads a buffer on all workers: the roof for one token.
void ReadBandwidth(benchmark::State& state) {
  ThreadPool& pool = Pool(static_cast<int>(state.range(0)));
  std::vector<uint64_t> buffer((size_t{128} << 20) / 8, 1);
  std::vector<uint64_t> sums(static_cast<size_t>(pool.workers()) * 16);
  for (auto _ : state) {
    pool.ParallelFor(buffer.size(), size_t{1} << 17, [&](size_t begin, size_t end, int worker) {
      uint64_t s[8] = {};
      for (size_t i = begin; i < end; i += 8) {
        __builtin_prefetch(&buffer[i] + 256, 0, 2);
        for (size_t j = 0; j < 8; ++j) s[j] += buffer[i + j];
      }
      for (uint64_t v : s) sums[static_cast<size_t>(worker) * 16] += v;
    });
  }
  benchmark::DoNotOptimize(sums.data());
  state.counters["GB/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * static_cast<double>(buffer.size() * 8) * 1e-9,
      benchmark::Counter::kIsRate);
}
BENCHMARK(ReadBandwidth)->Arg(1)->Arg(2)->UseRealTime();

// Packing on one worker: a part of every start-up. Values a second.
void RunPack(benchmark::State& state, Format format) {
  Stream stream(Pool(1), ComputeMode::kFast);
  const RandomMatrix m = MakeMatrix(format, 2048, 2048, 1);
  for (auto _ : state) {
    if (!PackedMatrix::Pack(m.raw, stream).ok()) state.SkipWithError("pack failed");
  }
  state.counters["values/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * 2048 * 2048, benchmark::Counter::kIsRate);
}

void RegisterAll() {
  std::vector<Case> cases;
  for (const Format& format : kAllFormats) {
    const std::string name = format.name;
    benchmark::RegisterBenchmark(("Pack/" + name).c_str(), RunPack, format)
        ->Unit(benchmark::kMillisecond);
    const bool blocks256 = BlockValues(format.type) == 256;
    if (name == "Q4_1") cases.push_back({format, 576, 1536});
    if (name == "Q8_0" || name == "BF16") {
      cases.push_back({format, 49152, 576});
    } else if (name != "F32") {
      cases.push_back({format, 1536, blocks256 ? 512 : 576});
    }
    cases.push_back({format, 2048, 2048});  // all formats on one shape
  }
  for (const Case& c : cases) {
    std::vector<IsaTier> tiers(std::begin(kAllTiers), std::end(kAllTiers));
    tiers.push_back(IsaTier::kAmx);
    for (IsaTier tier : tiers) {
      if (!RunsIsaTier(tier) || tier == IsaTier::kScalar) continue;
      for (ComputeMode mode : {ComputeMode::kExact, ComputeMode::kFast}) {
        if (tier == IsaTier::kAmx && mode == ComputeMode::kExact) continue;  // avx512-vnni's
        const std::string name = std::string(c.format.name) + "/" + std::to_string(c.rows) + "x" +
                                 std::to_string(c.cols) + "/" + IsaTierName(tier) +
                                 (mode == ComputeMode::kExact ? "/exact" : "/fast");
        auto* b = benchmark::RegisterBenchmark(name.c_str(), RunGemm, c, mode, tier);
        b->ArgNames({"tokens", "workers"})->UseRealTime()->Unit(benchmark::kMicrosecond);
        for (int64_t tokens : {1, 2, 4, 8, 12, 16, 32, 128, 512}) {
          if ((tokens == 12 || tokens == 128) && tier < IsaTier::kAvx512Vnni) {
            continue;  // these show where tiles begin to pay
          }
          if (c.rows > 4096 && tokens > 32) continue;  // the head sees few rows
          b->Args({tokens, 1});
          if (UsableCpuCount() > 1) b->Args({tokens, UsableCpuCount()});
        }
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
