#pragma once
// Time enters as an argument. Two kinds: monotonic nanoseconds for decisions, Unix nanoseconds for
// what people and other machines read.

#include <cstdint>

namespace millrace {

// Monotonic nanoseconds since an arbitrary origin. Signed, so that differences are safe.
using MonoNanos = int64_t;
// Nanoseconds since the Unix epoch.
using UnixNanos = int64_t;

inline constexpr MonoNanos kNanosPerMicro = 1000;
inline constexpr MonoNanos kNanosPerMilli = 1000 * 1000;
inline constexpr MonoNanos kNanosPerSecond = 1000 * 1000 * 1000;
// "No deadline". Comparisons with it need no special case.
inline constexpr MonoNanos kNever = INT64_MAX;

// Thread: any.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual MonoNanos Now() const = 0;
  virtual UnixNanos UnixNow() const = 0;
};

// CLOCK_MONOTONIC and CLOCK_REALTIME.
class RealClock final : public Clock {
 public:
  MonoNanos Now() const override;
  UnixNanos UnixNow() const override;
};

// A clock that moves only when told to. Thread: one writer; not for use across threads.
class FakeClock final : public Clock {
 public:
  MonoNanos Now() const override { return now_; }
  UnixNanos UnixNow() const override { return 1'700'000'000 * kNanosPerSecond + now_; }
  void Advance(MonoNanos nanos) { now_ += nanos; }

 private:
  MonoNanos now_ = 0;
};

}  // namespace millrace
