#include "model/machine_memory.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace millrace::model {
namespace {

// The number alone in a file; nothing when absent or "max".
std::optional<uint64_t> ReadNumber(const std::string& path) {
  std::ifstream in(path);
  std::string word;
  uint64_t value = 0;
  if (!(in >> word) || !absl::SimpleAtoi(word, &value)) return std::nullopt;
  return value;
}

// The number after `key` in a file of "key number" lines ("key: number kB" in meminfo).
uint64_t ReadField(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string name;
    std::string number;
    std::string unit;
    words >> name >> number >> unit;
    uint64_t value = 0;
    if (name != key || !absl::SimpleAtoi(number, &value)) continue;
    return unit == "kB" ? value * 1024 : value;
  }
  return 0;
}

struct Cgroup {
  std::string mount;  // where the hierarchy lies, below the root
  std::string path;   // of ours in it
  bool v2 = false;
};

// The hierarchy that carries the memory controller. /proc/self/cgroup: "0::/path" for v2,
// "N:list,of,controllers:/path" for v1 (cgroups(7)).
std::optional<Cgroup> FindCgroup(const std::string& root) {
  std::ifstream in(root + "/proc/self/cgroup");
  std::optional<Cgroup> found;
  for (std::string line; std::getline(in, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    // v1 wins where both exist (hybrid): the memory controller is in one of them only.
    if (controllers.find(",memory,") != std::string::npos) {
      return Cgroup{root + "/sys/fs/cgroup/memory", path, false};
    }
    if (controllers == ",,") found = Cgroup{root + "/sys/fs/cgroup", path, true};
  }
  return found;
}

}  // namespace

MachineMemory ReadMachineMemory(const std::string& root) {
  MachineMemory out;
  const std::string meminfo = root + "/proc/meminfo";
  out.total = ReadField(meminfo, "MemTotal:");
  out.available = std::min<uint64_t>(ReadField(meminfo, "MemAvailable:"), out.total);
  out.source = "machine";
  const std::optional<Cgroup> cgroup = FindCgroup(root);
  if (!cgroup.has_value()) return out;
  // From ours up to the root of what we see: each level may be tighter. Inside a container the path
  // may name what only the host sees; then only the mount's root exists.
  std::string path = cgroup->path == "/" ? "" : cgroup->path;
  for (;;) {
    const std::string folder = cgroup->mount + path;
    const auto limit = ReadNumber(folder + (cgroup->v2 ? "/memory.max" : "/memory.limit_in_bytes"));
    if (limit.has_value() && *limit < out.total) {
      const std::string stat = folder + "/memory.stat";
      const std::string prefix = cgroup->v2 ? "" : "total_";
      const uint64_t used =
          ReadNumber(folder + (cgroup->v2 ? "/memory.current" : "/memory.usage_in_bytes"))
              .value_or(0);
      const uint64_t cache =
          ReadField(stat, prefix + "inactive_file") + ReadField(stat, prefix + "active_file");
      const uint64_t held = used > cache ? used - cache : 0;
      const uint64_t left = *limit > held ? *limit - held : 0;
      out.total = *limit;
      out.available = std::min<uint64_t>(out.available, left);
      out.source = "cgroup limit";
    }
    const size_t slash = path.rfind('/');
    if (path.empty() || slash == std::string::npos) break;
    path.resize(slash);
  }
  return out;
}

}  // namespace millrace::model
