// Bad input through the gRPC door (reference: reliability.md 1.12), and errors that are the same as
// the HTTP door's because both come from one ApiError.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "grpcpp/generic/generic_stub.h"
#include "server/grpc_status.h"
#include "server/grpc_testing.h"
#include "server/http_client.h"
#include "server/proto_convert.h"
#include "server/proto_scan.h"
#include "server/unsupported.h"

namespace millrace::server {
namespace {

using testing::Context;
using testing::Eventually;
using testing::FindDetail;
using testing::GrpcBench;
using ::testing::HasSubstr;
using testing::ReasonOf;
using testing::Says;
using testing::TextRequest;
using testing::UserRequest;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// What the front end says to the same fields when they came over HTTP.
ApiError OverHttp(GrpcBench& node, GenerationRequest request) {
  request.origin.door = DoorKind::kHttp;
  auto sink = std::make_shared<testing::RecordingSink>();
  auto generation = node.bench.frontend->Start(std::move(request), sink);
  EXPECT_TRUE(sink->WaitForEnd());
  return sink->error.value_or(ApiError{});
}

struct SameErrorRow {
  std::string name;
  std::function<void(v1::GenerateRequest&)> proto;
  std::function<void(GenerationRequest&)> http;
};

TEST(GrpcErrorTest, TheSameAsOverHttp) {
  const std::vector<SameErrorRow> rows = {
      {"model", [](auto& p) { p.set_model("other"); }, [](auto& h) { h.model = "other"; }},
      {"no model", [](auto& p) { p.clear_model(); }, [](auto& h) { h.model.reset(); }},
      {"temperature", [](auto& p) { p.mutable_sampling()->set_temperature(2.1f); },
       [](auto& h) { h.sampling.temperature = 2.1; }},
      {"temperature nan", [](auto& p) { p.mutable_sampling()->set_temperature(kNan); },
       [](auto& h) { h.sampling.temperature = std::nan(""); }},
      {"top_p", [](auto& p) { p.mutable_sampling()->set_top_p(1.0001f); },
       [](auto& h) { h.sampling.top_p = 1.0001; }},
      {"top_k", [](auto& p) { p.mutable_sampling()->set_top_k(-2); },
       [](auto& h) { h.sampling.top_k = -2; }},
      {"n", [](auto& p) { p.mutable_sampling()->set_n(129); }, [](auto& h) { h.n = 129; }},
      {"n 0", [](auto& p) { p.mutable_sampling()->set_n(0); }, [](auto& h) { h.n = 0; }},
      {"best_of", [](auto& p) { p.mutable_sampling()->set_best_of(2); },
       [](auto& h) { h.best_of = 2; }},
      {"bias", [](auto& p) { (*p.mutable_sampling()->mutable_logit_bias())[9999] = 1; },
       [](auto& h) {
         h.sampling.logit_bias = {{9999, 1}};
       }},
      {"max_tokens", [](auto& p) { p.mutable_stopping()->set_max_tokens(-1); },
       [](auto& h) { h.stop.max_tokens = -1; }},
      {"too long", [](auto& p) { p.mutable_stopping()->set_max_tokens(5000); },
       [](auto& h) { h.stop.max_tokens = 5000; }},
      {"stop", [](auto& p) { p.mutable_stopping()->add_stop_strings(""); },
       [](auto& h) { h.stop.strings = {""}; }},
      {"stop id", [](auto& p) { p.mutable_stopping()->add_stop_token_ids(4'000'000'000u); },
       [](auto& h) { h.stop.token_ids = {4'000'000'000}; }},
      {"logprobs", [](auto& p) { p.mutable_response()->set_logprobs(21); },
       [](auto& h) { h.output.logprobs = 21; }},
      {"priority", [](auto& p) { p.mutable_scheduling()->set_priority(1); },
       [](auto& h) { h.priority = 1; }},
      {"salt", [](auto& p) { p.mutable_scheduling()->set_cache_salt("a/b"); },
       [](auto& h) { h.prompt.cache_salt = "a/b"; }},
      {"truncate", [](auto& p) { p.mutable_truncation()->set_max_prompt_tokens(0); },
       [](auto& h) { h.prompt.truncate_prompt_tokens = 0; }},
      {"empty", [](auto& p) { p.set_text(""); }, [](auto& h) { h.prompt.prompts[0].text = ""; }},
      {"token id", [](auto& p) { p.mutable_token_ids()->add_ids(264); },
       [](auto& h) {
         h.prompt.prompts[0] = {"", {264}, true};
       }},
  };
  GrpcBench node;
  for (const SameErrorRow& row : rows) {
    SCOPED_TRACE(row.name);
    v1::GenerateRequest proto = TextRequest();
    row.proto(proto);
    Context context;
    v1::GenerateResponse response;
    const grpc::Status status = node.inference->Generate(&context, proto, &response);
    GenerationRequest http = node.bench.Completion("say it", 64);
    row.http(http);
    const ApiError expected = OverHttp(node, http);
    EXPECT_FALSE(expected.message.empty());
    EXPECT_EQ(status.error_code(), static_cast<grpc::StatusCode>(expected.shape().grpc));
    EXPECT_EQ(status.error_message(), expected.message);
    EXPECT_EQ(ReasonOf(status), expected.shape().reason);
    google::rpc::ErrorInfo info;
    ASSERT_TRUE(FindDetail(status, info));
    EXPECT_EQ(info.domain(), "millrace");
    for (const auto& pair : expected.metadata)
      EXPECT_EQ(info.metadata().at(pair.first), pair.second);
    google::rpc::BadRequest bad;
    if (expected.shape().grpc == CanonicalCode::kInvalidArgument) {
      ASSERT_TRUE(FindDetail(status, bad));
      EXPECT_EQ(bad.field_violations(0).field(), expected.param);
    }
  }
  EXPECT_EQ(node.bench.engine.live(), 0);
}

struct UnsupportedRow {
  std::string name;  // as in the table of server/unsupported.cc
  std::function<void(v1::GenerateRequest&)> text;
  std::function<void(v1::ChatRequest&)> chat;
};

// Every field that exists only to be refused is refused by the name that HTTP uses.
TEST(GrpcErrorTest, UnsupportedByName) {
  const std::vector<UnsupportedRow> rows = {
      {"tools", nullptr, [](auto& p) { p.add_tools()->set_name("f"); }},
      {"tool_choice", nullptr, [](auto& p) { p.set_tool_choice(v1::TOOL_CHOICE_REQUIRED); }},
      {"documents", nullptr, [](auto& p) { p.add_documents("d"); }},
      {"chat_template", nullptr,
       [](auto& p) { p.mutable_template_options()->set_chat_template("{{ 1 }}"); }},
      {"structured_outputs", [](auto& p) { p.mutable_structured_outputs()->set_regex("a"); },
       [](auto& p) { p.mutable_structured_outputs()->set_json_object(true); }},
      {"allowed_token_ids", [](auto& p) { p.mutable_sampling()->add_allowed_token_ids(1); },
       nullptr},
      {"bad_words", [](auto& p) { p.mutable_sampling()->add_bad_words("w"); }, nullptr},
      {"logprob_token_ids", [](auto& p) { p.mutable_response()->add_logprob_token_ids(1); },
       nullptr},
      {"use_beam_search", [](auto& p) { p.mutable_sampling()->set_use_beam_search(true); },
       nullptr},
      {"length_penalty", [](auto& p) { p.mutable_sampling()->set_length_penalty(kNan); }, nullptr},
      {"typical_p", [](auto& p) { p.mutable_sampling()->set_typical_p(0.5f); }, nullptr},
      {"xtc_probability", [](auto& p) { p.mutable_sampling()->set_xtc_probability(0.5f); },
       nullptr},
      {"dry_multiplier", [](auto& p) { p.mutable_sampling()->set_dry_multiplier(1); }, nullptr},
      {"mirostat", [](auto& p) { p.mutable_sampling()->set_mirostat(2); }, nullptr},
      {"thinking_token_budget", [](auto& p) { p.mutable_stopping()->set_thinking_token_budget(1); },
       nullptr},
      {"suffix", [](auto& p) { p.set_suffix("s"); }, nullptr},
      {"lora", [](auto& p) { p.set_lora("a"); }, [](auto& p) { p.set_lora("a"); }},
      {"best_of", [](auto& p) { p.mutable_sampling()->set_best_of(3); }, nullptr},
      {"echo", nullptr, [](auto& p) { p.mutable_response()->set_echo(true); }},
      {"messages[0].content", nullptr,
       [](auto& p) {
         p.mutable_messages(0)->mutable_parts()->add_parts()->set_image_url("http://x/");
       }},
      {"messages[0].tool_calls", nullptr,
       [](auto& p) { p.mutable_messages(0)->add_tool_calls()->set_name("f"); }},
      {"messages[0].role", nullptr,
       [](auto& p) { p.mutable_messages(0)->set_role(v1::CHAT_ROLE_TOOL); }},
  };
  GrpcBench node;
  const auto expect = [](const std::string& name, const grpc::Status& status) {
    SCOPED_TRACE(name);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
    EXPECT_EQ(ReasonOf(status), "UNSUPPORTED_FEATURE");
    EXPECT_THAT(status.error_message(), HasSubstr("'" + name + "'"));
  };
  for (const UnsupportedRow& row : rows) {
    if (row.text) {
      v1::GenerateRequest proto = TextRequest();
      row.text(proto);
      Context context;
      v1::GenerateResponse response;
      expect(row.name, node.inference->Generate(&context, proto, &response));
    }
    if (row.chat) {
      v1::ChatRequest proto = UserRequest();
      row.chat(proto);
      Context context;
      v1::ChatResponse response;
      expect(row.name, node.inference->Chat(&context, proto, &response));
    }
  }
}

// Values that ask for nothing are no reason to refuse.
TEST(GrpcErrorTest, HarmlessValuesPass) {
  GrpcBench node;
  node.Stepping();
  v1::ChatRequest proto = UserRequest();
  proto.mutable_sampling()->set_use_beam_search(false);
  proto.mutable_sampling()->set_length_penalty(1);
  proto.mutable_sampling()->set_typical_p(1);
  proto.mutable_sampling()->set_mirostat(0);
  proto.mutable_sampling()->set_best_of(1);
  proto.mutable_structured_outputs();
  proto.set_tool_choice(v1::TOOL_CHOICE_NONE);
  Context context;
  v1::ChatResponse response;
  const grpc::Status status = node.inference->Chat(&context, proto, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

// A raw call: bytes that no honest client would send.
grpc::Status CallRaw(GrpcBench& node, const std::string& method, const std::string& bytes) {
  grpc::GenericStub stub(node.channel);
  Context context;
  grpc::CompletionQueue queue;
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  auto call =
      stub.PrepareUnaryCall(&context, "/millrace.v1.InferenceService/" + method, request, &queue);
  call->StartCall();
  grpc::ByteBuffer response;
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  return status;
}

std::string Repeat(const std::string& text, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) result += text;
  return result;
}

void ExpectUsable(GrpcBench& node) {
  Context context;
  v1::GenerateResponse response;
  const grpc::Status status = node.inference->Generate(&context, TextRequest(), &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST(GrpcHostileTest, BytesThatAreNoMessage) {
  GrpcBench node;
  node.Stepping();
  const std::vector<std::pair<std::string, std::string>> rows = {
      {"Generate", std::string("\x00\x00\x00", 3)},
      {"Generate", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"},
      {"Generate", "\x12\x7f"},              // a length past the end
      {"Generate", "\x12\x02\xff\xfe"},      // model: no UTF-8
      {"Generate", "\x1b\x1b\x1b\x1b"},      // groups without end
      {"Generate", Repeat("\x1b", 10'000)},  // ... ten thousand deep
      {"GenerateStream", Repeat("\x0a\x7f", 5'000)},
      {"Chat", Repeat("\x1a\x02\x00\x00", 10)},  // messages with field number 0
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.first + " " + std::to_string(row.second.size()));
    const grpc::Status status = CallRaw(node, row.first, row.second);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(ReasonOf(status), "INVALID_FIELD");
    EXPECT_LT(status.error_message().size(), 200u);
  }
  ExpectUsable(node);
}

// Two bytes on the wire that would be a hundred in memory are counted before they are parsed.
TEST(GrpcHostileTest, ManySmallThings) {
  GrpcBench node;
  node.Stepping();
  const std::vector<std::pair<std::string, std::string>> rows = {
      {"Chat", Repeat(std::string("\x1a\x00", 2), 1'000'000)},  // messages
      {"Chat", "\x1a\xa0\xf7\x36" + Repeat(std::string("\x2a\x00", 2), 450'000)},
      {"Generate", Repeat(std::string("\xf8\x07\x01", 3), 300'000)},  // unknown fields
  };
  for (const auto& row : rows) {
    const grpc::Status status = CallRaw(node, row.first, row.second);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    // By the scan: Validate would have refused them too, after all of it was built.
    EXPECT_THAT(status.error_message(), HasSubstr("too large"));
  }
  v1::GenerateRequest bias = TextRequest();
  for (uint32_t i = 0; i < 250'000; ++i) (*bias.mutable_sampling()->mutable_logit_bias())[i] = 1;
  EXPECT_THAT(CallRaw(node, "Generate", bias.SerializeAsString()).error_message(),
              HasSubstr("too large"));
  v1::GenerateRequest ids = TextRequest();
  for (uint32_t i = 0; i < 5'000'000; ++i) ids.mutable_token_ids()->add_ids(1);
  EXPECT_THAT(CallRaw(node, "Generate", ids.SerializeAsString()).error_message(),
              HasSubstr("too large"));
  ExpectUsable(node);
}

TEST(GrpcHostileTest, TooLargeMessagesAndCompression) {
  GrpcBench node;
  node.Stepping();
  EXPECT_EQ(CallRaw(node, "Generate", std::string(9 << 20, 'x')).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  Context context;
  context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  v1::GenerateResponse response;
  const v1::GenerateRequest zeros = TextRequest(std::string(1 << 20, 'a'));
  EXPECT_EQ(node.inference->Generate(&context, zeros, &response).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  ExpectUsable(node);
}

TEST(GrpcHostileTest, EnumsOutOfRange) {
  GrpcBench node;
  v1::ChatRequest chat = UserRequest();
  chat.mutable_messages(0)->set_role(static_cast<v1::ChatRole>(77));
  v1::ChatRequest choice = UserRequest();
  choice.set_tool_choice(static_cast<v1::ToolChoice>(77));
  v1::ChatRequest side = UserRequest();
  side.mutable_truncation()->set_max_prompt_tokens(5);
  side.mutable_truncation()->set_side(static_cast<v1::TruncationSide>(77));
  v1::ChatRequest role = UserRequest();
  role.mutable_messages(0)->clear_role();
  for (const v1::ChatRequest& request : {chat, choice, side, role}) {
    Context context;
    v1::ChatResponse response;
    EXPECT_EQ(node.inference->Chat(&context, request, &response).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
  }
}

TEST(GrpcHostileTest, Metadata) {
  GrpcBench node;
  node.Stepping();
  {
    // More than we take: a typed refusal, and the next call on the same connection is served.
    auto other = v1::InferenceService::NewStub(node.Connect({}));
    for (const int entries : {1, 101}) {
      Context context;
      for (int i = 0; i < entries; ++i) {
        context.AddMetadata("x-large" + std::to_string(i),
                            std::string(entries == 1 ? 9'000 : 1, 'a'));
      }
      v1::GenerateResponse response;
      const grpc::Status status = other->Generate(&context, TextRequest(), &response);
      EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
      EXPECT_EQ(ReasonOf(status), "HEADERS_TOO_LARGE");
      Context next;
      EXPECT_TRUE(other->Generate(&next, TextRequest(), &response).ok());
    }
  }
  {
    // More than the library takes costs the caller his call, and perhaps his connection: no one
    // else's.
    auto other = v1::InferenceService::NewStub(node.Connect({}));
    Context context;
    context.AddMetadata("x-large", std::string(20'000, 'a'));
    v1::GenerateResponse response;
    EXPECT_FALSE(other->Generate(&context, TextRequest(), &response).ok());
  }
  {
    Context context;  // many keys, an id with spaces, two ids, a broken trace: all taken as absent
    for (int i = 0; i < 50; ++i) context.AddMetadata("x-k" + std::to_string(i), "v");
    context.AddMetadata("x-request-id", "a b");
    context.AddMetadata("x-request-id", "c");
    context.AddMetadata("traceparent", "00-zz");
    v1::GenerateResponse response;
    const grpc::Status status = node.inference->Generate(&context, TextRequest(), &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.prompt().request_id().substr(0, 4), "req-");
  }
  ExpectUsable(node);
}

TEST(GrpcHostileTest, Deadlines) {
  GrpcBench node;
  node.Stepping();
  for (const auto patience : {std::chrono::milliseconds(-5), std::chrono::milliseconds(0)}) {
    Context context(patience);
    v1::GenerateResponse response;
    EXPECT_EQ(node.inference->Generate(&context, TextRequest(), &response).error_code(),
              grpc::StatusCode::DEADLINE_EXCEEDED);
  }
  Context century(std::chrono::hours(100 * 365 * 24));
  v1::GenerateResponse response;
  EXPECT_TRUE(node.inference->Generate(&century, TextRequest(), &response).ok());
  grpc::ClientContext never;
  EXPECT_TRUE(node.inference->Generate(&never, TextRequest(), &response).ok());
  EXPECT_TRUE(Eventually([&] { return node.bench.engine.live() == 0; }));
}

// Streams that are begun and dropped at once leave nothing behind.
TEST(GrpcHostileTest, CancelStorm) {
  GrpcBench node([](const Request&, int32_t, int32_t) { return TokenId{'a'}; });
  node.Stepping();
  v1::GenerateStreamRequest request;
  *request.mutable_request() = TextRequest("x", 1000);
  for (int i = 0; i < 300; ++i) {
    Context context;
    auto reader = node.inference->GenerateStream(&context, request);
    v1::GenerateStreamResponse message;
    for (int k = 0; k < i % 4; ++k) reader->Read(&message);
    context.TryCancel();
    while (reader->Read(&message)) {
    }
    reader->Finish();
  }
  EXPECT_TRUE(Eventually([&] { return node.bench.engine.live() == 0; }));
}

// HTTP/2 by hand: a frame of `type` on `stream`.
std::string Frame(char type, char flags, char stream, const std::string& payload) {
  std::string frame(1, '\0');
  frame += static_cast<char>(payload.size() >> 8);
  frame += static_cast<char>(payload.size() & 255);
  return frame + type + flags + std::string(3, '\0') + stream + payload;
}

// A literal header of less than 127 bytes (RFC 7541, 6.2.2).
std::string Literal(const std::string& name, const std::string& value) {
  return std::string(1, '\0') + static_cast<char>(name.size()) + name +
         static_cast<char>(value.size()) + value;
}

// A client that begins a stream and is never heard of again, though its kernel acknowledges every
// byte: keepalive finds it dead, the request ends, the connection closes.
TEST(GrpcHostileTest, ASilentPeerIsFoundDead) {
  GrpcServerOptions options;
  options.keepalive_time_ms = 300;
  options.keepalive_timeout_ms = 300;
  GrpcBench node([](const Request&, int32_t, int32_t) { return TokenId{'a'}; }, options);
  testing::RawClient client(static_cast<uint16_t>(node.server->port()));
  v1::GenerateStreamRequest request;
  *request.mutable_request() = TextRequest("x", 1000);
  const std::string body = request.SerializeAsString();
  const std::string prefix = std::string(4, '\0') + static_cast<char>(body.size());
  const std::string head = Literal(":method", "POST") + Literal(":scheme", "http") +
                           Literal(":path", "/millrace.v1.InferenceService/GenerateStream") +
                           Literal(":authority", "x") + Literal("te", "trailers") +
                           Literal("content-type", "application/grpc");
  client.Send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + Frame(4, 0, 0, "") + Frame(1, 4, 1, head) +
              Frame(0, 1, 1, prefix + body));
  ASSERT_TRUE(Eventually([&] { return node.bench.engine.live() == 1; }));
  EXPECT_TRUE(client.AtEnd());
  node.Stepping();
  EXPECT_TRUE(Eventually([&] { return node.bench.engine.live() == 0; }));
}

TEST(GrpcHostileTest, ConnectionsOverTheLimitAreClosed) {
  GrpcServerOptions options;
  options.connections_max = 3;
  GrpcBench node(Says("x"), options);
  node.Stepping();
  ExpectUsable(node);  // the bench's own connection is one of the three
  std::vector<std::unique_ptr<testing::RawClient>> clients;
  for (int i = 0; i < 2; ++i) {
    clients.push_back(
        std::make_unique<testing::RawClient>(static_cast<uint16_t>(node.server->port())));
    std::string hello;
    EXPECT_TRUE(clients.back()->ReadSome(hello));  // the server's SETTINGS
  }
  EXPECT_TRUE(testing::RawClient(static_cast<uint16_t>(node.server->port())).AtEnd());
  ExpectUsable(node);
  clients.clear();  // room again
  EXPECT_TRUE(Eventually([&] {
    testing::RawClient client(static_cast<uint16_t>(node.server->port()));
    std::string hello;
    return client.ReadSome(hello);
  }));
}

TEST(GrpcHostileTest, UnknownMethods) {
  GrpcBench node;
  EXPECT_EQ(CallRaw(node, "Nope", "").error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

// Trailers stay small whatever an error says.
TEST(GrpcStatusTest, IsBounded) {
  ApiError error = InvalidField(std::string(100'000, 'p'), std::string(100'000, 'm') + "\xff");
  for (int i = 0; i < 100; ++i)
    error.metadata.emplace_back("k" + std::to_string(i), std::string(9'999, 'v'));
  const grpc::Status status = ToGrpcStatus(error, std::string(10'000, 'r'));
  EXPECT_LT(status.error_details().size() + status.error_message().size(), 6'000u);
  google::rpc::Status rich;
  ASSERT_TRUE(rich.ParseFromString(status.error_details()));
  EXPECT_EQ(rich.code(), static_cast<int>(status.error_code()));
  EXPECT_EQ(rich.message(), status.error_message());
}

TEST(ProtoScanTest, CountsWhatAMessageWouldCost) {
  ProtoLimits limits;
  limits.elements_max = 4;
  limits.packed_bytes_max = 3;
  v1::GenerateRequest request;
  request.set_model("m");
  const auto scan = [&] {
    return ScanProto(request.SerializeAsString(), *v1::GenerateRequest::descriptor(), limits);
  };
  EXPECT_EQ(scan(), "");
  for (int i = 0; i < 3; ++i) request.mutable_token_ids()->add_ids(1);
  EXPECT_EQ(scan(), "");
  request.mutable_token_ids()->add_ids(1);
  EXPECT_THAT(scan(), HasSubstr("bytes"));
  request.clear_token_ids();
  request.mutable_stopping()->add_stop_strings("a");
  request.mutable_stopping()->add_stop_strings("b");
  EXPECT_EQ(scan(), "");  // model, stopping, a, b
  request.mutable_stopping()->add_stop_strings("c");
  EXPECT_THAT(scan(), HasSubstr("fields"));
  limits.depth_max = 1;
  EXPECT_THAT(scan(), HasSubstr("deeper"));
}

}  // namespace
}  // namespace millrace::server
