// Prefill and decode of a real model through the executor: tokens/s, and for decode the bytes of
// weights and KV that each step reads, a second.
//
//   prefill_decode_bench [MODEL] [--exact] [--threads N] [--steps N]
//
// Without a model (under ctest) a small random one, so that the bench never rots.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "executor/step_driver.h"
#include "executor/step_executor.h"
#include "model/gguf_model.h"
#include "model/load_model.h"
#include "tests/support/gguf_writer.h"

namespace millrace {
namespace {

struct BenchOptions {
  std::string path;
  bool exact = false;
  int threads = 0;
  int steps = 64;
};

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Bench {
 public:
  Bench(const model::Transformer& transformer, ThreadPool& pool, const BenchOptions& options)
      : transformer_(transformer), pool_(pool), options_(options) {}

  bool Prefill(int32_t tokens) {
    auto executor = Make(1, tokens);
    if (executor == nullptr) return false;
    executor::StepDriver driver(*executor);
    double best = 1e30;
    for (int i = 0; i < 3; ++i) {
      const int sequence = driver.Add(Tokens(tokens));
      const executor::DriverWork work{sequence, tokens, true};
      const double begin = Now();
      if (!driver.Step({&work, 1}).ok()) return false;
      best = std::min(best, Now() - begin);
      driver.Remove(sequence);
    }
    std::printf("prefill %5d tokens        %9.1f tokens/s\n", tokens, tokens / best);
    return true;
  }

  // `batch` sequences whose contexts begin at `context` tokens.
  bool Decode(int batch, int32_t context) {
    auto executor = Make(batch, context);
    if (executor == nullptr) return false;
    executor::StepDriver driver(*executor);
    std::vector<executor::DriverWork> works;
    for (int i = 0; i < batch; ++i) {
      works.push_back({driver.Add(Tokens(context)), context, true});
      if (!driver.Step({&works.back(), 1}).ok()) return false;
    }
    for (executor::DriverWork& work : works) work.tokens = 1;
    if (!driver.Step(works).ok()) return false;
    const double begin = Now();
    for (int i = 0; i < options_.steps; ++i) {
      if (!driver.Step(works).ok()) return false;
    }
    const double seconds = (Now() - begin) / options_.steps;
    executor::StepExecutorOptions layout_options;
    layout_options.mode = Mode();
    const kernels::KvLayout layout = executor::KvLayoutFor(transformer_.config(), layout_options);
    const double kv = static_cast<double>(layout.BlockBytes()) / layout.block_tokens *
                      (context + options_.steps / 2.0) * batch;
    const double bytes = static_cast<double>(transformer_.WeightBytes()) + kv;
    std::printf("decode  batch %3d at %5d %9.1f tokens/s  %7.2f ms/step  %6.2f GB/s\n", batch,
                context, batch / seconds, seconds * 1e3, bytes / seconds * 1e-9);
    return true;
  }

 private:
  kernels::ComputeMode Mode() const {
    return options_.exact ? kernels::ComputeMode::kExact : kernels::ComputeMode::kFast;
  }
  std::vector<TokenId> Tokens(int32_t count) {
    std::vector<TokenId> out;
    for (int32_t i = 0; i < count; ++i) {
      out.push_back(static_cast<TokenId>(random_() %
                                         static_cast<uint64_t>(transformer_.config().vocab_size)));
    }
    return out;
  }
  std::unique_ptr<executor::StepExecutor> Make(int sequences, int32_t context) {
    executor::StepExecutorOptions options;
    options.mode = Mode();
    options.max_num_seqs = sequences;
    options.max_model_len = std::min<int32_t>(
        context + options_.steps + 8, static_cast<int32_t>(transformer_.config().context_length));
    options.kv_blocks = sequences * (options.max_model_len / options.block_tokens + 1);
    auto executor = executor::StepExecutor::Create(transformer_, pool_, options);
    if (!executor.ok()) std::printf("%s\n", executor.status().ToString().c_str());
    return executor.ok() ? *std::move(executor) : nullptr;
  }

  const model::Transformer& transformer_;
  ThreadPool& pool_;
  const BenchOptions& options_;
  std::mt19937_64 random_{1};
};

int Main(const BenchOptions& options) {
  ThreadPool pool({.workers = options.threads});
  kernels::Stream stream(pool, kernels::ComputeMode::kFast);
  model::LoadedModel loaded;
  std::string random;  // the small model's bytes
  if (options.path.empty()) {
    testing::LlamaShape shape;
    shape.type = kernels::WeightType::kQ4_1;
    shape.context = 1024;
    random = testing::RandomLlama(shape, 1).Build();
    const auto contents = model::ParseGguf(std::as_bytes(std::span(random)), "random");
    const auto description = model::DescribeGguf(*contents);
    model::PackArgs args;
    args.stream = &stream;
    loaded.transformer = *model::FindArchitecture("llama")->make(*description, args);
  } else {
    const double begin = Now();
    auto made = model::LoadModel(options.path, {}, stream);
    if (!made.ok()) {
      std::printf("%s\n", made.status().ToString().c_str());
      return 1;
    }
    loaded = *std::move(made);
    std::printf("%s: loaded in %.2f s\n", loaded.file->description().format.c_str(), Now() - begin);
  }
  std::printf("%s, %s, %d threads, %.1f MB of weights a step\n", options.exact ? "exact" : "fast",
              kernels::IsaTierName(kernels::DetectIsaTier()), pool.workers(),
              static_cast<double>(loaded.transformer->WeightBytes()) * 1e-6);
  Bench bench(*loaded.transformer, pool, options);
  bool ok = bench.Prefill(512);
  for (int batch : {1, 8, 32}) ok = ok && bench.Decode(batch, 128);
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace millrace

int main(int argc, char** argv) {
  millrace::BenchOptions options;
  for (int i = 1; i < argc; ++i) {
    const bool more = i + 1 < argc;
    if (std::strcmp(argv[i], "--exact") == 0) {
      options.exact = true;
    } else if (std::strcmp(argv[i], "--threads") == 0 && more) {
      options.threads = std::atoi(argv[++i]);
    } else if (std::strcmp(argv[i], "--steps") == 0 && more) {
      options.steps = std::max(1, std::atoi(argv[++i]));
    } else if (argv[i][0] != '-') {
      options.path = argv[i];
    }  // else: a flag of Google Benchmark, which ctest gives to every bench
  }
  return millrace::Main(options);
}
