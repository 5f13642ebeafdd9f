#pragma once
// How much CPU the cgroup pays for. UsableCpuCount in thread_pool.h is what callers want; this part
// takes its files as arguments so that a test can lay them out.

#include <string>
#include <string_view>

namespace millrace {

// The smallest CPU quota, in CPUs, on the way from our cgroup up to the root; 0 when none is set.
// `proc_self_cgroup` is the text of /proc/self/cgroup, `root` where cgroups are mounted
// (/sys/fs/cgroup). Reads version 2 (cpu.max) and version 1 (cpu.cfs_quota_us).
double CgroupCpuQuota(const std::string& root, std::string_view proc_self_cgroup);

}  // namespace millrace
