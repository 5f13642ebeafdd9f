#pragma once
// Parameters that we know, that would change the answer, and that are not implemented: refused by
// name on both doors, never ignored. This table is the list; docs and tests read it.

#include <span>
#include <string>
#include <string_view>

#include "base/json.h"
#include "server/api_error.h"

namespace millrace::server {

struct UnsupportedParameter {
  std::string_view name;
  bool http = true;
  bool grpc = true;
  // True when this value asks for nothing ([] for tools, "text" for a response format): then the
  // field is taken as absent. null always is.
  bool (*harmless)(const Json& value) = nullptr;
  std::string_view why;
};

std::span<const UnsupportedParameter> UnsupportedParameters();
const UnsupportedParameter* FindUnsupported(std::string_view name);

// kUnsupportedParameter with `param` = name.
ApiError UnsupportedError(std::string_view name, std::string_view why = "");

}  // namespace millrace::server
