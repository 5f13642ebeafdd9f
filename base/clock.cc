#include "base/clock.h"

#include <ctime>

namespace millrace {
namespace {

int64_t ReadClock(clockid_t id) {
  timespec now;
  // Cannot fail: both clocks always exist and `now` is writable.
  clock_gettime(id, &now);
  return int64_t{now.tv_sec} * kNanosPerSecond + now.tv_nsec;
}

}  // namespace

MonoNanos RealClock::Now() const {
  return ReadClock(CLOCK_MONOTONIC);
}
UnixNanos RealClock::UnixNow() const {
  return ReadClock(CLOCK_REALTIME);
}

}  // namespace millrace
