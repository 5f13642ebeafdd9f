// What a step costs by its tokens: `batch` sequences, each with the same number of guesses that are
// all wrong, as a share of the step without guesses. From it come the numbers of
// scheduler/speculation.h.
//
//   draft_bench [MODEL] [--exact] [--threads N] [--context N] [--rounds N]
//
// Without a model (under ctest) a small random one, so that the bench never rots.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
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
  int context = 128;
  int rounds = 3;
};

constexpr int kGuesses[] = {0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 15};

// With one thread the time on the CPU, which a busy machine does not lengthen.
double Now(const BenchOptions& options) {
  if (options.threads == 1) return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Interleaved rounds, and the median of each number of guesses.
bool Measure(executor::StepExecutor& executor, int batch, const BenchOptions& options) {
  executor::StepDriver driver(executor);
  std::mt19937_64 random(1);
  const auto vocab = static_cast<uint64_t>(executor.Capacity().vocab_size);
  const auto token = [&] { return static_cast<TokenId>(random() % vocab); };
  std::vector<executor::DriverWork> works;
  for (int i = 0; i < batch; ++i) {
    std::vector<TokenId> prompt(static_cast<size_t>(options.context));
    std::generate(prompt.begin(), prompt.end(), token);
    works.push_back({driver.Add(prompt), options.context, true});
    if (!driver.Step({&works.back(), 1}).ok()) return false;
  }
  std::vector<std::vector<double>> seconds(std::size(kGuesses));
  std::vector<TokenId> guesses(16);
  for (int round = 0; round < options.rounds; ++round) {
    for (size_t k = 0; k < std::size(kGuesses); ++k) {
      std::generate(guesses.begin(), guesses.end(), token);
      for (executor::DriverWork& work : works) {
        work.tokens = 1;
        work.drafts = std::span(guesses).first(static_cast<size_t>(kGuesses[k]));
      }
      const double begin = Now(options);
      if (!driver.Step(works).ok()) return false;
      seconds[k].push_back(Now(options) - begin);
    }
  }
  std::printf("batch %3d ", batch);
  for (size_t k = 0; k < std::size(kGuesses); ++k) {
    std::nth_element(seconds[k].begin(), seconds[k].begin() + options.rounds / 2, seconds[k].end());
    const double median = seconds[k][static_cast<size_t>(options.rounds / 2)];
    const double first = seconds[0][static_cast<size_t>(options.rounds / 2)];
    if (k == 0) std::printf("%8.3f ms ", median * 1e3);
    std::printf(" %d:%.2f", (kGuesses[k] + 1) * batch, median / first);
  }
  std::printf("\n");
  return true;
}

int Main(const BenchOptions& options) {
  ThreadPool pool({.workers = options.threads});
  kernels::Stream stream(pool, kernels::ComputeMode::kFast);
  model::LoadedModel loaded;
  std::string random;  // the small model's bytes
  if (options.path.empty()) {
    testing::LlamaShape shape;
    shape.context = 1024;
    random = testing::RandomLlama(shape, 1).Build();
    const auto contents = model::ParseGguf(std::as_bytes(std::span(random)), "random");
    const auto description = model::DescribeGguf(*contents);
    model::PackArgs args;
    args.stream = &stream;
    loaded.transformer = *model::FindArchitecture("llama")->make(*description, args);
  } else {
    auto made = model::LoadModel(options.path, {}, stream);
    if (!made.ok()) {
      std::printf("%s\n", made.status().ToString().c_str());
      return 1;
    }
    loaded = *std::move(made);
  }
  std::printf(
      "%s, %s, %d threads, context %d; time of a step by its tokens, over that without "
      "guesses\n",
      options.exact ? "exact" : "fast", kernels::IsaTierName(kernels::DetectIsaTier()),
      pool.workers(), options.context);
  for (const int batch : {1, 2, 4, 8, 16, 32}) {
    executor::StepExecutorOptions make;
    make.mode = options.exact ? kernels::ComputeMode::kExact : kernels::ComputeMode::kFast;
    make.max_num_seqs = batch;
    make.max_model_len =
        options.context + options.rounds * static_cast<int>(std::size(kGuesses)) + 20;
    make.kv_blocks = batch * (make.max_model_len / make.block_tokens + 1);
    auto executor = executor::StepExecutor::Create(*loaded.transformer, pool, make);
    if (!executor.ok()) {
      std::printf("%s\n", executor.status().ToString().c_str());
      return 1;
    }
    if (!Measure(**executor, batch, options)) return 1;
  }
  return 0;
}

}  // namespace
}  // namespace millrace

int main(int argc, char** argv) {
  millrace::BenchOptions options;
  for (int i = 1; i < argc; ++i) {
    const auto number = [&](const char* name, int& value) {
      if (std::strcmp(argv[i], name) == 0 && i + 1 < argc) value = std::atoi(argv[++i]);
    };
    if (std::strcmp(argv[i], "--exact") == 0) options.exact = true;
    if (argv[i][0] != '-') options.path = argv[i];
    number("--threads", options.threads);
    number("--context", options.context);
    number("--rounds", options.rounds);
  }
  return millrace::Main(options);
}
