#pragma once
// Is this process alive, and should it get traffic? Both doors and Kubernetes ask here.

#include <atomic>
#include <string_view>

#include "base/clock.h"
#include "server/engine_port.h"

namespace millrace::server {

enum class Readiness { kReady, kLoading, kDraining, kWedged, kFailed };
std::string_view ReadinessName(Readiness readiness);

struct HealthOptions {
  // Work waits and no step has ended for this long: not ready (busy is not dead: steps do end).
  MonoNanos wedged_after = 30 * kNanosPerSecond;
  // ... and for this long: not alive, so that the supervisor restarts the process.
  MonoNanos dead_after = 300 * kNanosPerSecond;
};

// Thread: any.
class Health {
 public:
  Health(const EnginePort& engine, const Clock& clock, HealthOptions options = {});

  // A real engine step has run, the engine is healthy, not draining and not wedged.
  Readiness Ready() const;
  // True unless the engine has work and has stood still for `dead_after`, or has failed for good.
  bool Alive() const;

  // The doors are open (the model is loaded and the engine has been started).
  void SetServing();
  // No new requests; for good.
  void SetDraining();
  bool draining() const;

 private:
  bool StandsStill(MonoNanos limit) const;

  const EnginePort& engine_;
  const Clock& clock_;
  const HealthOptions options_;
  std::atomic<bool> serving_{false};
  std::atomic<bool> draining_{false};
  // Since when work was seen at every look; 0: none at the last look. An idle node's last step is
  // old, and the first look after new work came must not take that for standing still.
  mutable std::atomic<MonoNanos> busy_since_{0};
};

}  // namespace millrace::server
