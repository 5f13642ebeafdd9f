#pragma once
// What every Prometheus client library says of its process, under the standard names, and the log
// lines that the process lost.

#include <mutex>

#include "base/metrics.h"

namespace millrace::server {

// Thread: any.
class ProcessMetrics {
 public:
  // The series live in `registry`.
  explicit ProcessMetrics(MetricsRegistry& registry);
  // Brings them up to date; called by a scrape. Costs a few reads of /proc.
  void Refresh();

 private:
  std::mutex mutex_;     // one Refresh at a time: counters are raised by what is missing
  Counter cpu_seconds_;  // user and system
  Gauge resident_bytes_, virtual_bytes_, open_fds_, max_fds_;
  Counter log_lines_dropped_;
};

}  // namespace millrace::server
