#pragma once
// What `millrace bench` found, and its two forms: a table for people, one line of JSON for tools.

#include <string>
#include <vector>

#include "base/cpu_facts.h"
#include "base/json.h"
#include "cli/bench_work.h"

namespace millrace::cli {

// The better of the probes before and after the run: others can only slow a probe down. Zero where
// nothing was probed.
struct MachineLimits {
  double read_bytes_per_second = 0;
  double ops_per_second = 0;
  std::string instruction;  // that the second was measured with
};

struct BenchReport {
  std::string model;   // path
  std::string format;  // "GGUF Q4_1, Q8_0 embedding"
  double load_seconds = 0;
  double weight_bytes = 0;  // packed, that a step reads
  CpuModel cpu;
  int threads = 0;
  std::string tier;      // of the kernels that ran
  std::string numerics;  // as --numerics
  std::string kv_type;
  MachineLimits limits;
  std::vector<PrefillFigure> prefills;
  std::vector<DecodeFigure> decodes;
  double steal_share = 0;  // of all CPU time in the run, probes and loading included
  double busy_share = 0;   // not idle and not stolen: above threads / CPUs somebody else ran too
};

std::string ReportTable(const BenchReport& report);
Json ReportJson(const BenchReport& report);

}  // namespace millrace::cli
