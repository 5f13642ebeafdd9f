#include "cli/node.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "cli/model_text.h"
#include "executor/step_executor.h"
#include "model/machine_memory.h"
#include "server/sampling_defaults.h"

namespace millrace::cli {
namespace {

kernels::ComputeMode ModeOf(const ModelOptions& o) {
  return o.exact ? kernels::ComputeMode::kExact : kernels::ComputeMode::kFast;
}

// Checked by the parser of the command line. The matrix unit's products depend on the batch.
kernels::IsaTier TierOf(const ModelOptions& o) {
  const kernels::IsaTier tier = kernels::FindIsaTier(o.cpu_tier).value_or(kernels::DetectIsaTier());
  return o.exact || o.batch_invariant ? kernels::BatchInvariantTier(tier) : tier;
}

int ThreadsOf(const ModelOptions& o) {
  return o.threads > 0 ? o.threads : UsableCpuCount();
}

executor::StepExecutorOptions ExecutorOptions(const ModelOptions& o) {
  executor::StepExecutorOptions options;
  options.mode = ModeOf(o);
  options.tier = TierOf(o);
  if (o.kv_dtype == "f32") options.kv_type = kernels::KvType::kF32;
  if (o.kv_dtype == "bf16") options.kv_type = kernels::KvType::kBF16;
  if (o.kv_dtype == "int8") options.kv_type = kernels::KvType::kInt8;
  options.block_tokens = static_cast<int32_t>(o.block_tokens);
  options.max_num_seqs = static_cast<int32_t>(o.max_num_seqs);
  options.tokens_per_step = static_cast<int32_t>(o.max_batched_tokens);
  return options;
}

// A terminal sees a bar; a log gets nothing but the line at the end.
model::LoadProgress ProgressBar() {
  if (isatty(STDERR_FILENO) == 0) return {};
  return [](size_t done, size_t total) {
    constexpr int kWidth = 40;
    const double share = total == 0 ? 1 : static_cast<double>(done) / static_cast<double>(total);
    const int filled = static_cast<int>(share * kWidth);
    std::fprintf(stderr, "\rloading [%s%s] %3.0f %%%s", std::string(filled, '#').c_str(),
                 std::string(kWidth - filled, ' ').c_str(), share * 100, done == total ? "\n" : "");
  };
}

// Of the weights and what computes on them: equal fingerprints, equal answers to equal seeds.
// The author's sampling defaults count: they are what a request that leaves them out gets.
// `hash`: of the files (ModelFile::ContentHash).
std::string Fingerprint(uint64_t hash, const model::ModelFile& file, const ModelOptions& options,
                        const SamplingDefaults& sampling) {
  hash ^= std::hash<std::string>{}(
      absl::StrCat(MILLRACE_VERSION, options.exact ? "exact" : "fast", options.kv_dtype,
                   options.block_tokens, file.description().int8_head ? "int8 head" : "",
                   options.exact ? "" : kernels::IsaTierName(TierOf(options))));
  if (sampling.from_model) {
    hash ^= std::hash<std::string>{}(absl::StrCat(
        sampling.temperature, " ", sampling.top_p, " ", sampling.min_p, " ",
        sampling.repetition_penalty, " ", sampling.top_k, " ", sampling.chat_max_tokens));
  }
  return absl::StrFormat("fp_%016x", hash);
}

absl::Status BuildText(const model::ModelFile& file, const ServeOptions& options, Node& node) {
  ASSIGN_OR_RETURN(ModelText text, ReadModelText(file));
  node.card.end_tokens = std::move(text.end_tokens);
  ASSIGN_OR_RETURN(node.tokenizer, text::Tokenizer::Create(std::move(text.spec)));
  for (const std::string& key : text.generation.not_applied) {
    Log(LogLevel::kWarning, "generation_config.json: not applied",
        {{"key", std::string_view(key)}});
  }
  if (options.generation_config) {
    ASSIGN_OR_RETURN(node.card.sampling,
                     server::SamplingDefaultsFrom(text.generation,
                                                  options.model.model + "/generation_config.json"));
  }
  if (!text.chat_template.has_value()) return absl::OkStatus();
  auto parsed = text::ChatTemplate::Parse(*text.chat_template);
  if (parsed.ok()) {
    node.chat_template.emplace(std::move(parsed).value());
  } else {  // Completions still work: say so, and serve.
    const std::string reason(parsed.status().message());
    Log(LogLevel::kWarning, "chat disabled: the model's template cannot be used",
        {{"reason", std::string_view(reason)}});
  }
  return absl::OkStatus();
}

// "models/Llama-3.2-1B/" is Llama-3.2-1B, "x/y.gguf" is y.
std::string ModelName(const std::string& given) {
  std::filesystem::path path(given);
  if (!path.has_filename()) path = path.parent_path();
  const bool file = path.extension() == ".gguf";
  return (file ? path.stem() : path.filename()).string();
}

void BuildCard(const model::ModelFile& file, const ServeOptions& options, Node& node) {
  ModelCard& card = node.card;
  card.root = options.model.model;
  card.name =
      options.served_names.empty() ? ModelName(options.model.model) : options.served_names.front();
  card.architecture = file.description().config.architecture;
  card.format = file.description().format;
  card.created = node.clock.UnixNow() / kNanosPerSecond;
  card.vocab_size = static_cast<int32_t>(file.description().config.vocab_size);
  card.context_length = static_cast<int32_t>(file.description().config.context_length);
  card.max_model_len = static_cast<int32_t>(node.plan.max_model_len);
  card.has_chat_template = node.chat_template.has_value();
  const uint64_t content = node.packed->ContentHash(file);
  card.fingerprint = Fingerprint(content, file, options.model, card.sampling);
}

engine::EngineOptions EngineOptionsFor(const ServeOptions& options, const Node& node) {
  engine::EngineOptions out;
  scheduler::SchedulerConfig& config = out.scheduler;
  const executor::ExecutorCapacity capacity = node.executor->Capacity();
  config.block_tokens = capacity.kv_groups.front().block_tokens;
  for (const executor::KvGroupCapacity& group : capacity.kv_groups) {
    config.kv_groups.push_back({group.blocks, group.window});
  }
  config.slots = capacity.slots;
  config.tokens_per_step = capacity.tokens_per_step;
  config.prefill_chunk_max = capacity.tokens_per_step;
  config.mixed_prefill_tokens = options.mixed_prefill_tokens;
  config.max_model_len = node.card.max_model_len;
  config.max_in_flight = node.executor->max_in_flight();
  config.prefix_cache = options.prefix_caching;
  if (options.speculation) config.speculation.guesses_max = options.speculation_tokens;
  config.end_tokens = node.card.end_tokens;
  config.model_identity = node.card.fingerprint;
  out.requests_max = static_cast<int32_t>(options.max_queued_requests);
  out.inbox_capacity = static_cast<int32_t>(options.max_queued_requests);
  return out;
}

absl::Status LoadWeights(std::unique_ptr<model::ModelFile> file, const ServeOptions& options,
                         Node& node) {
  const MonoNanos begin = node.clock.Now();
  // A pool of its own: a pool pins its caller, and this thread will start the doors' threads.
  ThreadPoolOptions pool_options;
  pool_options.workers = ThreadsOf(options.model);
  ThreadPool pool(pool_options);
  kernels::Stream stream(pool, ModeOf(options.model), TierOf(options.model));
  model::LoadOptions load;
  load.progress = ProgressBar();
  load.context_length = node.plan.max_model_len;
  node.packed->Prepare(*file, pool, &load);
  ASSIGN_OR_RETURN(model::LoadedModel loaded, model::LoadModel(std::move(file), load, stream));
  node.transformer = std::move(loaded.transformer);
  node.packed->Publish();
  Log(LogLevel::kInfo, "model loaded",
      {{"model", std::string_view(node.card.name)},
       {"format", std::string_view(node.card.format)},
       {"seconds", static_cast<double>(node.clock.Now() - begin) / kNanosPerSecond},
       {"threads", static_cast<int64_t>(pool.workers())},
       {"isa", std::string_view(kernels::IsaTierName(TierOf(options.model)))},
       {"packed_cache", node.packed->result()}});
  return absl::OkStatus();
}

}  // namespace

server::ServedModel Node::served() const {
  server::ServedModel model;
  model.card = card;
  model.tokenizer = tokenizer.get();
  model.chat_template = chat_template.has_value() ? &*chat_template : nullptr;
  model.block_tokens = plan.kv_groups.front().group.layout.block_tokens;
  return model;
}

absl::StatusOr<std::unique_ptr<model::ModelFile>> OpenModel(const ModelOptions& options) {
  const bool source = options.exact || options.source_head;
  return model::ModelFile::Open(options.model,
                                source ? model::HeadType::kSource : model::HeadType::kAuto);
}

executor::StepExecutorOptions ExecutorOptionsFor(const ModelOptions& options) {
  return ExecutorOptions(options);
}

absl::StatusOr<model::MemoryPlan> PlanNode(const model::ModelFile& file,
                                           const ModelOptions& options) {
  const executor::StepExecutorOptions executor_options = ExecutorOptions(options);
  model::PlanRequest request;
  request.max_model_len = options.max_model_len;
  request.force_model_len = options.force_model_len;
  request.max_num_seqs = options.max_num_seqs;
  request.tokens_per_step = options.max_batched_tokens;
  request.logits_rows = executor_options.logits_rows;
  request.kv_cache_bytes = options.kv_cache_bytes;
  request.kv_reference_len = options.kv_reference_len;
  request.threads = ThreadsOf(options);
  request.kv_groups = executor::KvLayoutsFor(file.description().config, executor_options);
  return model::PlanMemory(file.description(), request, model::ReadMachineMemory());
}

absl::StatusOr<std::unique_ptr<Node>> BuildNode(const ServeOptions& options,
                                                const ExecutorFactory& factory,
                                                std::function<void(absl::Status)> on_fatal) {
  auto node = std::make_unique<Node>();
  ASSIGN_OR_RETURN(auto file, OpenModel(options.model));
  ASSIGN_OR_RETURN(node->plan, PlanNode(*file, options.model));
  node->packed = std::make_unique<PackedStart>(options, *file);
  if (node->packed->result() == "hit") node->plan.weights_mapped = "the packed cache";
  std::cout << node->plan.Table() << std::flush;
  RETURN_IF_ERROR(node->plan.Check());
  RETURN_IF_ERROR(BuildText(*file, options, *node));
  BuildCard(*file, options, *node);
  RETURN_IF_ERROR(LoadWeights(std::move(file), options, *node));

  ThreadPoolOptions pool;
  pool.workers = ThreadsOf(options.model);
  node->pool = std::make_unique<ThreadPool>(pool);  // pins the engine thread, its first caller
  ExecutorParts parts{node->transformer.get(), node->pool.get(), ExecutorOptions(options.model)};
  for (const model::KvGroupPlan& group : node->plan.kv_groups) {
    parts.options.kv_group_blocks.push_back(group.blocks);
  }
  parts.options.max_model_len = node->card.max_model_len;
  if (factory) {
    ASSIGN_OR_RETURN(node->executor, factory(parts));
  } else {
    ASSIGN_OR_RETURN(node->executor, executor::StepExecutor::Create(*parts.transformer, *parts.pool,
                                                                    parts.options));
  }
  engine::EngineOptions engine_options = EngineOptionsFor(options, *node);
  engine_options.on_fatal = std::move(on_fatal);
  node->engine =
      std::make_unique<engine::Engine>(std::move(engine_options), *node->executor, node->clock);
  RETURN_IF_ERROR(node->engine->Start());
  return node;
}

}  // namespace millrace::cli
