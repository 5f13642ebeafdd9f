#pragma once
// RETURN_IF_ERROR and ASSIGN_OR_RETURN for absl::Status and absl::StatusOr. Debian 12's Abseil
// (20220623) predates absl/status/status_macros.h; delete this file when ours has it.

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define MILLRACE_CONCAT_INNER(a, b) a##b
#define MILLRACE_CONCAT(a, b) MILLRACE_CONCAT_INNER(a, b)

#define RETURN_IF_ERROR(expression)                                         \
  do {                                                                      \
    if (absl::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

#define ASSIGN_OR_RETURN(lhs, expression) \
  ASSIGN_OR_RETURN_INNER(MILLRACE_CONCAT(status_or_, __LINE__), lhs, expression)
#define ASSIGN_OR_RETURN_INNER(name, lhs, expression) \
  auto name = (expression);                           \
  if (!name.ok()) return name.status();               \
  lhs = std::move(name).value()
