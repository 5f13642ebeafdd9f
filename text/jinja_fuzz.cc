// Any template parses or is refused, and renders within its limits.
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/utf8.h"
#include "text/chat_template.h"

namespace text = millrace::text;

// Input: the template; after a NUL, content for the message, if there is one.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 1 << 14) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t nul = input.find('\0');
  const std::string_view source = input.substr(0, nul);
  std::string content = "Hello <|im_end|> w\u00f6rld ";
  if (nul != std::string_view::npos) {
    content = millrace::ReplaceInvalidUtf8(input.substr(nul + 1));
  }
  text::TemplateLimits limits;
  limits.steps_max = 20'000;
  limits.output_bytes_max = 1 << 16;
  limits.value_bytes_max = 1 << 20;
  const auto parsed = text::ChatTemplate::Parse(source, limits);
  if (!parsed.ok()) {
    CHECK(parsed.status().code() == absl::StatusCode::kInvalidArgument);
    return 0;
  }
  text::TemplateInput values;
  values.messages = millrace::JsonArray{
      millrace::JsonObject{{"role", "system"}, {"content", "s"}},
      millrace::JsonObject{{"role", "user"}, {"content", content}, {"n", 3}, {"x", 1.5}},
      millrace::JsonObject{{"role", "assistant"}, {"content", nullptr}}};
  values.extra = millrace::JsonObject{{"s", content}, {"l", millrace::JsonArray{3, 1, 2, "b"}}};
  values.bos_token = "<s>";
  const auto rendered = parsed->Render(values);
  if (!rendered.ok()) {
    CHECK(rendered.status().code() == absl::StatusCode::kInvalidArgument);
    return 0;
  }
  CHECK(rendered->text.size() <= limits.output_bytes_max);
  size_t at = 0;
  for (const text::TextRange& range : rendered->plain_ranges) {
    CHECK(range.begin >= at && range.begin < range.end && range.end <= rendered->text.size());
    at = range.end;
  }
  return 0;
}
