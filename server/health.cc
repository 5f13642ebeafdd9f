#include "server/health.h"

#include <algorithm>

namespace millrace::server {

std::string_view ReadinessName(Readiness readiness) {
  switch (readiness) {
    case Readiness::kReady:
      return "ok";
    case Readiness::kLoading:
      return "loading";
    case Readiness::kDraining:
      return "draining";
    case Readiness::kWedged:
      return "wedged";
    case Readiness::kFailed:
      return "failed";
  }
  return "failed";
}

Health::Health(const EnginePort& engine, const Clock& clock, HealthOptions options)
    : engine_(engine), clock_(clock), options_(options) {}

Readiness Health::Ready() const {
  if (draining_.load(std::memory_order_relaxed)) return Readiness::kDraining;
  if (!serving_.load(std::memory_order_relaxed)) return Readiness::kLoading;
  const EngineStats stats = engine_.Stats();
  if (!stats.healthy) return Readiness::kFailed;
  if (stats.steps == 0) return Readiness::kLoading;
  return StandsStill(options_.wedged_after) ? Readiness::kWedged : Readiness::kReady;
}

bool Health::Alive() const {
  return engine_.Stats().healthy && !StandsStill(options_.dead_after);
}

bool Health::StandsStill(MonoNanos limit) const {
  const EngineStats stats = engine_.Stats();
  // A paused sequence waits for its client, not for us: it is no work.
  const int32_t work = stats.sequences_running + stats.sequences_waiting - stats.sequences_paused;
  if (work <= 0) {
    busy_since_.store(0, std::memory_order_relaxed);
    return false;
  }
  const MonoNanos now = clock_.Now();
  MonoNanos busy_since = 0;
  if (busy_since_.compare_exchange_strong(busy_since, now)) busy_since = now;
  return now - std::max(stats.last_step_end, busy_since) > limit;
}

void Health::SetServing() {
  serving_.store(true, std::memory_order_relaxed);
}
void Health::SetDraining() {
  draining_.store(true, std::memory_order_relaxed);
}
bool Health::draining() const {
  return draining_.load(std::memory_order_relaxed);
}

}  // namespace millrace::server
