#pragma once
// How much memory this process may have: the tightest cgroup limit above us, else the machine's.

#include <cstddef>
#include <string>

namespace millrace::model {

struct MachineMemory {
  size_t total = 0;      // the limit, or all of the machine
  size_t available = 0;  // of that, what is not in use now; file cache counts as free
  std::string source;    // "cgroup limit" or "machine", for the table
};

// Reads /proc and /sys/fs/cgroup below `root` (tests put a directory there). All zero when nothing
// can be read.
MachineMemory ReadMachineMemory(const std::string& root = "");

}  // namespace millrace::model
