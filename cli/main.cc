// The millrace binary. Everything is built here or in what this calls: the one composition root.

#include <unistd.h>

#include <csignal>
#include <iostream>

#include "absl/synchronization/mutex.h"
#include "cli/bench.h"
#include "cli/chat.h"
#include "cli/inspect.h"
#include "cli/options.h"
#include "cli/serve.h"

#ifndef MILLRACE_VERSION
#define MILLRACE_VERSION "unknown"
#endif

namespace {

// A mapped file (model or packed cache) that is cut short while it is read leaves pages without
// bytes: the kernel sends SIGBUS, and there is no way on. Only what is safe in a signal handler.
extern "C" void OnBusError(int) {
  constexpr char kText[] =
      "millrace: bus error: the model file, or its packed cache, was cut short while it was read\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kText, sizeof(kText) - 1);
  _exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace millrace::cli;
  // Debian's Abseil is built with deadlock detection: it aborts on an order of locks that gRPC
  // takes on purpose, and makes an uncontended lock cost 41 ns instead of 12.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  // Writing to a connection that is gone is an error code, not a signal.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGBUS, OnBusError);

  const CommandLine line = ParseCommandLine(argc, argv);
  switch (line.command) {
    case Command::kNone:
      return line.exit_code;
    case Command::kServe:
      return RunServe(line.serve);
    case Command::kPlan:
      return RunPlan(line.serve.model, line.json);
    case Command::kInspect:
      return RunInspect(line.serve.model.model, line.json);
    case Command::kChat:
      return RunChat(line.chat);
    case Command::kBench:
      return RunBench(line.bench, line.json);
    case Command::kVersion:
      std::cout << "millrace " << MILLRACE_VERSION << "\n";
      return 0;
  }
  return 2;
}
