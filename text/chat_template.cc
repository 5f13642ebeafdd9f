#include "text/chat_template.h"

#include <utility>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "text/jinja_eval.h"
#include "text/jinja_parser.h"

namespace millrace::text {

struct ChatTemplate::Program {
  Ast ast;
  TemplateLimits limits;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Program> program) : program_(std::move(program)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(std::string_view source,
                                                 const TemplateLimits& limits) {
  if (source.size() > limits.source_bytes_max) {
    return absl::InvalidArgumentError("chat template: " + std::to_string(source.size()) +
                                      " bytes, more than " +
                                      std::to_string(limits.source_bytes_max));
  }
  if (!IsValidUtf8(source)) return absl::InvalidArgumentError("chat template: not valid UTF-8");
  ASSIGN_OR_RETURN(Ast ast, ParseJinja(source, limits.depth_max));
  auto program = std::make_unique<Program>();
  program->ast = std::move(ast);
  program->limits = limits;
  return ChatTemplate(std::move(program));
}

absl::StatusOr<RenderedChat> ChatTemplate::Render(const TemplateInput& input) const {
  Runtime runtime(program_->limits, input.unix_seconds);
  Evaluator evaluator(program_->ast, runtime);
  // The reference always passes these two, as none when there are none.
  evaluator.SetGlobal("tools", Value::None());
  evaluator.SetGlobal("documents", Value::None());
  if (input.extra.is_object()) {
    for (const JsonMember& member : input.extra.object()) {
      evaluator.SetGlobal(member.first, FromJson(runtime, member.second));
    }
  }
  // Last, so that no extra variable takes their place.
  evaluator.SetGlobal("messages", FromJson(runtime, input.messages));
  evaluator.SetGlobal("add_generation_prompt", Value::Bool(input.add_generation_prompt));
  evaluator.SetGlobal("bos_token", Value::String(input.bos_token, Origin::kTemplate));
  evaluator.SetGlobal("eos_token", Value::String(input.eos_token, Origin::kTemplate));
  TextBuilder out(runtime, /*output=*/true);
  evaluator.Run(out);
  if (runtime.failed()) return runtime.error;
  RenderedChat rendered;
  rendered.text = std::move(out.bytes());
  rendered.plain_ranges = std::move(out.content());
  return rendered;
}

}  // namespace millrace::text
