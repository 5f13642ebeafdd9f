#include "server/validate_messages.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "server/unsupported.h"

namespace millrace::server {
namespace {

using Problem = std::optional<ApiError>;

// Top-level names that a template gets from us: a request cannot replace them.
constexpr auto kReservedKwargs = std::to_array<std::string_view>({
    "messages",
    "add_generation_prompt",
    "continue_final_message",
    "tools",
    "documents",
    "tokenize",
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "chat_template",
    "conversation",
    "raise_exception",
    "strftime_now",
    "namespace",
    "range",
    "dict",
    "loop",
    "cycler",
    "joiner",
    "lipsum",
    "self",
    "caller",
    "varargs",
    "kwargs",
    "true",
    "false",
    "none",
});

std::string At(size_t index, std::string_view field) {
  std::string path = "messages[" + std::to_string(index) + "]";
  if (!field.empty()) path += "." + std::string(field);
  return path;
}

// Parts of type text (and an assistant's refusal), joined by a line feed as vLLM does for templates
// that take strings.
Problem JoinParts(const Json& parts, const std::string& path, std::string& out) {
  for (const Json& part : parts.array()) {
    const Json* type = part.Find("type");
    if (type == nullptr || !type->is_string()) {
      return InvalidField(path, "Each part of '" + path + "' must be an object with a 'type'.");
    }
    const bool refusal = type->string_value() == "refusal";
    if (type->string_value() != "text" && !refusal) {
      return UnsupportedError(path, "only parts of type 'text' are understood");
    }
    const Json* text = part.Find(refusal ? "refusal" : "text");
    if (text == nullptr || !text->is_string()) {
      return InvalidField(path, "A part of '" + path + "' has no text.");
    }
    if (!out.empty()) out += '\n';
    out += text->string_value();
  }
  return std::nullopt;
}

Problem ReadRole(const Json& message, size_t index, std::string& role) {
  const Json* value = message.Find("role");
  if (value == nullptr || !value->is_string()) {
    return InvalidField(At(index, "role"), "Each message must have a 'role'.");
  }
  role = value->string_value();
  if (role == "developer") role = "system";
  if (role == "tool" || role == "function") {
    return UnsupportedError(At(index, "role"), "tool calls are not implemented yet");
  }
  if (role != "system" && role != "user" && role != "assistant") {
    return InvalidField(At(index, "role"),
                        "'role' must be one of developer, system, user, assistant.");
  }
  return std::nullopt;
}

Problem ReadContent(const Json& message, size_t index, std::string& content) {
  const std::string path = At(index, "content");
  const Json* value = message.Find("content");
  if (value != nullptr && value->is_string()) {
    content = value->string_value();
    return std::nullopt;
  }
  if (value != nullptr && value->is_array()) {
    if (value->array().empty()) {
      return InvalidField(path, "'" + path + "' must have at least one part.");
    }
    return JoinParts(*value, path, content);
  }
  return InvalidField(path, "'" + path + "' must be a string or an array of parts.");
}

Problem RewriteMessage(const Json& message, size_t index, Json& out) {
  if (!message.is_object()) {
    return InvalidField(At(index, ""), "'" + At(index, "") + "' must be an object.");
  }
  for (const std::string_view name : {"tool_calls", "function_call", "audio"}) {
    const Json* value = message.Find(name);
    if (value == nullptr || value->is_null()) continue;
    if (value->is_array() && value->array().empty()) continue;
    return UnsupportedError(At(index, name), "it is not implemented yet");
  }
  std::string role;
  if (Problem p = ReadRole(message, index, role)) return p;
  std::string content;
  if (Problem p = ReadContent(message, index, content)) return p;
  JsonObject object;
  object.emplace_back("role", Json(std::move(role)));
  object.emplace_back("content", Json(std::move(content)));
  for (const std::string_view name : {"name", "reasoning_content", "reasoning"}) {
    const Json* value = message.Find(name);
    if (value == nullptr || value->is_null()) continue;
    if (!value->is_string()) {
      return InvalidField(At(index, name), "'" + At(index, name) + "' must be a string.");
    }
    // Both spellings are sent; templates read the longer one.
    const std::string key = name == "name" ? "name" : "reasoning_content";
    const bool seen = std::any_of(object.begin(), object.end(),
                                  [&](const JsonMember& member) { return member.first == key; });
    if (!seen) object.emplace_back(key, Json(value->string_value()));
  }
  out = Json(std::move(object));
  return std::nullopt;
}

bool IsName(std::string_view text) {
  if (text.empty() || text.size() > 64 || (text[0] >= '0' && text[0] <= '9')) return false;
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

Problem ValidateKwargs(const Limits& limits, const Json& kwargs) {
  constexpr std::string_view kParam = "chat_template_kwargs";
  if (kwargs.is_null()) return std::nullopt;
  if (!kwargs.is_object()) return InvalidField(kParam, "'chat_template_kwargs' must be an object.");
  if (kwargs.object().size() > limits.template_kwargs_max) {
    return InvalidField(kParam, "'chat_template_kwargs' must have at most " +
                                    std::to_string(limits.template_kwargs_max) + " members.");
  }
  size_t bytes = 0;
  for (const JsonMember& member : kwargs.object()) {
    const bool reserved = std::find(kReservedKwargs.begin(), kReservedKwargs.end(), member.first) !=
                          kReservedKwargs.end();
    if (reserved || !IsName(member.first)) {
      return InvalidField(kParam,
                          "'chat_template_kwargs' has a name that is reserved or no "
                          "identifier of at most 64 characters.");
    }
    if (member.second.is_array() || member.second.is_object()) {
      return InvalidField(kParam,
                          "Values of 'chat_template_kwargs' must be strings, numbers, "
                          "booleans or null.");
    }
    bytes += member.first.size();
    if (member.second.is_string()) bytes += member.second.string_value().size();
  }
  if (bytes > limits.template_kwargs_bytes_max) {
    return InvalidField(kParam, "'chat_template_kwargs' must have at most " +
                                    std::to_string(limits.template_kwargs_bytes_max) + " bytes.");
  }
  return std::nullopt;
}

}  // namespace

Problem ValidateMessages(const Limits& limits, PromptFields& fields) {
  if (!fields.messages.is_array() || fields.messages.array().empty()) {
    return InvalidField("messages", "'messages' must be an array with at least one message.");
  }
  const JsonArray& messages = fields.messages.array();
  if (messages.size() > limits.messages_max) {
    return InvalidField("messages", "'messages' must have at most " +
                                        std::to_string(limits.messages_max) + " messages, not " +
                                        std::to_string(messages.size()) + ".");
  }
  size_t parts = 0;
  for (const Json& message : messages) {
    const Json* content = message.Find("content");
    if (content != nullptr && content->is_array()) parts += content->array().size();
  }
  if (parts > limits.content_parts_max) {
    return InvalidField("messages",
                        "'messages' must have at most " + std::to_string(limits.content_parts_max) +
                            " content parts in all, not " + std::to_string(parts) + ".");
  }
  JsonArray rewritten(messages.size());
  for (size_t i = 0; i < messages.size(); ++i) {
    if (Problem p = RewriteMessage(messages[i], i, rewritten[i])) return p;
  }
  if (fields.continue_final_message) {
    if (fields.add_generation_prompt) {
      return InvalidField("continue_final_message",
                          "'continue_final_message' needs 'add_generation_prompt': false.");
    }
  }
  fields.messages = Json(std::move(rewritten));
  return ValidateKwargs(limits, fields.chat_template_kwargs);
}

}  // namespace millrace::server
