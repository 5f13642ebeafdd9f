#include "server/connection_budget.h"

#include <algorithm>

namespace millrace::server {

BudgetVerdict ConnectionBudget::Spend(const ConnectionBudgetLimits& limits,
                                      const ConnectionSample& sample) {
  const double seconds = static_cast<double>(sample.at - last_.at) / kNanosPerSecond;
  const int64_t began = sample.streams_started - last_.streams_started;
  const int64_t succeeded = sample.streams_succeeded - last_.streams_succeeded;
  // Never below nothing: good work of yesterday buys no flood today.
  streams_ = std::max(
      0.0, streams_ + static_cast<double>(began - succeeded) - limits.streams_leak * seconds);
  const bool useful = succeeded > 0 || sample.messages_received > last_.messages_received;
  const auto bytes = static_cast<double>(sample.bytes_received - last_.bytes_received);
  bytes_ = useful ? 0 : std::max(0.0, bytes_ + bytes - limits.bytes_leak * seconds);
  if (useful || sample.bytes_unread < limits.unread_max || bytes_ < limits.stalled_bytes) {
    stalled_ = 0;
  } else {
    stalled_ += std::min(sample.at - last_.at, limits.stalled_step_max);
  }
  last_ = sample;
  if (streams_ > limits.streams_max) return BudgetVerdict::kTooManyStreams;
  if (stalled_ > limits.stalled_max) return BudgetVerdict::kStalled;
  return bytes_ > limits.bytes_max ? BudgetVerdict::kTooManyBytes : BudgetVerdict::kFine;
}

}  // namespace millrace::server
