#include "kernels/limits.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "base/cpu_facts.h"
#include "kernels/stream.h"

namespace millrace::kernels {
namespace {

constexpr ProbeTime kShort{0};  // three windows

// No figure is checked against a time: a machine under load may give any. What must hold is that
// each probe that the CPU has runs and says so, and that the others say nothing.
TEST(Limits, EveryInstructionOfThisMachineIsProbed) {
  ThreadPool pool({.workers = 1});
  const CpuModel cpu = ReadCpuModel();
  const std::pair<DotInstruction, const char*> rows[] = {
      {DotInstruction::kAvx2Maddubs, "avx2"},
      {DotInstruction::kAvxVnni, "avx_vnni"},
      {DotInstruction::kAvx512Vnni, "avx512_vnni"}};
  for (const auto& row : rows) {
    const IntegerPeak peak = MeasureIntegerPeak(pool, row.first, kShort);
    EXPECT_EQ(peak.ops_per_second > 1e6, cpu.Has(row.second)) << row.second;
    EXPECT_EQ(std::string(peak.instruction) != "?", cpu.Has(row.second)) << row.second;
  }
  const IntegerPeak tiles = MeasureIntegerPeak(pool, DotInstruction::kAmx, kShort);
  EXPECT_EQ(tiles.ops_per_second > 1e6, RunsIsaTier(IsaTier::kAmx));
}

TEST(Limits, TheBestInstructionIsAtLeastTheTiers) {
  ThreadPool pool({.workers = 2});
  const IntegerPeak peak = MeasureIntegerPeak(pool, kShort);
  EXPECT_GT(peak.ops_per_second, 1e6);
  if (RunsIsaTier(IsaTier::kAmx)) {
    EXPECT_EQ(std::string(peak.instruction), "amx-int8 tdpbssd");
  } else if (DetectIsaTier() == IsaTier::kAvx512Vnni) {
    EXPECT_EQ(std::string(peak.instruction), "avx512-vnni vpdpbusd");
  }
}

TEST(Limits, BandwidthReadsTheWholeBuffer) {
  constexpr size_t kBytes = 1 << 20;
  const std::unique_ptr<void, void (*)(void*)> memory(std::aligned_alloc(64, kBytes), &std::free);
  const std::span<std::byte> buffer(static_cast<std::byte*>(memory.get()), kBytes);
  std::fill(buffer.begin(), buffer.end(), std::byte{1});
  for (const int workers : {1, 2}) {
    ThreadPool pool({.workers = workers});
    EXPECT_GT(ReadBandwidth(pool, buffer, kShort), 1e6);
  }
}

}  // namespace
}  // namespace millrace::kernels
