#pragma once
// `millrace plan` and `millrace inspect`: what a model file is and what it would need, without
// loading it.

#include <string>

#include "cli/options.h"

namespace millrace::cli {

// Each returns the process's exit code: 0, or 1 with one line on stderr. `plan` also returns 1 when
// the model does not fit, after the table that says why and what would.
int RunPlan(const ModelOptions& options, bool json);
int RunInspect(const std::string& path, bool json);

}  // namespace millrace::cli
