#pragma once
// What this machine can do at best: how fast it reads memory and how many int8 products it makes.
// `millrace bench` and bench/machine_limits state figures as shares of these.
//
// Probes, not kernels: they depend on what the CPU has, not on the tier that was chosen, so that a
// tier that leaves something on the table shows.

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/thread_pool.h"

namespace millrace::kernels {

// How a probe is run: windows until `seconds` have passed, three at least; the median counts.
struct ProbeTime {
  double seconds = 0.5;
};

// Bytes a second that the pool's workers read together, each its own part of `buffer`, which no
// cache should hold: 1 GiB is enough anywhere today.
// REQUIRES: aligned to 64 bytes, at least 4 KiB a worker.
double ReadBandwidth(ThreadPool& pool, std::span<const std::byte> buffer, ProbeTime time = {});

struct IntegerPeak {
  double ops_per_second = 0;      // a multiply and an add are two
  const char* instruction = "?";  // what it was measured with
};
// int8 products summed in int32, operands in registers; of the matrix unit where it may be used.
IntegerPeak MeasureIntegerPeak(ThreadPool& pool, ProbeTime time = {});
// With this instruction; zero where the machine has it not. For tests and for tables of tiers.
enum class DotInstruction : uint8_t { kAvx2Maddubs, kAvxVnni, kAvx512Vnni, kAmx };
IntegerPeak MeasureIntegerPeak(ThreadPool& pool, DotInstruction instruction, ProbeTime time = {});

}  // namespace millrace::kernels
