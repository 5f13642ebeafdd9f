#include "cli/bench.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <span>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "cli/node.h"
#include "kernels/limits.h"
#include "model/load_model.h"

namespace millrace::cli {
namespace {

// Larger than any cache of today by far; less where there is not the memory.
constexpr size_t kProbeBytes = size_t{1} << 30;

void Probe(ThreadPool& pool, double seconds, MachineLimits* limits) {
  const kernels::ProbeTime time{seconds};
  const std::unique_ptr<void, void (*)(void*)> memory(std::aligned_alloc(4096, kProbeBytes),
                                                      &std::free);
  if (memory != nullptr) {
    std::memset(memory.get(), 1, kProbeBytes);
    const std::span<const std::byte> buffer(static_cast<const std::byte*>(memory.get()),
                                            kProbeBytes);
    limits->read_bytes_per_second =
        std::max(limits->read_bytes_per_second, kernels::ReadBandwidth(pool, buffer, time));
  }
  const kernels::IntegerPeak peak = kernels::MeasureIntegerPeak(pool, time);
  limits->ops_per_second = std::max(limits->ops_per_second, peak.ops_per_second);
  limits->instruction = peak.instruction;
}

// Fills in what depends on the model: contexts that it can hold, and a prompt that it can.
absl::Status CompleteSizes(const model::ModelConfig& config, BenchOptions* options) {
  const int64_t room = config.context_length - options->steps - 1;
  if (room < 1) {
    return absl::InvalidArgumentError(absl::StrCat("--steps ", options->steps,
                                                   " is more than the model's context of ",
                                                   config.context_length, " tokens can hold"));
  }
  if (options->contexts.empty()) {
    for (const int64_t context : {int64_t{128}, int64_t{1024}}) {
      if (context <= room) options->contexts.push_back(context);
    }
    if (options->contexts.empty()) options->contexts.push_back(room);
  }
  for (const int64_t context : options->contexts) {
    if (context > room) {
      return absl::InvalidArgumentError(
          absl::StrCat("--contexts ", context, " and ", options->steps, " steps are more than the ",
                       "model's ", config.context_length, " tokens; at most ", room));
    }
  }
  if (options->prefill > config.context_length) {
    if (options->prefill_given) {
      return absl::InvalidArgumentError(absl::StrCat("--prefill ", options->prefill,
                                                     " is more than the model's ",
                                                     config.context_length, " tokens"));
    }
    options->prefill = config.context_length;
  }
  return absl::OkStatus();
}

// The largest KV memory of the run must fit beside the weights.
absl::Status CheckMemory(const model::ModelFile& file, const BenchOptions& options,
                         const BenchSubject& subject) {
  const int64_t batch = *std::max_element(options.batches.begin(), options.batches.end());
  const int64_t context = *std::max_element(options.contexts.begin(), options.contexts.end());
  ModelOptions planned = options.model;
  planned.max_num_seqs = batch;
  planned.max_model_len = std::min(std::max(context + options.steps + 2, options.prefill),
                                   file.description().config.context_length);
  size_t block_bytes = 0;
  for (const model::KvGroupLayout& group :
       executor::KvLayoutsFor(file.description().config, subject.executor)) {
    block_bytes += group.layout.BlockBytes();
  }
  const int64_t blocks = std::max(BlocksFor(batch, context, subject),
                                  BlocksFor(0, planned.max_model_len, subject));  // a prompt alone
  planned.kv_cache_bytes = static_cast<uint64_t>(blocks) * static_cast<uint64_t>(block_bytes);
  ASSIGN_OR_RETURN(const model::MemoryPlan plan, PlanNode(file, planned));
  if (plan.problem.empty()) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("batch ", batch, " at context ", context, ": ", plan.problem,
                   "; try smaller --batches, --contexts or --prefill"));
}

void DescribeRun(const BenchOptions& options, const BenchSubject& subject, BenchReport* report) {
  report->model = options.model.model;
  report->weight_bytes = static_cast<double>(subject.transformer->WeightBytes());
  report->cpu = ReadCpuModel();
  report->threads = subject.pool->workers();
  report->tier = kernels::IsaTierName(subject.executor.tier);
  report->numerics = options.model.exact             ? "exact"
                     : options.model.batch_invariant ? "batch-invariant"
                                                     : "default";
  report->kv_type = kernels::KvTypeName(
      executor::KvLayoutFor(subject.transformer->config(), subject.executor).type);
}

}  // namespace

absl::StatusOr<BenchReport> MeasureModel(const BenchOptions& given) {
  BenchOptions options = given;
  ASSIGN_OR_RETURN(auto file, OpenModel(options.model));
  RETURN_IF_ERROR(CompleteSizes(file->description().config, &options));
  BenchSubject subject;
  subject.executor = ExecutorOptionsFor(options.model);
  subject.work = LinearWorkOf(file->description());
  subject.steps = options.steps;
  subject.repeats = options.repeats;
  RETURN_IF_ERROR(CheckMemory(*file, options, subject));

  BenchReport report;
  report.format = file->description().format;
  const CpuTicks ticks = ReadCpuTicks();
  ThreadPool pool({.workers = options.model.threads});
  if (options.probe_seconds > 0) Probe(pool, options.probe_seconds, &report.limits);
  const auto begin = std::chrono::steady_clock::now();
  kernels::Stream stream(pool, subject.executor.mode, subject.executor.tier);
  ASSIGN_OR_RETURN(const model::LoadedModel loaded, model::LoadModel(std::move(file), {}, stream));
  report.load_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  subject.transformer = loaded.transformer.get();
  subject.pool = &pool;
  DescribeRun(options, subject, &report);
  if (options.prefill > 0) {
    ASSIGN_OR_RETURN(const PrefillFigure figure, MeasurePrefill(subject, options.prefill));
    report.prefills.push_back(figure);
  }
  for (const int64_t context : options.contexts) {
    ASSIGN_OR_RETURN(const auto figures, MeasureDecode(subject, context, options.batches));
    report.decodes.insert(report.decodes.end(), figures.begin(), figures.end());
  }
  if (options.probe_seconds > 0) Probe(pool, options.probe_seconds, &report.limits);
  const CpuTicks after = ReadCpuTicks();
  report.steal_share = ShareOf(&CpuTicks::steal, ticks, after);
  report.busy_share = 1 - report.steal_share - ShareOf(&CpuTicks::idle, ticks, after);
  return report;
}

int RunBench(const BenchOptions& options, bool json) {
  const auto report = MeasureModel(options);
  if (!report.ok()) {
    std::cerr << "millrace: " << report.status().message() << "\n";
    return 1;
  }
  std::cout << (json ? ReportJson(*report).Dump() + "\n" : ReportTable(*report));
  return 0;
}

}  // namespace millrace::cli
