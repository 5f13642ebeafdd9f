#include "server/openai_format.h"

#include <iterator>
#include <utility>

#include "base/json_writer.h"
#include "server/openai_logprobs.h"

namespace millrace::server {
namespace {

constexpr std::string_view kData = "data: ";
constexpr std::string_view kEventEnd = "\n\n";

void AppendUsage(const Usage& usage, std::string& out) {
  out += "{\"prompt_tokens\":";
  AppendJsonInt(usage.prompt_tokens, out);
  out += ",\"completion_tokens\":";
  AppendJsonInt(usage.completion_tokens, out);
  out += ",\"total_tokens\":";
  AppendJsonInt(usage.prompt_tokens + usage.completion_tokens, out);
  out += ",\"prompt_tokens_details\":{\"cached_tokens\":";
  AppendJsonInt(usage.cached_tokens, out);
  out += "},\"completion_tokens_details\":{\"reasoning_tokens\":0}}";
}

void AppendFinishReason(FinishReason finish, std::string& out) {
  out += finish == FinishReason::kStop     ? "\"stop\""
         : finish == FinishReason::kLength ? "\"length\""
                                           : "null";
}

// vLLM's addition: which stop string or token it was.
void AppendStopReason(const OutputDelta& delta, std::string& out) {
  if (!delta.stop_string.empty()) {
    out += ",\"stop_reason\":";
    AppendJsonString(delta.stop_string, out);
  } else if (delta.stop_token >= 0) {
    out += ",\"stop_reason\":";
    AppendJsonInt(delta.stop_token, out);
  }
}

void AppendHead(const char* object, const Accepted& accepted, std::string& out) {
  out += "{\"id\":";
  AppendJsonString(accepted.response_id, out);
  out += ",\"object\":\"";
  out += object;
  out += "\",\"created\":";
  AppendJsonInt(accepted.created, out);
  out += ",\"model\":";
  AppendJsonString(accepted.model, out);
  if (!accepted.fingerprint.empty()) {
    out += ",\"system_fingerprint\":";
    AppendJsonString(accepted.fingerprint, out);
  }
}

void AppendRemoved(int64_t removed, std::string& out) {
  if (removed == 0) return;
  out += ",\"truncated_prompt_tokens\":";
  AppendJsonInt(removed, out);
}

// One choice of a completion, without its closing brace: {"text","index","finish_reason",
// "logprobs", …}. `finish`: say the end here, and not in an event of its own.
void AppendCompletionChoice(const OutputFields& output, const OutputDelta& delta, bool finish,
                            std::string& out) {
  out += "{\"text\":";
  if (output.echo && delta.prompt != nullptr) {
    AppendJsonString(delta.prompt->text + delta.text, out);
  } else {
    AppendJsonString(delta.text, out);
  }
  out += ",\"index\":";
  AppendJsonInt(delta.index, out);
  out += ",\"finish_reason\":";
  AppendFinishReason(finish ? delta.finish : FinishReason::kNone, out);
  if (finish) AppendStopReason(delta, out);
  out += ",\"logprobs\":";
  const PromptReport* prompt = delta.prompt.get();
  const bool echoed = output.echo && prompt != nullptr;
  if (output.logprobs && (echoed || !delta.logprobs.empty())) {
    AppendCompletionLogprobs(echoed ? &prompt->logprobs : nullptr, delta.logprobs,
                             output.return_tokens_as_token_ids, out);
  } else {
    out += "null";
  }
}

void AppendCompletionExtras(const OutputFields& output, const OutputDelta& delta,
                            std::string& out) {
  if (output.return_token_ids) {
    if (delta.prompt != nullptr) {
      out += ",\"prompt_token_ids\":";
      AppendTokenIds(delta.prompt->tokens, out);
    }
    out += ",\"token_ids\":";
    AppendTokenIds(delta.tokens, out);
  }
  if (output.prompt_logprobs && delta.prompt != nullptr) {
    out += ",\"prompt_logprobs\":";
    AppendPromptLogprobs(delta.prompt->logprobs, out);
  }
}

void AppendChatExtras(const OutputFields& output, const PromptReport* prompt, std::string& out) {
  if (prompt == nullptr) return;
  if (output.return_token_ids) {
    out += ",\"prompt_token_ids\":";
    AppendTokenIds(prompt->tokens, out);
  }
  if (output.prompt_logprobs) {
    out += ",\"prompt_logprobs\":";
    AppendPromptLogprobs(prompt->logprobs, out);
  }
}

}  // namespace

std::string ErrorBody(const ApiError& error) {
  const ErrorShape& shape = error.shape();
  std::string out = "{\"error\":{\"message\":";
  AppendJsonString(error.message, out);
  out += ",\"type\":";
  AppendJsonString(shape.type, out);
  out += ",\"param\":";
  if (error.param.empty()) {
    out += "null";
  } else {
    AppendJsonString(error.param, out);
  }
  out += ",\"code\":";
  if (*shape.code == '\0') {
    out += "null";
  } else {
    AppendJsonString(shape.code, out);
  }
  out += "}}";
  return out;
}

void MergeDelta(OutputDelta& into, OutputDelta&& next) {
  into.text += next.text;
  into.tokens.insert(into.tokens.end(), next.tokens.begin(), next.tokens.end());
  std::move(next.logprobs.begin(), next.logprobs.end(), std::back_inserter(into.logprobs));
  into.finish = next.finish;
  into.stop_string = std::move(next.stop_string);
  into.stop_token = next.stop_token;
  into.usage = next.usage;
  if (into.prompt == nullptr) into.prompt = std::move(next.prompt);
}

size_t BytesOf(const OutputDelta& delta) {
  size_t bytes = 64 + delta.text.size() + delta.tokens.size() * sizeof(TokenId);
  for (const TokenLogprobText& token : delta.logprobs) {
    bytes += 128 + 96 * token.top.size();
  }
  return bytes;
}

SseWriter::SseWriter(RequestKind kind, const OutputFields& output, const Accepted& accepted)
    : kind_(kind), output_(output), prompt_tokens_removed_(accepted.prompt_tokens_removed) {
  prefix_ = kData;
  AppendHead(kind == RequestKind::kChat ? "chat.completion.chunk" : "text_completion", accepted,
             prefix_);
  prefix_ += ",\"choices\":[";
}

void SseWriter::End(const Usage& usage, std::string& out) const {
  if (output_.continuous_usage_stats) {
    out += ",\"usage\":";
    AppendUsage(usage, out);
  } else if (output_.include_usage) {
    out += ",\"usage\":null";
  }
  out += '}';
  out += kEventEnd;
}

void SseWriter::AppendDelta(const OutputDelta& delta, std::string& out) const {
  const bool chat = kind_ == RequestKind::kChat;
  const bool first = delta.prompt != nullptr;
  if (chat && first) AppendRole(delta, out);
  const bool echoes = !chat && first && output_.echo;
  // Tokens without text (hidden ones) matter to those who count tokens or their scores.
  const bool counted = output_.logprobs.has_value() || output_.return_token_ids;
  const bool tokens = counted && !delta.tokens.empty();
  if (!delta.text.empty() || tokens || echoes) AppendText(delta, out);
  if (delta.finish != FinishReason::kNone) AppendFinish(delta, out);
}

void SseWriter::AppendRole(const OutputDelta& delta, std::string& out) const {
  out += prefix_;
  out += "{\"index\":";
  AppendJsonInt(delta.index, out);
  out +=
      ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
      "\"finish_reason\":null}]";
  AppendChatExtras(output_, delta.prompt.get(), out);
  AppendRemoved(prompt_tokens_removed_, out);
  Usage usage = delta.usage;
  usage.completion_tokens = 0;  // this event has no token yet
  End(usage, out);
}

void SseWriter::AppendText(const OutputDelta& delta, std::string& out) const {
  out += prefix_;
  if (kind_ == RequestKind::kCompletion) {
    AppendCompletionChoice(output_, delta, false, out);
    AppendCompletionExtras(output_, delta, out);
    out += "}]";
    if (delta.prompt != nullptr) AppendRemoved(delta.prompt->tokens_removed, out);
    return End(delta.usage, out);
  }
  out += "{\"index\":";
  AppendJsonInt(delta.index, out);
  out += ",\"delta\":{\"content\":";
  AppendJsonString(delta.text, out);
  out += "},\"logprobs\":";
  if (output_.logprobs && !delta.logprobs.empty()) {
    AppendChatLogprobs(delta.logprobs, output_.return_tokens_as_token_ids, out);
  } else {
    out += "null";
  }
  out += ",\"finish_reason\":null";
  if (output_.return_token_ids) {
    out += ",\"token_ids\":";
    AppendTokenIds(delta.tokens, out);
  }
  out += "}]";
  End(delta.usage, out);
}

void SseWriter::AppendFinish(const OutputDelta& delta, std::string& out) const {
  out += prefix_;
  if (kind_ == RequestKind::kCompletion) {
    OutputDelta bare;
    bare.index = delta.index;
    bare.finish = delta.finish;
    bare.stop_string = delta.stop_string;
    bare.stop_token = delta.stop_token;
    AppendCompletionChoice(output_, bare, true, out);
    out += "}]";
    return End(delta.usage, out);
  }
  out += "{\"index\":";
  AppendJsonInt(delta.index, out);
  out += ",\"delta\":{},\"logprobs\":null,\"finish_reason\":";
  AppendFinishReason(delta.finish, out);
  AppendStopReason(delta, out);
  out += "}]";
  End(delta.usage, out);
}

void SseWriter::AppendEnd(const Usage& total, std::string& out) const {
  if (output_.include_usage) {
    out += prefix_;
    out += "],\"usage\":";
    AppendUsage(total, out);
    out += '}';
    out += kEventEnd;
  }
  out += "data: [DONE]\n\n";
}

void SseWriter::AppendError(const ApiError& error, std::string& out) {
  out += kData;
  out += ErrorBody(error);
  out += kEventEnd;
  out += "data: [DONE]\n\n";
}

AnswerWriter::AnswerWriter(RequestKind kind, const OutputFields& output, const Accepted& accepted)
    : kind_(kind), output_(output), accepted_(accepted) {
  choices_.resize(static_cast<size_t>(accepted.choices));
  for (size_t i = 0; i < choices_.size(); ++i) choices_[i].index = static_cast<int32_t>(i);
}

void AnswerWriter::Add(OutputDelta&& delta) {
  MergeDelta(choices_[static_cast<size_t>(delta.index)], std::move(delta));
}

void AnswerWriter::AppendChatChoice(const OutputDelta& choice, std::string& out) const {
  out += "{\"index\":";
  AppendJsonInt(choice.index, out);
  out += ",\"finish_reason\":";
  AppendFinishReason(choice.finish, out);
  AppendStopReason(choice, out);
  out += ",\"message\":{\"role\":\"assistant\",\"content\":";
  AppendJsonString(choice.text, out);
  out += ",\"refusal\":null,\"annotations\":[]},\"logprobs\":";
  if (output_.logprobs) {
    AppendChatLogprobs(choice.logprobs, output_.return_tokens_as_token_ids, out);
  } else {
    out += "null";
  }
  if (!output_.return_token_ids) return;
  out += ",\"token_ids\":";
  AppendTokenIds(choice.tokens, out);
}

std::string AnswerWriter::Finish(const Usage& total) const {
  const bool chat = kind_ == RequestKind::kChat;
  std::string out;
  AppendHead(chat ? "chat.completion" : "text_completion", accepted_, out);
  out += ",\"choices\":[";
  for (const OutputDelta& choice : choices_) {
    if (choice.index > 0) out += ',';
    if (chat) {
      AppendChatChoice(choice, out);
    } else {
      AppendCompletionChoice(output_, choice, true, out);
      AppendCompletionExtras(output_, choice, out);
    }
    out += '}';
  }
  out += "],\"usage\":";
  AppendUsage(total, out);
  if (chat) {
    out += ",\"service_tier\":\"default\"";
    AppendChatExtras(output_, choices_[0].prompt.get(), out);
  }
  AppendRemoved(accepted_.prompt_tokens_removed, out);
  out += '}';
  return out;
}

}  // namespace millrace::server
