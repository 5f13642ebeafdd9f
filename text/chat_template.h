#pragma once
// Renders a model's chat template: the subset of Jinja that published templates use, with limits on
// depth, steps and output, over plain JSON values only (no attribute of a host object exists).

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "text/tokenizer.h"

namespace millrace::text {

struct TemplateLimits {
  size_t steps_max = 1'000'000;
  size_t output_bytes_max = 4 << 20;
  // Of all strings, lists and scopes made during one render; parts of a string share its bytes.
  size_t value_bytes_max = 16 << 20;
  int depth_max = 64;  // of blocks, expressions and macro calls
  size_t source_bytes_max = 1 << 20;
};

struct TemplateInput {
  Json messages;  // array of objects as in the OpenAI API
  bool add_generation_prompt = true;
  std::string bos_token;  // text of the special tokens, "" when there are none
  std::string eos_token;
  Json extra = JsonObject{};  // further top-level variables (tools, documents, kwargs)
  int64_t unix_seconds = 0;   // for strftime_now: time is an argument
};

struct RenderedChat {
  std::string text;
  // Where bytes of `messages` and `extra` ended up in `text`: never read for special tokens.
  // Ascending, disjoint. Trimmed, sliced, joined or re-cased content keeps its mark.
  std::vector<TextRange> plain_ranges;
};

// Thread: immutable.
class ChatTemplate {
 public:
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;

  // InvalidArgument with the line and what is wrong.
  static absl::StatusOr<ChatTemplate> Parse(std::string_view source,
                                            const TemplateLimits& limits = {});

  // InvalidArgument: raise_exception (its text is given when it is a literal of the template), a
  // limit, or an operation on values that do not have it. Never echoes message content.
  absl::StatusOr<RenderedChat> Render(const TemplateInput& input) const;

 private:
  struct Program;
  explicit ChatTemplate(std::unique_ptr<Program> program);
  std::unique_ptr<Program> program_;
};

}  // namespace millrace::text
