#include "base/cpu_set.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace millrace {
namespace {

class CgroupTree : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "cgroupXXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  std::string root_;
};

TEST_F(CgroupTree, VersionTwoTakesTheSmallestOnTheWay) {
  EXPECT_EQ(CgroupCpuQuota(root_, "0::/a/b\n"), 0);
  Write("/a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(CgroupCpuQuota(root_, "0::/a/b\n"), 0);
  Write("/a/cpu.max", "150000 100000\n");
  EXPECT_EQ(CgroupCpuQuota(root_, "0::/a/b\n"), 1.5);
  Write("/a/b/cpu.max", "400000 100000\n");
  EXPECT_EQ(CgroupCpuQuota(root_, "0::/a/b\n"), 1.5);
  Write("/cpu.max", "100000 200000\n");
  EXPECT_EQ(CgroupCpuQuota(root_, "0::/a/b\n"), 0.5);
  EXPECT_EQ(CgroupCpuQuota(root_, "0::/not/mounted/here\n"), 0.5);
}

TEST_F(CgroupTree, VersionOneReadsTheCpuController) {
  const char* text = "12:cpuset:/x\n4:cpu,cpuacct:/x\n0::/\n";
  Write("/cpu/x/cpu.cfs_quota_us", "-1\n");
  Write("/cpu/x/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(CgroupCpuQuota(root_, text), 0);
  Write("/cpu/x/cpu.cfs_quota_us", "250000\n");
  EXPECT_EQ(CgroupCpuQuota(root_, text), 2.5);
}

TEST_F(CgroupTree, NonsenseIsNoQuota) {
  Write("/cpu.max", "1000");
  for (const char* text : {"", "\n\n", "x", "0:", "0::", "0::/\n"}) {
    EXPECT_EQ(CgroupCpuQuota(root_, text), 0) << text;
  }
  Write("/cpu.max", "100000 0\n");
  EXPECT_EQ(CgroupCpuQuota(root_, "0::/\n"), 0);
}

}  // namespace
}  // namespace millrace
