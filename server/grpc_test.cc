// Every method of the gRPC door through a real client on a real port.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "google/protobuf/descriptor.h"
#include "server/grpc_testing.h"
#include "server/proto_convert.h"

namespace millrace::server {
namespace {

using testing::Context;
using ::testing::ElementsAre;
using testing::Eventually;
using testing::FindDetail;
using testing::GrpcBench;
using ::testing::HasSubstr;
using testing::ReasonOf;
using testing::Says;
using ::testing::StartsWith;
using testing::TextRequest;
using testing::UserRequest;

struct Streamed {
  std::vector<v1::GenerateStreamResponse> messages;
  std::map<int, std::string> texts;
  grpc::Status status;
};

Streamed ReadAll(grpc::ClientReader<v1::GenerateStreamResponse>& reader) {
  Streamed all;
  v1::GenerateStreamResponse message;
  while (reader.Read(&message)) {
    for (const auto& output : message.outputs()) all.texts[output.index()] += output.text();
    all.messages.push_back(message);
  }
  all.status = reader.Finish();
  return all;
}

TEST(GrpcTest, GeneratesOnce) {
  GrpcBench node;
  ASSERT_TRUE(node.started.ok()) << node.started;
  node.Stepping();
  Context context;
  context.AddMetadata("x-request-id", "mine-1");
  v1::GenerateResponse response;
  const auto request = TextRequest();
  const grpc::Status status = node.inference->Generate(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.outputs_size(), 1);
  EXPECT_EQ(response.outputs(0).text(), "hello world");
  EXPECT_TRUE(response.outputs(0).token_ids().empty());
  EXPECT_EQ(response.outputs(0).finish().reason(), v1::FINISH_REASON_STOP);
  EXPECT_TRUE(response.outputs(0).finish().end_token());
  EXPECT_EQ(response.prompt().request_id(), "mine-1");
  EXPECT_EQ(response.prompt().model(), "m");
  EXPECT_EQ(response.prompt().prompt_tokens(), response.usage().prompt_tokens());
  EXPECT_GT(response.usage().prompt_tokens(), 0);
  EXPECT_EQ(response.usage().completion_tokens(), response.outputs(0).finish().completion_tokens());
  const auto& metadata = context.GetServerInitialMetadata();
  ASSERT_EQ(metadata.count("x-request-id"), 1u);
  EXPECT_EQ(metadata.find("x-request-id")->second, "mine-1");
}

TEST(GrpcTest, StreamsTheSameAnswer) {
  GrpcBench node;
  node.Stepping();
  Context context;
  v1::GenerateStreamRequest request;
  *request.mutable_request() = TextRequest();
  request.mutable_request()->mutable_response()->set_token_ids(true);
  auto reader = node.inference->GenerateStream(&context, request);
  const Streamed all = ReadAll(*reader);
  ASSERT_TRUE(all.status.ok()) << all.status.error_message();
  EXPECT_EQ(all.texts.at(0), "hello world");
  ASSERT_FALSE(all.messages.empty());
  size_t tokens = 0;
  for (size_t i = 0; i < all.messages.size(); ++i) {
    const bool last = i + 1 == all.messages.size();
    EXPECT_EQ(all.messages[i].has_prompt(), i == 0);
    EXPECT_EQ(all.messages[i].has_usage(), last);
    EXPECT_EQ(all.messages[i].outputs(0).has_finish(), last);
    tokens += static_cast<size_t>(all.messages[i].outputs(0).token_ids_size());
  }
  EXPECT_EQ(tokens, 11u);  // one a byte; the end token is in no delta
  EXPECT_EQ(all.messages[0].prompt().prompt_token_ids_size(),
            all.messages[0].prompt().prompt_tokens());
  EXPECT_THAT(
      std::string(context.GetServerInitialMetadata().find("x-request-id")->second.data(), 4),
      StartsWith("req-"));
}

TEST(GrpcTest, ChatsAndStreamsChat) {
  GrpcBench node;
  node.Stepping();
  v1::ChatResponse response;
  Context context;
  grpc::Status status = node.inference->Chat(&context, UserRequest(), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.outputs(0).text(), "hello world");

  Context stream_context;
  v1::ChatStreamRequest request;
  *request.mutable_request() = UserRequest();
  request.set_continuous_usage(true);
  auto reader = node.inference->ChatStream(&stream_context, request);
  v1::ChatStreamResponse message;
  std::string text;
  int32_t completion_tokens = 0;
  while (reader->Read(&message)) {
    text += message.outputs(0).text();
    ASSERT_TRUE(message.has_usage());
    EXPECT_GE(message.usage().completion_tokens(), completion_tokens);
    completion_tokens = message.usage().completion_tokens();
  }
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, "hello world");
  EXPECT_EQ(completion_tokens, response.usage().completion_tokens());
}

TEST(GrpcTest, ChoicesLogprobsEchoAndStops) {
  GrpcBench node;
  node.Stepping();
  v1::GenerateRequest request = TextRequest("ab", 64);
  request.mutable_sampling()->set_n(3);
  request.mutable_response()->set_logprobs(1);
  request.mutable_response()->set_prompt_logprobs(1);
  request.mutable_response()->set_echo(true);
  request.mutable_stopping()->add_stop_strings("wor");
  Context context;
  v1::GenerateResponse response;
  const grpc::Status status = node.inference->Generate(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.outputs_size(), 3);
  for (const v1::Output& output : response.outputs()) {
    EXPECT_EQ(output.text(), "abhello ");
    EXPECT_EQ(output.finish().stop_string(), "wor");
    const v1::Logprobs& logprobs = output.logprobs();
    EXPECT_EQ(logprobs.token_ids_size(), logprobs.logprobs_size());
    EXPECT_EQ(logprobs.token_ids_size(), logprobs.ranks_size());
    EXPECT_EQ(logprobs.token_ids_size(), logprobs.token_bytes_size());
    EXPECT_EQ(logprobs.token_ids_size(), logprobs.alternative_counts_size());
    EXPECT_EQ(logprobs.alternative_token_ids_size(), logprobs.token_ids_size());
    EXPECT_FLOAT_EQ(logprobs.logprobs(0), -0.2f);
    EXPECT_EQ(logprobs.token_bytes(0), "h");
  }
  EXPECT_EQ(response.prompt().prompt_logprobs().token_ids_size(),
            response.prompt().prompt_tokens() - 1);
  EXPECT_EQ(response.usage().completion_tokens(),
            3 * response.outputs(0).finish().completion_tokens());
}

TEST(GrpcTest, TokenIdsInAndTextOut) {
  GrpcBench node;
  node.Stepping();
  v1::GenerateRequest request = TextRequest();
  request.mutable_token_ids()->add_ids('x');
  request.mutable_token_ids()->add_ids('y');
  request.mutable_response()->set_text(false);
  request.mutable_response()->set_token_ids(true);
  request.mutable_truncation()->set_max_prompt_tokens(1);
  Context context;
  v1::GenerateResponse response;
  ASSERT_TRUE(node.inference->Generate(&context, request, &response).ok());
  EXPECT_EQ(response.outputs(0).text(), "");
  EXPECT_EQ(response.outputs(0).token_ids(0), static_cast<uint32_t>('h'));
  EXPECT_THAT(response.prompt().prompt_token_ids(), ElementsAre('y'));
  EXPECT_EQ(response.prompt().truncated_tokens(), 1);
}

TEST(GrpcTest, TokenizesBothWays) {
  GrpcBench node;
  v1::TokenizeRequest request;
  request.set_model("m");
  request.set_text("abc");
  request.set_token_bytes(true);
  v1::TokenizeResponse response;
  Context context;
  ASSERT_TRUE(node.inference->Tokenize(&context, request, &response).ok());
  EXPECT_THAT(response.token_ids(), ElementsAre('a', 'b', 'c'));
  EXPECT_THAT(response.token_bytes(), ElementsAre("a", "b", "c"));
  EXPECT_EQ(response.max_model_len(), 4096);

  v1::DetokenizeRequest back;
  back.set_model("m");
  *back.mutable_token_ids() = response.token_ids();
  back.add_token_ids(263);
  v1::DetokenizeResponse text;
  Context second;
  ASSERT_TRUE(node.inference->Detokenize(&second, back, &text).ok());
  EXPECT_EQ(text.text(), "abc<|im_end|>");
  back.set_skip_special_tokens(true);
  Context third;
  ASSERT_TRUE(node.inference->Detokenize(&third, back, &text).ok());
  EXPECT_EQ(text.text(), "abc");

  request.mutable_chat()->add_messages()->set_role(v1::CHAT_ROLE_USER);
  request.mutable_chat()->mutable_messages(0)->set_text("hi");
  Context fourth;
  ASSERT_TRUE(node.inference->Tokenize(&fourth, request, &response).ok());
  EXPECT_EQ(response.token_ids(0), 262u);  // <|im_start|>
}

TEST(GrpcTest, ListsModels) {
  GrpcBench node;
  v1::ListModelsResponse list;
  Context context;
  ASSERT_TRUE(node.models->ListModels(&context, {}, &list).ok());
  ASSERT_EQ(list.models_size(), 1);
  EXPECT_EQ(list.models(0).name(), "m");
  EXPECT_EQ(list.models(0).load_time().seconds(), 1767225600);
  v1::GetModelRequest request;
  request.set_name("m");
  v1::GetModelResponse one;
  Context second;
  ASSERT_TRUE(node.models->GetModel(&second, request, &one).ok());
  EXPECT_EQ(one.model().max_model_len(), 4096);
  EXPECT_EQ(one.model().format(), "GGUF Q4_1");
  EXPECT_EQ(one.model().sampling_defaults().temperature(), 1);
  EXPECT_FALSE(one.model().sampling_defaults().has_chat_max_tokens());
  EXPECT_FALSE(one.model().sampling_defaults().from_model());
  request.set_name("other");
  Context third;
  const grpc::Status status = node.models->GetModel(&third, request, &one);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ReasonOf(status), "MODEL_NOT_FOUND");
}

// An answer of thousands of steps.
v1::GenerateRequest LongRequest() {
  v1::GenerateRequest request = TextRequest("x", 4000);
  request.mutable_stopping()->set_ignore_eos(true);
  return request;
}

// True when the engine is free after far fewer steps than the answer would have taken.
bool EndsSoon(GrpcBench& node) {
  for (int i = 0; i < 500 && node.bench.engine.live() > 0; ++i) {
    node.bench.engine.Step();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return node.bench.engine.live() == 0;
}

// A cancelled, a timed-out and a lost call free the engine.
TEST(GrpcTest, CancelEndsTheWork) {
  GrpcBench node([](const Request&, int32_t, int32_t) { return TokenId{'a'}; });
  v1::GenerateStreamRequest request;
  *request.mutable_request() = LongRequest();
  Context context;
  auto reader = node.inference->GenerateStream(&context, request);
  ASSERT_TRUE(Eventually([&] { return node.bench.engine.live() == 1; }));
  node.bench.engine.Step();
  v1::GenerateStreamResponse message;
  ASSERT_TRUE(reader->Read(&message));
  context.TryCancel();
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(EndsSoon(node));
}

TEST(GrpcTest, CancelOfAUnaryCallEndsTheWork) {
  GrpcBench node;
  Context context;
  std::thread canceller([&] {
    Eventually([&] { return node.bench.engine.live() == 1; });
    context.TryCancel();
  });
  v1::GenerateResponse response;
  const grpc::Status status = node.inference->Generate(&context, LongRequest(), &response);
  canceller.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(EndsSoon(node));
}

TEST(GrpcTest, DeadlineReachesTheEngineAndEndsTheCall) {
  GrpcBench node;
  const MonoNanos before = node.bench.clock.Now();
  Context context(std::chrono::milliseconds(300));
  v1::GenerateResponse response;
  const grpc::Status status = node.inference->Generate(&context, LongRequest(), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  ASSERT_EQ(node.bench.engine.submitted().size(), 1u);
  const MonoNanos deadline = node.bench.engine.submitted()[0].deadline;
  EXPECT_GT(deadline, before + 100 * kNanosPerMilli);
  EXPECT_LT(deadline, before + 400 * kNanosPerMilli);
  EXPECT_TRUE(EndsSoon(node));
}

// The engine's own deadline came first: the status is ours, with its reason.
TEST(GrpcTest, EngineEndsAreTyped) {
  const std::pair<FinishReason, grpc::StatusCode> rows[] = {
      {FinishReason::kDeadline, grpc::StatusCode::DEADLINE_EXCEEDED},
      {FinishReason::kError, grpc::StatusCode::INTERNAL},
      {FinishReason::kShutdown, grpc::StatusCode::UNAVAILABLE},
      {FinishReason::kNeverFits, grpc::StatusCode::INVALID_ARGUMENT},
      {FinishReason::kSlowConsumer, grpc::StatusCode::RESOURCE_EXHAUSTED},
  };
  for (const auto& row : rows) {
    GrpcBench node;
    Context context;
    v1::GenerateStreamRequest request;
    *request.mutable_request() = TextRequest();
    auto reader = node.inference->GenerateStream(&context, request);
    ASSERT_TRUE(Eventually([&] { return node.bench.engine.live() == 1; }));
    // gRPC's client forgets messages that it has not read when a bad status comes: read first.
    std::string text;
    v1::GenerateStreamResponse message;
    for (int i = 0; i < 2; ++i) {
      node.bench.engine.Step();
      ASSERT_TRUE(reader->Read(&message));
      text += message.outputs(0).text();
    }
    node.bench.engine.EndAll(row.first);
    node.bench.engine.Step();
    const Streamed all = ReadAll(*reader);
    EXPECT_EQ(all.status.error_code(), row.second);
    EXPECT_FALSE(ReasonOf(all.status).empty());
    EXPECT_EQ(text, "he");
    EXPECT_TRUE(all.texts.empty());
  }
}

// A refusal is one frame of trailers, so that a client's retry policy may act on it.
TEST(GrpcTest, RefusalIsTrailersOnly) {
  GrpcBench node;
  node.bench.engine.Refuse(absl::ResourceExhaustedError("the queue is full"));
  Context context;
  v1::GenerateStreamRequest request;
  *request.mutable_request() = TextRequest();
  auto reader = node.inference->GenerateStream(&context, request);
  v1::GenerateStreamResponse message;
  EXPECT_FALSE(reader->Read(&message));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonOf(status), "QUEUE_FULL");
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(FindDetail(status, retry));
  EXPECT_GE(retry.retry_delay().seconds(), 1);
  EXPECT_TRUE(context.GetServerInitialMetadata().empty());
  EXPECT_EQ(context.GetServerTrailingMetadata().count("x-request-id"), 1u);
  EXPECT_EQ(context.GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 1u);
}

TEST(GrpcTest, KeysAreAskedFor) {
  GrpcBench node(Says("ok"), {}, "one:secret-key-1\n");
  ASSERT_TRUE(node.loaded.ok());
  node.Stepping();
  const auto call = [&](std::vector<std::string> authorizations) {
    Context context;
    for (const auto& value : authorizations) context.AddMetadata("authorization", value);
    v1::GenerateResponse response;
    return node.inference->Generate(&context, TextRequest(), &response);
  };
  EXPECT_TRUE(call({"Bearer secret-key-1"}).ok());
  for (const auto& bad :
       std::vector<std::vector<std::string>>{{},
                                             {"Bearer secret-key-2"},
                                             {"secret-key-1"},
                                             {"Bearer"},
                                             {"Bearer secret-key-1", "Bearer secret-key-1"}}) {
    const grpc::Status status = call(bad);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(ReasonOf(status), "API_KEY_INVALID");
    EXPECT_THAT(status.error_message(), ::testing::Not(HasSubstr("secret")));
  }
  Context models_context;
  v1::ListModelsResponse list;
  EXPECT_EQ(node.models->ListModels(&models_context, {}, &list).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  Context health_context;  // health is for everyone
  grpc::health::v1::HealthCheckResponse healthy;
  EXPECT_TRUE(node.health->Check(&health_context, {}, &healthy).ok());
}

// The four answers may be made by one class because they are one message on the wire.
TEST(GrpcTest, AnswersHaveOneLayout) {
  const google::protobuf::Descriptor* reference = v1::GenerateStreamResponse::descriptor();
  for (const auto* other : {v1::GenerateResponse::descriptor(), v1::ChatResponse::descriptor(),
                            v1::ChatStreamResponse::descriptor()}) {
    ASSERT_EQ(other->field_count(), reference->field_count());
    for (int i = 0; i < other->field_count(); ++i) {
      const auto* field = other->field(i);
      EXPECT_EQ(field->number(), reference->field(i)->number());
      EXPECT_EQ(field->name(), reference->field(i)->name());
      EXPECT_EQ(field->label(), reference->field(i)->label());
      EXPECT_EQ(field->message_type(), reference->field(i)->message_type());
    }
  }
}

TEST(GrpcTest, TraceContextAndTheClientsOwnId) {
  GrpcBench node;
  node.Stepping();
  Context context;
  context.AddMetadata("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
  v1::GenerateRequest request = TextRequest();
  request.set_request_id("from-the-message");
  v1::GenerateResponse response;
  ASSERT_TRUE(node.inference->Generate(&context, request, &response).ok());
  EXPECT_EQ(response.prompt().request_id(), "from-the-message");
  request.set_request_id("two words");
  Context second;
  const grpc::Status status = node.inference->Generate(&second, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace millrace::server
