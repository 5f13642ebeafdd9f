#pragma once
// `millrace bench`: prefill and decode of one model on this machine, as tokens a second and as
// shares of what the machine can do.

#include "absl/status/statusor.h"
#include "cli/bench_report.h"
#include "cli/options.h"

namespace millrace::cli {

// Loads the model and measures. InvalidArgument names the option that cannot be; ResourceExhausted
// says what is needed and what there is.
absl::StatusOr<BenchReport> MeasureModel(const BenchOptions& options);

// Prints the report. Returns the process's exit code: 0, or 1 with one line on stderr.
int RunBench(const BenchOptions& options, bool json);

}  // namespace millrace::cli
