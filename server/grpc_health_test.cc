// Health, watch, reflection and slow readers of the gRPC door.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "grpc/reflection/v1/reflection.grpc.pb.h"
#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "server/grpc_testing.h"

namespace millrace::server {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using testing::Context;
using testing::Eventually;
using testing::GrpcBench;
using testing::Says;
using testing::TextRequest;

HealthCheckResponse::ServingStatus Ask(grpc::health::v1::Health::Stub& stub,
                                       const std::string& service) {
  Context context;
  HealthCheckRequest request;
  request.set_service(service);
  HealthCheckResponse response;
  const grpc::Status status = stub.Check(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.status();
}

// A node whose engine has not made a step: the port is open, and the answer is still no.
TEST(GrpcHealthTest, NotServingUntilAStepHasRun) {
  testing::Bench bench(Says("x"));
  testing::ScriptedEngine idle(Says("x"));
  Health health(idle, bench.clock);
  ApiKeys keys;
  GrpcServerOptions options;
  options.port = 0;
  GrpcServer server(options, {bench.frontend.get(), &keys, &health, &bench.metrics, &bench.clock});
  ASSERT_TRUE(server.Start().ok());
  auto channel = grpc::CreateChannel("127.0.0.1:" + std::to_string(server.port()),
                                     grpc::InsecureChannelCredentials());
  auto stub = grpc::health::v1::Health::NewStub(channel);
  Context watch_context;
  auto watch = stub->Watch(&watch_context, {});
  HealthCheckResponse seen;
  ASSERT_TRUE(watch->Read(&seen));
  EXPECT_EQ(seen.status(), HealthCheckResponse::NOT_SERVING);

  const char* const ready[] = {"", "millrace.v1.InferenceService", "readiness"};
  for (const char* name : ready) EXPECT_EQ(Ask(*stub, name), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Ask(*stub, "liveness"), HealthCheckResponse::SERVING);
  health.SetServing();
  EXPECT_EQ(Ask(*stub, ""), HealthCheckResponse::NOT_SERVING);
  idle.Step();
  for (const char* name : ready) EXPECT_EQ(Ask(*stub, name), HealthCheckResponse::SERVING);
  ASSERT_TRUE(watch->Read(&seen));
  EXPECT_EQ(seen.status(), HealthCheckResponse::SERVING);

  health.SetDraining();
  server.BeginDrain();
  ASSERT_TRUE(watch->Read(&seen));
  EXPECT_EQ(seen.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Ask(*stub, ""), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Ask(*stub, "liveness"), HealthCheckResponse::SERVING);
  idle.set_healthy(false);
  EXPECT_EQ(Ask(*stub, "liveness"), HealthCheckResponse::NOT_SERVING);
  server.Stop(bench.clock.Now());
  EXPECT_FALSE(watch->Read(&seen));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST(GrpcHealthTest, UnknownServices) {
  GrpcBench node;
  HealthCheckRequest request;
  request.set_service("nope");
  Context context;
  HealthCheckResponse response;
  EXPECT_EQ(node.health->Check(&context, request, &response).error_code(),
            grpc::StatusCode::NOT_FOUND);
  Context watch_context;
  auto watch = node.health->Watch(&watch_context, request);
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  watch_context.TryCancel();
  EXPECT_FALSE(watch->Read(&response));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::CANCELLED);
  Context list_context;
  grpc::health::v1::HealthListResponse list;
  ASSERT_TRUE(node.health->List(&list_context, {}, &list).ok());
  EXPECT_EQ(list.statuses().size(), 5u);
  EXPECT_EQ(list.statuses().at("").status(), HealthCheckResponse::SERVING);
}

// One question to a reflection service, as `key`; the answer, or none.
template <typename Service, typename Request, typename Response>
Response Reflect(const std::shared_ptr<grpc::Channel>& channel, const std::string& key,
                 const Request& request, grpc::Status& status) {
  auto stub = Service::NewStub(channel);
  Context context;
  if (!key.empty()) context.AddMetadata("authorization", "Bearer " + key);
  auto stream = stub->ServerReflectionInfo(&context);
  stream->Write(request);
  Response response;
  stream->Read(&response);
  stream->WritesDone();
  status = stream->Finish();
  return response;
}

namespace alpha = grpc::reflection::v1alpha;
namespace stable = grpc::reflection::v1;
const auto ReflectAlpha = Reflect<alpha::ServerReflection, alpha::ServerReflectionRequest,
                                  alpha::ServerReflectionResponse>;
const auto ReflectStable = Reflect<stable::ServerReflection, stable::ServerReflectionRequest,
                                   stable::ServerReflectionResponse>;

TEST(GrpcReflectionTest, ListsServicesToThoseWhoMay) {
  GrpcBench open;
  grpc::Status status;
  stable::ServerReflectionRequest list;
  list.set_list_services("*");
  alpha::ServerReflectionRequest list_alpha;
  list_alpha.set_list_services("*");
  std::set<std::string> names;
  const auto listed = ReflectStable(open.channel, "", list, status);
  for (const auto& service : listed.list_services_response().service()) {
    names.insert(service.name());
  }
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(names,
            (std::set<std::string>{"millrace.v1.InferenceService", "millrace.v1.ModelService",
                                   "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
                                   "grpc.reflection.v1alpha.ServerReflection"}));
  EXPECT_EQ(
      ReflectAlpha(open.channel, "", list_alpha, status).list_services_response().service_size(),
      5);

  GrpcBench guarded(Says("x"), {}, "one:secret-key-1\n");
  for (const char* key : {"", "secret-key-2"}) {
    EXPECT_FALSE(ReflectStable(guarded.channel, key, list, status).has_list_services_response());
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(testing::ReasonOf(status), "API_KEY_INVALID");
    EXPECT_FALSE(
        ReflectAlpha(guarded.channel, key, list_alpha, status).has_list_services_response());
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  }
  EXPECT_TRUE(
      ReflectStable(guarded.channel, "secret-key-1", list, status).has_list_services_response());
  EXPECT_TRUE(status.ok());
}

TEST(GrpcReflectionTest, FilesComeWithWhatTheyImport) {
  GrpcBench node;
  grpc::Status status;
  stable::ServerReflectionRequest request;
  request.set_file_containing_symbol("millrace.v1.InferenceService.ChatStream");
  const auto files = ReflectStable(node.channel, "", request, status).file_descriptor_response();
  google::protobuf::DescriptorPool pool;  // knows only what was sent, in that order
  for (const std::string& bytes : files.file_descriptor_proto()) {
    google::protobuf::FileDescriptorProto file;
    ASSERT_TRUE(file.ParseFromString(bytes));
    ASSERT_NE(pool.BuildFile(file), nullptr) << file.name();
  }
  EXPECT_NE(pool.FindServiceByName("millrace.v1.InferenceService"), nullptr);

  request.set_file_by_filename("millrace/v1/chat.proto");
  EXPECT_GE(ReflectStable(node.channel, "", request, status)
                .file_descriptor_response()
                .file_descriptor_proto_size(),
            1);
  request.set_all_extension_numbers_of_type("google.protobuf.FieldOptions");
  EXPECT_EQ(ReflectStable(node.channel, "", request, status)
                .all_extension_numbers_response()
                .base_type_name(),
            "google.protobuf.FieldOptions");
  request.mutable_file_containing_extension()->set_containing_type("google.protobuf.FieldOptions");
  request.mutable_file_containing_extension()->set_extension_number(99);
  const int kNotFound = grpc::StatusCode::NOT_FOUND;
  EXPECT_EQ(ReflectStable(node.channel, "", request, status).error_response().error_code(),
            kNotFound);
  request.set_file_containing_symbol("no.such.Thing");
  EXPECT_EQ(ReflectStable(node.channel, "", request, status).error_response().error_code(),
            kNotFound);
  request.clear_message_request();
  EXPECT_TRUE(ReflectStable(node.channel, "", request, status).has_error_response());
  EXPECT_TRUE(status.ok());
}

// A reader that does not read: the engine is paused, memory stays bounded, a fast reader beside it
// is not disturbed, and when it reads at last it gets every byte.
TEST(GrpcSlowReaderTest, PausesAndLosesNothing) {
  constexpr int kTokens = 4000;
  GrpcServerOptions options;
  options.stream.stream_bytes_max = 4 << 10;
  // Each token is a word with 20 alternatives: about 300 bytes on the wire.
  GrpcBench node([](const Request&, int32_t, int32_t index) { return 'a' + index % 26; }, options);
  grpc::ChannelArguments small;
  small.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4096);
  small.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  auto slow_stub = v1::InferenceService::NewStub(node.Connect(small));
  v1::GenerateStreamRequest request;
  *request.mutable_request() = TextRequest("x", kTokens);
  request.mutable_request()->mutable_stopping()->set_ignore_eos(true);
  request.mutable_request()->mutable_response()->set_logprobs(20);
  request.mutable_request()->mutable_response()->set_token_ids(true);
  Context context;
  auto slow = slow_stub->GenerateStream(&context, request);
  node.Stepping();
  ASSERT_TRUE(Eventually([&] { return node.bench.engine.pauses() > 0; }));

  Context other;
  v1::GenerateResponse response;
  v1::GenerateRequest quick = TextRequest("y", 32);
  ASSERT_TRUE(node.inference->Generate(&other, quick, &response).ok());
  EXPECT_EQ(response.usage().completion_tokens(), 32);
  EXPECT_EQ(node.bench.engine.live(), 1);  // still there, paused

  std::string text;
  v1::GenerateStreamResponse message;
  int messages = 0;
  int tokens = 0;
  while (slow->Read(&message)) {
    ++messages;
    ASSERT_EQ(message.outputs_size(), 1);
    text += message.outputs(0).text();
    tokens += message.outputs(0).token_ids_size();
    ASSERT_EQ(message.outputs(0).logprobs().token_ids_size(), message.outputs(0).token_ids_size());
  }
  ASSERT_TRUE(slow->Finish().ok());
  ASSERT_EQ(text.size(), static_cast<size_t>(kTokens));
  EXPECT_EQ(tokens, kTokens);
  for (int i = 0; i < kTokens; ++i) ASSERT_EQ(text[static_cast<size_t>(i)], 'a' + i % 26);
  EXPECT_LT(messages, kTokens);  // joined while the reader slept
}

}  // namespace
}  // namespace millrace::server
