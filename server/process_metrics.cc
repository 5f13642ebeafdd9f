#include "server/process_metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <ctime>
#include <fstream>
#include <sstream>
#include <string>

#include "base/log.h"

namespace millrace::server {
namespace {

// Fields of /proc/self/stat from the third on (proc(5)); the second may hold spaces.
struct ProcessStat {
  double cpu_ticks = 0;    // fields 14 and 15
  double start_ticks = 0;  // field 22: since the machine started
  double virtual_bytes = 0;
  double resident_pages = 0;
};

ProcessStat ReadStat() {
  std::ifstream file("/proc/self/stat");
  const std::string line((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  ProcessStat stat;
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return stat;
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  for (int number = 3; number <= 24 && fields >> field; ++number) {
    const double value = std::strtod(field.c_str(), nullptr);
    if (number == 14 || number == 15) stat.cpu_ticks += value;
    if (number == 22) stat.start_ticks = value;
    if (number == 23) stat.virtual_bytes = value;
    if (number == 24) stat.resident_pages = value;
  }
  return stat;
}

// Unix seconds at which the machine started.
double BootSeconds() {
  std::ifstream file("/proc/stat");
  std::string word;
  double seconds = 0;
  while (file >> word) {
    if (word == "btime" && file >> seconds) return seconds;
  }
  return 0;
}

double OpenDescriptors() {
  DIR* directory = opendir("/proc/self/fd");
  if (directory == nullptr) return 0;
  double count = -3;  // ".", ".." and the one that reads
  while (readdir(directory) != nullptr) ++count;
  closedir(directory);
  return count;
}

double TicksPerSecond() {
  return static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace

ProcessMetrics::ProcessMetrics(MetricsRegistry& registry)
    : cpu_seconds_(registry.AddCounter("process_cpu_seconds_total",
                                       "User and system CPU time of the process, in seconds.")),
      resident_bytes_(
          registry.AddGauge("process_resident_memory_bytes", "Resident memory, in bytes.")),
      virtual_bytes_(
          registry.AddGauge("process_virtual_memory_bytes", "Virtual memory, in bytes.")),
      open_fds_(registry.AddGauge("process_open_fds", "Open file descriptors.")),
      max_fds_(registry.AddGauge("process_max_fds", "The most file descriptors allowed.")),
      log_lines_dropped_(registry.AddCounter("millrace_log_lines_dropped_total",
                                             "Log lines lost because the buffer was full.")) {
  registry.AddGauge("process_start_time_seconds", "When the process started, in Unix seconds.")
      .Set(BootSeconds() + ReadStat().start_ticks / TicksPerSecond());
}

void ProcessMetrics::Refresh() {
  const ProcessStat stat = ReadStat();
  resident_bytes_.Set(stat.resident_pages * static_cast<double>(sysconf(_SC_PAGESIZE)));
  virtual_bytes_.Set(stat.virtual_bytes);
  open_fds_.Set(OpenDescriptors());
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) max_fds_.Set(static_cast<double>(limit.rlim_cur));
  std::lock_guard lock(mutex_);
  const double more = stat.cpu_ticks / TicksPerSecond() - cpu_seconds_.Value();
  if (more > 0) cpu_seconds_.Add(more);
  const double dropped = static_cast<double>(LogLinesDropped()) - log_lines_dropped_.Value();
  if (dropped > 0) log_lines_dropped_.Add(dropped);
}

}  // namespace millrace::server
