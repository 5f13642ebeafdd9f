#include "engine/engine.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "engine/engine_loop.h"
#include "engine/inbox.h"
#include "engine/step_check.h"

namespace millrace::engine {
namespace {

// Longest wait that is handed to a condition variable; keeps its arithmetic from overflowing.
constexpr MonoNanos kWaitMax = 30LL * 24 * 3600 * kNanosPerSecond;
// For the last events of a drain that was cut: one step and the deliveries after it.
constexpr MonoNanos kLastEventsGrace = kNanosPerSecond;

}  // namespace

// The thread around EngineLoop.
class Engine::Loop {
 public:
  Loop(EngineOptions options, executor::Executor& executor, const Clock& engine_clock)
      : config(options.scheduler), clock(engine_clock), loop(options, executor, engine_clock) {}

  ~Loop() {
    if (!thread.joinable()) return;
    loop.inbox().admission().Close("the engine is shutting down");
    stop.store(true);
    loop.inbox().Post(DrainLetter{.deadline = 0});  // long past: ends what still runs
    thread.join();
  }

  absl::Status Start() {
    CHECK(!thread.joinable());
    std::promise<absl::Status> warmed_up;
    std::future<absl::Status> status = warmed_up.get_future();
    thread = std::thread([this, promise = std::move(warmed_up)]() mutable {
      const absl::Status warm = loop.WarmUp();
      promise.set_value(warm);
      if (warm.ok()) Run();
    });
    return status.get();
  }

  void Run() {
    while (true) {
      // Read before the step: letters that came before the stop are then read by it.
      const bool stopping = stop.load();
      if (loop.Step()) continue;
      if (stopping && loop.Idle()) return;
      loop.Park();
    }
  }

  const scheduler::SchedulerConfig config;
  const Clock& clock;
  EngineLoop loop;
  std::atomic<bool> stop = false;
  std::thread thread;
};

Engine::Engine(EngineOptions options, executor::Executor& executor, const Clock& clock)
    : loop_(std::make_unique<Loop>(std::move(options), executor, clock)) {}

Engine::~Engine() = default;

absl::Status Engine::Start() {
  return loop_->Start();
}

absl::Status Engine::Submit(Request request, TokenSink* sink) {
  if (NeverFits(loop_->config, request)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt of ", request.prompt.size(),
                     " tokens needs more KV memory than this node has: ",
                     int64_t{loop_->config.blocks} * loop_->config.block_tokens, " tokens"));
  }
  return loop_->loop.inbox().Submit({std::move(request), sink});
}

void Engine::Cancel(RequestId request, FinishReason reason) {
  loop_->loop.inbox().Post(CancelLetter{request, reason});
}

void Engine::Finish(RequestId request, int32_t choice, FinishReason reason,
                    int32_t completion_tokens) {
  loop_->loop.inbox().Post(FinishLetter{request, choice, reason, completion_tokens});
}

void Engine::Resume(RequestId request) {
  loop_->loop.inbox().Post(ResumeLetter{request});
}

void Engine::UpdateTenants(std::vector<TenantPolicy> tenants) {
  loop_->loop.inbox().Post(TenantsLetter{std::move(tenants)});
}

void Engine::Drain(MonoNanos deadline) {
  Inbox& inbox = loop_->loop.inbox();
  inbox.admission().Close("the node is shutting down");
  inbox.Post(DrainLetter{deadline});
  const MonoNanos wait = deadline - loop_->clock.Now();
  if (wait <= 0) return;
  if (inbox.admission().WaitEmpty(std::min(wait, kWaitMax))) return;
  inbox.admission().WaitEmpty(kLastEventsGrace);
}

EngineStats Engine::Stats() const {
  return loop_->loop.Stats();
}

}  // namespace millrace::engine
