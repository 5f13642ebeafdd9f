#pragma once
// The part of Validate that judges chat messages.

#include <optional>

#include "server/api_error.h"
#include "server/generation.h"
#include "server/limits.h"

namespace millrace::server {

// Checks `fields.messages` and `fields.chat_template_kwargs`, and rewrites the messages to what
// templates expect: objects of `role`, `content` (a string) and, when given, `name` and
// `reasoning_content`; content parts joined; `developer` as `system`.
std::optional<ApiError> ValidateMessages(const Limits& limits, PromptFields& fields);

}  // namespace millrace::server
