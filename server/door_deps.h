#pragma once
// What each door is wired to.

#include "base/clock.h"
#include "base/metrics.h"

namespace millrace::server {

class ApiKeys;
class Frontend;
class Health;

// All outlive the doors.
struct DoorDeps {
  Frontend* frontend = nullptr;
  const ApiKeys* keys = nullptr;
  const Health* health = nullptr;
  MetricsRegistry* metrics = nullptr;
  const Clock* clock = nullptr;
};

}  // namespace millrace::server
