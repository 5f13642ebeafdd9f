#pragma once
// What one connection may cost before it has been of use. HTTP/2 lets a peer ask for much with few
// bytes: streams that are reset at once (CVE-2023-44487), header blocks that never end
// (CVE-2023-33953), floods of empty frames. All of them look alike from outside: bytes and streams
// come in, and nothing is ever finished. Numbers in, a verdict out: no sockets here.
//
// Two leaking buckets. Streams: one in for each begun, one out for each that ended well. Bytes: in
// as they come, emptied whenever a whole message has arrived or a stream has ended well. And a
// clock: for how long has the library not kept up with what this peer sends?

#include <cstdint>

#include "base/clock.h"

namespace millrace::server {

struct ConnectionBudgetLimits {
  // Running streams count too, so this is above grpc.max_concurrent_streams.
  double streams_max = 3072;
  double streams_leak = 100;  // a second: what patient clients may cancel for ever
  // Above two of the largest messages on their way at once, and of what gRPC 1.51 keeps of an
  // endless header block, which it copies whole at each of its frames.
  double bytes_max = 17 << 20;
  double bytes_leak = 64 << 10;  // a second: window updates, pings, slow uploads
  // So much unread in the kernel for so long, with so many bytes before it that led to nothing:
  // each frame costs the library more than the one before.
  uint64_t unread_max = 32 << 10;
  double stalled_bytes = 2 << 20;
  MonoNanos stalled_max = 2 * kNanosPerSecond;
  // Two looks further apart than this prove nothing: then it was we who stood still.
  MonoNanos stalled_step_max = 100 * kNanosPerMilli;
};

// What a connection has done since it began.
struct ConnectionSample {
  MonoNanos at = 0;
  uint64_t bytes_received = 0;
  uint64_t bytes_unread = 0;  // of them, still in the kernel
  int64_t streams_started = 0;
  int64_t streams_succeeded = 0;
  int64_t messages_received = 0;
};

enum class BudgetVerdict { kFine, kTooManyStreams, kTooManyBytes, kStalled };

// Thread: the owner's.
class ConnectionBudget {
 public:
  explicit ConnectionBudget(MonoNanos now) { last_.at = now; }

  BudgetVerdict Spend(const ConnectionBudgetLimits& limits, const ConnectionSample& sample);
  uint64_t bytes_received() const { return last_.bytes_received; }

 private:
  ConnectionSample last_;
  double streams_ = 0;
  double bytes_ = 0;
  MonoNanos stalled_ = 0;  // for how long the library has not kept up
};

}  // namespace millrace::server
