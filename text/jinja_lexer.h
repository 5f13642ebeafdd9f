#pragma once
// Cuts a template into tokens, with Jinja's white space rules as chat templates assume them:
// trim_blocks and lstrip_blocks on, one final newline dropped.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace millrace::text {

enum class TokenType : uint8_t {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct JinjaToken {
  TokenType type = TokenType::kEnd;
  int line = 1;
  std::string text;  // data, name, decoded string, operator
  int64_t integer = 0;
  double real = 0;
};

// InvalidArgument with the line. The last token is kEnd.
absl::StatusOr<std::vector<JinjaToken>> LexJinja(std::string_view source);

// The error of every stage of a template: "chat template line 7: what".
absl::Status JinjaError(int line, std::string_view what);

}  // namespace millrace::text
