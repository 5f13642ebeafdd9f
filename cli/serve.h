#pragma once
// `millrace serve`: a node, its doors, and its end.

#include "cli/node.h"
#include "cli/options.h"

namespace millrace::cli {

// Serves until SIGTERM or SIGINT, drains, and returns the process's exit code: 0 after a drain, 1
// when it could not start, 70 when the engine failed. A second signal ends the drain at once.
// `factory` may be empty: the model's own executor.
int RunServe(const ServeOptions& options, const ExecutorFactory& factory = {});

}  // namespace millrace::cli
