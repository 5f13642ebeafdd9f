#pragma once
// Builds the Ast of a template. Names of filters and tests are resolved here, so that an unknown
// one is found when a model is loaded and not when a user asks.

#include <string_view>

#include "absl/status/statusor.h"
#include "text/jinja_ast.h"

namespace millrace::text {

// Nesting of expressions and blocks is at most `depth_max`; a tree's height at most 4 * depth_max
// (chains such as a.b.c|f|g are flat to write but nested to evaluate).
absl::StatusOr<Ast> ParseJinja(std::string_view source, int depth_max);

}  // namespace millrace::text
