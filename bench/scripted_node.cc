// `millrace serve` with a scripted executor in the model's place: tokens cost nothing, so what is
// left is the cost of the scheduler, the streams and the doors. Takes the flags of `serve`. The
// model file is still loaded, for its vocabulary and its plan.
//
//   scripted_node [--step-us 2500] serve MODEL ...
//
// A step begins every 2.5 ms, as on a fast device: without a pace every message would carry many
// tokens. One that comes late is followed by one that comes early, so that the rate is kept.
// `--step-us 0`: steps take no time, for the time to the first token that is all ours.

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "cli/options.h"
#include "cli/serve.h"
#include "tests/support/fake_executor.h"

namespace {

// Ordinary words of the vocabulary, a few bytes each.
std::vector<millrace::TokenId> Words(int32_t vocab_size) {
  std::vector<millrace::TokenId> words;
  for (millrace::TokenId id = 300; id < 800 && id < vocab_size; ++id) words.push_back(id);
  return words;
}

}  // namespace

int main(int argc, char** argv) {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  std::signal(SIGPIPE, SIG_IGN);
  std::chrono::microseconds period(2500);
  if (argc > 2 && std::string_view(argv[1]) == "--step-us") {
    period = std::chrono::microseconds(std::atoll(argv[2]));
    argv[2] = argv[0];
    argv += 2;
    argc -= 2;
  }
  const millrace::cli::CommandLine line = millrace::cli::ParseCommandLine(argc, argv);
  if (line.command != millrace::cli::Command::kServe) return line.exit_code;
  return millrace::cli::RunServe(
      line.serve,
      [period](const millrace::cli::ExecutorParts& parts)
          -> absl::StatusOr<std::unique_ptr<millrace::executor::Executor>> {
        millrace::testing::FakeExecutorOptions options;
        const auto layouts =
            millrace::executor::KvLayoutsFor(parts.transformer->config(), parts.options);
        for (size_t g = 0; g < layouts.size(); ++g) {
          options.kv_groups.push_back(
              {parts.options.block_tokens, parts.options.kv_group_blocks[g], layouts[g].window});
        }
        options.slots = parts.options.max_num_seqs;
        options.tokens_per_step = parts.options.tokens_per_step;
        options.vocab_size = static_cast<int32_t>(parts.transformer->config().vocab_size);
        if (period.count() > 0) {
          options.before_wait =
              [period, next = std::chrono::steady_clock::now()](millrace::StepId) mutable {
                std::this_thread::sleep_until(next);
                next = std::max(next, std::chrono::steady_clock::now() - period) + period;
              };
        }
        options.fast_tokens = Words(options.vocab_size);
        return std::make_unique<millrace::testing::FakeExecutor>(options);
      });
}
