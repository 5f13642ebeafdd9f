#include "base/cpu_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace millrace {
namespace {

using ::testing::ElementsAre;

TEST(CpuFacts, ReadsTheFirstCpuOnly) {
  const CpuModel cpu = ParseCpuModel(
      "processor\t: 0\nvendor_id\t: X\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD: EPYC\n"
      "flags\t\t: fpu avx2 fma f16c avx512_vnni avx_vnni\n\n"
      "processor\t: 1\ncpu family\t: 6\nmodel\t: 143\nmodel name\t: other\nflags\t: fpu\n");
  EXPECT_EQ(cpu.name, "AMD: EPYC");
  EXPECT_EQ(cpu.family, "26");
  EXPECT_EQ(cpu.model, "2");
  EXPECT_TRUE(cpu.Has("avx2"));
  EXPECT_FALSE(cpu.Has("avx"));
  EXPECT_THAT(cpu.KernelFlags(), ElementsAre("avx2", "fma", "f16c", "avx512_vnni", "avx_vnni"));
}

TEST(CpuFacts, NothingToReadIsEmpty) {
  const CpuModel cpu = ParseCpuModel("");
  EXPECT_EQ(cpu.name, "");
  EXPECT_TRUE(cpu.KernelFlags().empty());
  EXPECT_EQ(ParseCpuTicks("intr 1 2 3\n").all, 0);
  EXPECT_EQ(ParseCpuTicks("cpu  1 x 3\n").all, 0);
}

TEST(CpuFacts, StealIsTheEighthFieldAndGuestsAreNotCountedTwice) {
  const CpuTicks a = ParseCpuTicks("cpu  10 0 10 70 5 1 1 3 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n");
  EXPECT_EQ(a.all, 100);
  EXPECT_EQ(a.idle, 75);
  EXPECT_EQ(a.steal, 3);
  const CpuTicks b = ParseCpuTicks("cpu  60 0 10 100 5 1 1 23 9 9\n");
  EXPECT_DOUBLE_EQ(ShareOf(&CpuTicks::steal, a, b), 0.2);
  EXPECT_DOUBLE_EQ(ShareOf(&CpuTicks::idle, a, b), 0.3);
  EXPECT_DOUBLE_EQ(ShareOf(&CpuTicks::steal, a, a), 0);
}

TEST(CpuFacts, ThisMachineHasSome) {
  EXPECT_GT(ReadCpuTicks().all, 0);
  EXPECT_FALSE(ReadCpuModel().flags.empty());
}

}  // namespace
}  // namespace millrace
