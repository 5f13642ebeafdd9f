#pragma once
// What the machine says of its CPU and of the time that others took from it: the facts that a
// benchmark's figures mean nothing without.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace millrace {

// Of the first CPU in /proc/cpuinfo. Empty fields where it says nothing.
struct CpuModel {
  std::string name;                // "AMD EPYC"; on virtual machines often no more than that
  std::string family;              // "26": with `model`, what the part really is
  std::string model;               // "2"
  std::vector<std::string> flags;  // what the operating system lets us use

  bool Has(std::string_view flag) const;
  // Those of `flags` that integer or floating-point kernels can be made of, in their order.
  std::vector<std::string> KernelFlags() const;
};
CpuModel ParseCpuModel(std::string_view proc_cpuinfo);
CpuModel ReadCpuModel();

// Ticks of all CPUs since the machine started; differences of two readings are what counts.
struct CpuTicks {
  int64_t all = 0;    // idle included
  int64_t idle = 0;   // waiting for devices included
  int64_t steal = 0;  // we were ready and the host ran somebody else
};
// All zero when there is no such line.
CpuTicks ParseCpuTicks(std::string_view proc_stat);
CpuTicks ReadCpuTicks();
// Share of `part`'s growth in all CPU time between two readings, 0 .. 1; 0 when no time has passed.
double ShareOf(int64_t CpuTicks::*part, const CpuTicks& begin, const CpuTicks& end);

}  // namespace millrace
