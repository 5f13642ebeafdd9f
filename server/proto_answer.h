#pragma once
// Output deltas to wire messages. Deltas that come while a message is being written are joined, so
// that a slow reader gets fewer and larger messages and the memory of a stream stays bounded.
//
// GenerateResponse, GenerateStreamResponse, ChatResponse and ChatStreamResponse have one layout on
// the wire (a test holds them to it): one class makes all four.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "grpcpp/support/byte_buffer.h"
#include "millrace/v1/inference_service.pb.h"
#include "server/generation.h"
#include "server/output_delta.h"

namespace millrace::server {

// What of an answer the client wants to see.
struct AnswerShape {
  bool text = true;
  bool token_ids = false;
  bool echo = false;
  bool prompt_logprobs = false;
  bool continuous_usage = false;
  std::string request_id;
};

// Thread: one at a time.
class ProtoAnswer {
 public:
  explicit ProtoAnswer(AnswerShape shape) : shape_(std::move(shape)) {}

  void Accept(const Accepted& accepted);
  void Add(OutputDelta&& delta);
  void SetUsage(const Usage& total);

  // Nothing waits to be sent.
  bool empty() const { return bytes_ == 0; }
  // Of what waits, roughly.
  size_t bytes() const { return bytes_; }
  // Every choice has its finish: only the usage may follow.
  bool all_finished() const { return finished_ > 0 && finished_ == choices_; }
  // What waits, as bytes; then nothing waits.
  grpc::ByteBuffer Take();

 private:
  v1::Output& OutputOf(int32_t index);
  void AddPrompt(const OutputDelta& delta);
  void AddFinish(const OutputDelta& delta, v1::Output& output);

  const AnswerShape shape_;
  v1::GenerateStreamResponse message_;
  size_t bytes_ = 0;
  std::string model_;
  std::string fingerprint_;
  int64_t tokens_removed_ = 0;
  int32_t choices_ = 0;
  int32_t finished_ = 0;
  bool prompt_told_ = false;
  std::vector<int64_t> completion_tokens_;  // by choice, with continuous_usage
};

grpc::ByteBuffer ToByteBuffer(const google::protobuf::Message& message);

}  // namespace millrace::server
