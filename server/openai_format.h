#pragma once
// Answers in OpenAI's shapes: whole objects, SSE chunks, errors. Everything is appended to a string
// in one pass; nothing is built as a tree.

#include <string>
#include <string_view>
#include <vector>

#include "server/api_error.h"
#include "server/generation.h"
#include "server/output_delta.h"

namespace millrace::server {

// {"error":{"message","type","param","code"}}
std::string ErrorBody(const ApiError& error);

// Appends `next` to `into`: same choice, later. For readers that are slower than the model.
void MergeDelta(OutputDelta& into, OutputDelta&& next);
// Bytes that a waiting delta takes, roughly.
size_t BytesOf(const OutputDelta& delta);

// The events of one stream. Thread: one owner at a time.
class SseWriter {
 public:
  SseWriter(RequestKind kind, const OutputFields& output, const Accepted& accepted);

  // One to three events: the role (chat, first delta of a choice), the text, the end.
  void AppendDelta(const OutputDelta& delta, std::string& out) const;
  // The usage event when it was asked for, and [DONE].
  void AppendEnd(const Usage& total, std::string& out) const;
  static void AppendError(const ApiError& error, std::string& out);

 private:
  void End(const Usage& usage, std::string& out) const;
  void AppendRole(const OutputDelta& delta, std::string& out) const;
  void AppendText(const OutputDelta& delta, std::string& out) const;
  void AppendFinish(const OutputDelta& delta, std::string& out) const;

  const RequestKind kind_;
  const OutputFields output_;
  const int64_t prompt_tokens_removed_;
  std::string prefix_;  // up to and with "choices":[
};

// A whole answer from its deltas. Thread: one owner at a time.
class AnswerWriter {
 public:
  AnswerWriter(RequestKind kind, const OutputFields& output, const Accepted& accepted);
  void Add(OutputDelta&& delta);
  std::string Finish(const Usage& total) const;

 private:
  void AppendChatChoice(const OutputDelta& choice, std::string& out) const;

  const RequestKind kind_;
  const OutputFields output_;
  const Accepted accepted_;
  std::vector<OutputDelta> choices_;
};

}  // namespace millrace::server
