#include "cli/bench_work.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <random>
#include <string_view>

#include "base/status_macros.h"
#include "executor/step_driver.h"

namespace millrace::cli {
namespace {

using executor::DriverWork;
using executor::StepDriver;
using executor::StepExecutor;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<TokenId> RandomTokens(const BenchSubject& subject, int64_t count) {
  std::mt19937_64 random(1);
  const auto vocab = static_cast<uint64_t>(subject.transformer->config().vocab_size);
  std::vector<TokenId> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(static_cast<TokenId>(random() % vocab));
  return out;
}

// `length`: positions of a sequence.
absl::StatusOr<std::unique_ptr<StepExecutor>> MakeExecutor(const BenchSubject& subject,
                                                           int64_t sequences, int64_t length) {
  executor::StepExecutorOptions options = subject.executor;
  options.max_num_seqs = static_cast<int32_t>(sequences);
  options.max_model_len = static_cast<int32_t>(length);
  options.tokens_per_step = std::max(options.tokens_per_step, options.max_num_seqs);
  const int64_t blocks =
      sequences * ((length + options.block_tokens - 1) / options.block_tokens) + 1;
  const size_t groups = executor::KvLayoutsFor(subject.transformer->config(), options).size();
  options.kv_group_blocks.assign(groups, static_cast<int32_t>(blocks));
  return StepExecutor::Create(*subject.transformer, *subject.pool, options);
}

// Feeds all that is pending, in steps of at most `tokens_per_step`; the last may sample.
absl::Status Feed(StepDriver& driver, int sequence, int32_t tokens_per_step, bool sample) {
  while (driver.pending(sequence) > 0) {
    const int32_t tokens = std::min(driver.pending(sequence), tokens_per_step);
    const bool last = tokens == driver.pending(sequence);
    const DriverWork work{sequence, tokens, sample && last};
    RETURN_IF_ERROR(driver.Step({&work, 1}).status());
    if (last) break;  // what it sampled is pending now
  }
  return absl::OkStatus();
}

// Bytes of keys and values that one more token of a sequence of `length` reads.
double KvBytes(const BenchSubject& subject, double length) {
  double bytes = 0;
  for (const model::KvGroupLayout& group :
       executor::KvLayoutsFor(subject.transformer->config(), subject.executor)) {
    const double seen = group.window > 0 ? std::min<double>(length, group.window) : length;
    bytes += seen * static_cast<double>(group.layout.BlockBytes()) / group.layout.block_tokens;
  }
  return bytes;
}

// Greedy: the peers sample so or not at all.
SlotInstall Greedy() {
  SlotInstall install;
  install.sampling.temperature = 0;
  return install;
}

// One batch: copies of `root`, which has been fed and sampled once.
absl::StatusOr<DecodeFigure> DecodeBatch(const BenchSubject& subject, int64_t batch, int root,
                                         StepDriver& driver) {
  std::vector<DriverWork> works;
  for (int64_t i = 0; i < batch; ++i) works.push_back({driver.Fork(root), 1, true});
  const auto context = static_cast<int64_t>(driver.tokens(root).size()) - 1;
  // The first step copies the blocks and touches new memory.
  RETURN_IF_ERROR(driver.Step(works).status());
  const double begin = Now();
  for (int64_t i = 0; i < subject.steps; ++i) RETURN_IF_ERROR(driver.Step(works).status());
  DecodeFigure figure;
  figure.seconds = (Now() - begin) / static_cast<double>(subject.steps);
  for (const DriverWork& work : works) driver.Remove(work.sequence);
  figure.batch = batch;
  figure.context = context;
  // The steps' lengths are context + 2 .. context + steps + 1, the own token included.
  const double length = static_cast<double>(context) + (static_cast<double>(subject.steps) + 3) / 2;
  const double sequences = static_cast<double>(batch);
  figure.bytes = static_cast<double>(subject.transformer->WeightBytes()) +
                 sequences * KvBytes(subject, length);
  figure.ops = 2 * sequences * (subject.work.layers + subject.work.head);
  return figure;
}

// Positions of a sequence that begins at `context`: one step to warm up and the measured ones.
int64_t LengthFor(int64_t context, const BenchSubject& subject) {
  return context + subject.steps + 1;
}

}  // namespace

LinearWork LinearWorkOf(const model::ModelDescription& description) {
  LinearWork work;
  const std::string_view head = model::HeadTensor(description);
  for (const auto& [name, tensor] : description.tensors) {
    if (tensor.matrix.rows == 1) continue;  // norms and biases
    const double values =
        static_cast<double>(tensor.matrix.rows) * static_cast<double>(tensor.matrix.cols);
    if (name == head) {
      work.head += values;
    } else if (name != "embedding") {
      work.layers += values;
    }
  }
  return work;
}

int64_t BlocksFor(int64_t batch, int64_t context, const BenchSubject& subject) {
  const int64_t block = subject.executor.block_tokens;
  return (batch + 1) * ((LengthFor(context, subject) + block - 1) / block) + 1;
}

absl::StatusOr<PrefillFigure> MeasurePrefill(const BenchSubject& subject, int64_t tokens) {
  const int64_t length = std::min(tokens + 1, subject.transformer->config().context_length);
  ASSIGN_OR_RETURN(const auto executor, MakeExecutor(subject, 1, length));
  StepDriver driver(*executor);
  PrefillFigure figure{tokens, 1e30, 0};
  for (int64_t i = 0; i <= subject.repeats; ++i) {  // the first touches the memory
    const int sequence = driver.Add(RandomTokens(subject, tokens), Greedy());
    const double begin = Now();
    RETURN_IF_ERROR(Feed(driver, sequence, subject.executor.tokens_per_step, true));
    figure.seconds = std::min(figure.seconds, Now() - begin);
    driver.Remove(sequence);
  }
  figure.ops = 2 * (static_cast<double>(tokens) * subject.work.layers + subject.work.head);
  return figure;
}

absl::StatusOr<std::vector<DecodeFigure>> MeasureDecode(const BenchSubject& subject,
                                                        int64_t context,
                                                        const std::vector<int64_t>& batches) {
  const int64_t most = *std::max_element(batches.begin(), batches.end());
  ASSIGN_OR_RETURN(const auto executor,
                   MakeExecutor(subject, most + 1, LengthFor(context, subject)));
  StepDriver driver(*executor);
  const int root = driver.Add(RandomTokens(subject, context), Greedy());
  RETURN_IF_ERROR(Feed(driver, root, subject.executor.tokens_per_step, true));
  std::vector<DecodeFigure> figures;
  for (const int64_t batch : batches) {
    ASSIGN_OR_RETURN(const DecodeFigure figure, DecodeBatch(subject, batch, root, driver));
    figures.push_back(figure);
  }
  return figures;
}

}  // namespace millrace::cli
