#include "base/cpu_set.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>

namespace millrace {
namespace {

// The number at the front of `text`; 0 for anything else ("max", "-1", nothing).
double PositiveNumber(std::string_view text) {
  double value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return std::max(value, 0.0);
}

std::string ReadSmallFile(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// "max 100000" or "200000 100000": microseconds of CPU in each period.
double QuotaV2(const std::string& directory) {
  const std::string text = ReadSmallFile(directory + "/cpu.max");
  const size_t space = text.find(' ');
  if (space == std::string::npos) return 0;
  const double quota = PositiveNumber(text);
  const double period = PositiveNumber(std::string_view(text).substr(space + 1));
  return period > 0 ? quota / period : 0;
}

double QuotaV1(const std::string& directory) {
  const double quota = PositiveNumber(ReadSmallFile(directory + "/cpu.cfs_quota_us"));
  const double period = PositiveNumber(ReadSmallFile(directory + "/cpu.cfs_period_us"));
  return period > 0 ? quota / period : 0;
}

// A parent's quota binds its children. In a container `path` may name a directory of the host that
// is not mounted here; then only the root has files, and they are ours.
double SmallestOnTheWay(const std::string& mount, std::string path,
                        double (*quota_of)(const std::string&)) {
  double smallest = 0;
  while (true) {
    const double quota = quota_of(mount + path);
    if (quota > 0 && (smallest == 0 || quota < smallest)) smallest = quota;
    if (path.empty()) return smallest;
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

bool HasController(std::string_view list, std::string_view name) {
  while (!list.empty()) {
    const size_t comma = std::min(list.find(','), list.size());
    if (list.substr(0, comma) == name) return true;
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return false;
}

}  // namespace

// Lines are "hierarchy:controllers:path"; version 2 has hierarchy 0 and no controllers
// (man 7 cgroups).
double CgroupCpuQuota(const std::string& root, std::string_view proc_self_cgroup) {
  double smallest = 0;
  while (!proc_self_cgroup.empty()) {
    const size_t end = std::min(proc_self_cgroup.find('\n'), proc_self_cgroup.size());
    const std::string_view line = proc_self_cgroup.substr(0, end);
    proc_self_cgroup.remove_prefix(std::min(end + 1, proc_self_cgroup.size()));
    const size_t first = line.find(':');
    if (first == std::string_view::npos) continue;
    const size_t second = line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    const std::string path(line.substr(second + 1));
    double quota = 0;
    if (controllers.empty()) {
      quota = SmallestOnTheWay(root, path, QuotaV2);
    } else if (HasController(controllers, "cpu")) {
      quota = SmallestOnTheWay(root + "/cpu", path, QuotaV1);
    }
    if (quota > 0 && (smallest == 0 || quota < smallest)) smallest = quota;
  }
  return smallest;
}

}  // namespace millrace
