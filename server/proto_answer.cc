#include "server/proto_answer.h"

#include <numeric>
#include <utility>

#include "grpcpp/support/slice.h"

namespace millrace::server {
namespace {

// Returns the bytes added, roughly.
size_t AddScores(const std::vector<TokenLogprobText>& scores, v1::Logprobs& out) {
  size_t bytes = 0;
  for (const TokenLogprobText& score : scores) {
    if (!score.scored) continue;
    out.add_token_ids(static_cast<uint32_t>(score.token.id));
    out.add_logprobs(score.token.logprob);
    out.add_ranks(score.token.rank);
    out.add_token_bytes(score.token.bytes);
    out.add_alternative_counts(static_cast<int32_t>(score.top.size()));
    bytes += 16 + score.token.bytes.size();
    for (const TokenScore& top : score.top) {
      out.add_alternative_token_ids(static_cast<uint32_t>(top.id));
      out.add_alternative_logprobs(top.logprob);
      out.add_alternative_token_bytes(top.bytes);
      bytes += 12 + top.bytes.size();
    }
  }
  return bytes;
}

}  // namespace

void ProtoAnswer::Accept(const Accepted& accepted) {
  model_ = accepted.model;
  fingerprint_ = accepted.fingerprint;
  tokens_removed_ = accepted.prompt_tokens_removed;
  choices_ = accepted.choices;
  if (shape_.continuous_usage) completion_tokens_.resize(static_cast<size_t>(choices_));
}

void ProtoAnswer::Add(OutputDelta&& delta) {
  if (!prompt_told_ && delta.prompt != nullptr) AddPrompt(delta);
  v1::Output& output = OutputOf(delta.index);
  bytes_ += 16 + delta.text.size();
  if (shape_.text) {
    if (shape_.echo && delta.prompt != nullptr) {
      output.mutable_text()->append(delta.prompt->text);
      bytes_ += delta.prompt->text.size();
    }
    if (output.text().empty()) {
      output.set_text(std::move(delta.text));
    } else {
      output.mutable_text()->append(delta.text);
    }
  }
  if (shape_.token_ids) {
    for (const TokenId id : delta.tokens) output.add_token_ids(static_cast<uint32_t>(id));
    bytes_ += 3 * delta.tokens.size();
  }
  if (!delta.logprobs.empty()) bytes_ += AddScores(delta.logprobs, *output.mutable_logprobs());
  if (delta.finish != FinishReason::kNone) AddFinish(delta, output);
  if (!shape_.continuous_usage) return;
  completion_tokens_[static_cast<size_t>(delta.index)] = delta.usage.completion_tokens;
  Usage usage = delta.usage;
  usage.completion_tokens =
      std::accumulate(completion_tokens_.begin(), completion_tokens_.end(), int64_t{0});
  SetUsage(usage);
}

v1::Output& ProtoAnswer::OutputOf(int32_t index) {
  for (int i = message_.outputs_size(); i-- > 0;) {
    if (message_.outputs(i).index() == index) return *message_.mutable_outputs(i);
  }
  v1::Output* output = message_.add_outputs();
  output->set_index(index);
  return *output;
}

void ProtoAnswer::AddPrompt(const OutputDelta& delta) {
  prompt_told_ = true;
  const PromptReport& report = *delta.prompt;
  v1::PromptReport& out = *message_.mutable_prompt();
  out.set_request_id(shape_.request_id);
  out.set_model(model_);
  out.set_fingerprint(fingerprint_);
  out.set_prompt_tokens(static_cast<int32_t>(delta.usage.prompt_tokens));
  out.set_cached_prompt_tokens(static_cast<int32_t>(delta.usage.cached_tokens));
  out.set_truncated_tokens(static_cast<int32_t>(tokens_removed_));
  bytes_ += 128;
  if (shape_.token_ids) {
    for (const TokenId id : report.tokens) out.add_prompt_token_ids(static_cast<uint32_t>(id));
    bytes_ += 3 * report.tokens.size();
  }
  if (shape_.prompt_logprobs && !report.logprobs.empty()) {
    bytes_ += AddScores(report.logprobs, *out.mutable_prompt_logprobs());
  }
}

void ProtoAnswer::AddFinish(const OutputDelta& delta, v1::Output& output) {
  ++finished_;
  v1::Finish& finish = *output.mutable_finish();
  finish.set_completion_tokens(static_cast<int32_t>(delta.usage.completion_tokens));
  bytes_ += 8 + delta.stop_string.size();
  if (delta.finish != FinishReason::kStop) {
    finish.set_reason(v1::FINISH_REASON_LENGTH);
    return;
  }
  finish.set_reason(v1::FINISH_REASON_STOP);
  if (!delta.stop_string.empty()) {
    finish.set_stop_string(delta.stop_string);
  } else if (delta.stop_token >= 0) {
    finish.set_stop_token_id(static_cast<uint32_t>(delta.stop_token));
  } else {
    finish.set_end_token(true);
  }
}

void ProtoAnswer::SetUsage(const Usage& total) {
  v1::Usage& usage = *message_.mutable_usage();
  usage.set_prompt_tokens(static_cast<int32_t>(total.prompt_tokens));
  usage.set_completion_tokens(static_cast<int32_t>(total.completion_tokens));
  usage.set_cached_prompt_tokens(static_cast<int32_t>(total.cached_tokens));
  bytes_ += 12;
}

grpc::ByteBuffer ProtoAnswer::Take() {
  grpc::ByteBuffer buffer = ToByteBuffer(message_);
  message_.Clear();
  bytes_ = 0;
  return buffer;
}

grpc::ByteBuffer ToByteBuffer(const google::protobuf::Message& message) {
  const size_t size = message.ByteSizeLong();
  grpc::Slice slice(size);
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace millrace::server
