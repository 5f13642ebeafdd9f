#pragma once
// `millrace chat`: a conversation with a running node over gRPC, on the terminal.

#include "cli/options.h"

namespace millrace::cli {

// The process's exit code.
int RunChat(const ChatOptions& options);

}  // namespace millrace::cli
