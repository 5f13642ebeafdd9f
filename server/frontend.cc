#include "server/frontend.h"

#include <algorithm>
#include <utility>

#include "server/frontend_core.h"
#include "server/generation_run.h"
#include "server/prepare.h"
#include "server/validate.h"
#include "server/validate_messages.h"

namespace millrace::server {
namespace {

constexpr int kPrepareThreads = 1;

// Thread: a worker.
class FunctionTask final : public Task {
 public:
  explicit FunctionTask(std::function<void()> work) : work_(std::move(work)) {}
  void Run() override { work_(); }

 private:
  std::function<void()> work_;
};

ApiError Overloaded(std::string_view message) {
  ApiError error;
  error.kind = ErrorKind::kOverloaded;
  error.message = std::string(message);
  return error;
}

}  // namespace

IdSource::IdSource(uint64_t seed)
    : random_(seed != 0 ? seed
                        : (uint64_t{std::random_device{}()} << 32) ^ std::random_device{}()) {}

uint64_t IdSource::Next() {
  std::lock_guard lock(mutex_);
  return random_();
}

std::string IdSource::Hex32() {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (int word = 0; word < 2; ++word) {
    uint64_t bits = Next();
    for (int i = 0; i < 16; ++i, bits >>= 4) text += kDigits[bits & 15];
  }
  return text;
}

FrontendCore::FrontendCore(ServedModel served, FrontendOptions chosen, FrontendDeps wired)
    : model(std::move(served)),
      options(chosen),
      deps(wired),
      token_bytes_max(LongestToken(*model.tokenizer)),
      metrics(*deps.metrics, model),
      ids(options.id_seed),
      streams(std::max(1, options.stream_workers), SIZE_MAX),
      prepare(kPrepareThreads, options.prepare_queue_max) {}

bool FrontendCore::Enter(std::shared_ptr<GenerationRun> run) {
  std::lock_guard lock(mutex);
  if (!closing) live.insert(std::move(run));
  return !closing;
}

void FrontendCore::Leave(GenerationRun* run) {
  std::shared_ptr<GenerationRun> kept = run->shared_from_this();  // destroyed after the lock
  std::lock_guard lock(mutex);
  live.erase(kept);
  if (live.empty()) left.notify_all();
}

void FrontendCore::Close() {
  std::vector<std::shared_ptr<GenerationRun>> runs;
  {
    std::lock_guard lock(mutex);
    closing = true;
    runs.assign(live.begin(), live.end());
  }
  for (const auto& run : runs) run->Cancel();
  runs.clear();
  std::unique_lock lock(mutex);
  left.wait(lock, [&] { return live.empty(); });
}

// The state of a front end is its core.
class Frontend::State : public FrontendCore {
 public:
  using FrontendCore::FrontendCore;
};

Frontend::Frontend(ServedModel model, FrontendOptions options, FrontendDeps deps)
    : state_(std::make_unique<State>(std::move(model), options, deps)) {}

Frontend::~Frontend() {
  state_->Close();
}

std::shared_ptr<Generation> Frontend::Start(GenerationRequest request,
                                            std::shared_ptr<DeltaSink> sink) {
  auto run = std::make_shared<GenerationRun>(*state_, std::move(request), sink);
  if (!state_->Enter(run)) {
    ApiError error;
    error.kind = ErrorKind::kShutdown;
    error.message = "The node is shutting down";
    sink->OnError(error);
    return run;
  }
  auto task = std::make_shared<FunctionTask>([run] { run->Prepare(); });
  if (!state_->prepare.TryPost(std::move(task))) {
    run->Refuse(Overloaded("Too many requests wait to be prepared"));
  }
  return run;
}

bool Frontend::Prepare(std::function<void()> work) {
  return state_->prepare.TryPost(std::make_shared<FunctionTask>(std::move(work)));
}

std::variant<TokenizeOutput, ApiError> Frontend::Tokenize(TokenizeInput input) const {
  const ServedModel& model = state_->model;
  if (auto error = ValidateModel(model.card, input.model, false)) return std::move(*error);
  TokenizeOutput output;
  if (input.is_chat) {
    if (model.chat_template == nullptr) {
      return InvalidField("messages", "This model has no chat template.");
    }
    if (auto error = ValidateMessages(state_->options.limits, input.prompt)) {
      return std::move(*error);
    }
    PrepareContext context;
    context.model = &model;
    context.unix_seconds = state_->deps.clock->UnixNow() / kNanosPerSecond;
    std::variant<std::vector<TokenId>, ApiError> tokens = EncodeChat(context, input.prompt);
    if (auto* error = std::get_if<ApiError>(&tokens)) return std::move(*error);
    output.tokens = std::get<std::vector<TokenId>>(std::move(tokens));
  } else {
    if (input.text.size() > state_->options.limits.tokenize_bytes_max) {
      return InvalidField("prompt", "The text is longer than " +
                                        std::to_string(state_->options.limits.tokenize_bytes_max) +
                                        " bytes.");
    }
    text::EncodeOptions options;
    options.parse_special = true;
    options.add_special = input.prompt.add_special_tokens.value_or(true);
    output.tokens = model.tokenizer->Encode(input.text, options);
  }
  output.pieces.reserve(output.tokens.size());
  for (const TokenId token : output.tokens) {
    output.pieces.push_back(ToText(*model.tokenizer, token, nullptr).token.text);
  }
  return output;
}

std::variant<std::string, ApiError> Frontend::Detokenize(const std::optional<std::string>& model,
                                                         const std::vector<int64_t>& tokens,
                                                         bool skip_special_tokens) const {
  const ServedModel& served = state_->model;
  if (auto error = ValidateModel(served.card, model, false)) return std::move(*error);
  std::vector<TokenId> ids;
  ids.reserve(tokens.size());
  for (const int64_t token : tokens) {
    if (token < 0 || token >= served.card.vocab_size) {
      return InvalidField("tokens", "'tokens' must hold ids between 0 and " +
                                        std::to_string(served.card.vocab_size - 1) + ".");
    }
    ids.push_back(static_cast<TokenId>(token));
  }
  return text::Decode(*served.tokenizer, ids, skip_special_tokens);
}

void Frontend::SetStreamWait(IdleWait* wait) {
  state_->streams.SetWait(wait);
}

const ServedModel& Frontend::model() const {
  return state_->model;
}
const Limits& Frontend::limits() const {
  return state_->options.limits;
}

std::string Frontend::MetricsText() const {
  state_->metrics.Refresh(state_->deps.engine->Stats());
  return state_->deps.metrics->Expose();
}

}  // namespace millrace::server
