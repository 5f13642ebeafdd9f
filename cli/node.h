#pragma once
// Builds the core of a node from options: model, plan, text, executor, engine. Reading node.cc
// lists the parts of Millrace below its doors.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/thread_pool.h"
#include "cli/options.h"
#include "cli/packed_start.h"
#include "engine/engine.h"
#include "executor/executor.h"
#include "executor/step_executor.h"
#include "messages/model_card.h"
#include "model/load_model.h"
#include "model/memory_plan.h"
#include "server/frontend.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace millrace::cli {

// What an executor is made of, and the sizes that the memory plan allows. The pointees outlive it.
struct ExecutorParts {
  const model::Transformer* transformer = nullptr;
  ThreadPool* pool = nullptr;
  executor::StepExecutorOptions options;
};
// Makes another executor than the model's own: load tests put a scripted one here.
using ExecutorFactory =
    std::function<absl::StatusOr<std::unique_ptr<executor::Executor>>(const ExecutorParts& parts)>;

// Members are destroyed last to first: the engine before what it runs on.
struct Node {
  RealClock clock;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<PackedStart> packed;  // the transformer's weights may lie there
  std::unique_ptr<model::Transformer> transformer;
  std::unique_ptr<text::Tokenizer> tokenizer;
  std::optional<text::ChatTemplate> chat_template;
  ModelCard card;
  model::MemoryPlan plan;
  std::unique_ptr<executor::Executor> executor;
  std::unique_ptr<engine::Engine> engine;

  server::ServedModel served() const;
};

// Opens the file for these options: with the head that they want.
absl::StatusOr<std::unique_ptr<model::ModelFile>> OpenModel(const ModelOptions& options);

// What these options say of the executor; its KV memory and its longest sequence are the plan's.
executor::StepExecutorOptions ExecutorOptionsFor(const ModelOptions& options);

// The plan of a model file under these options, without loading it.
absl::StatusOr<model::MemoryPlan> PlanNode(const model::ModelFile& file,
                                           const ModelOptions& options);

// Opens, plans (and prints the plan), refuses what cannot fit, loads with progress, and starts the
// engine. `on_fatal` is called by the engine thread when it has failed for good. Errors are one
// line.
absl::StatusOr<std::unique_ptr<Node>> BuildNode(const ServeOptions& options,
                                                const ExecutorFactory& factory,
                                                std::function<void(absl::Status)> on_fatal);

}  // namespace millrace::cli
