// The exporter against a collector in this process. That our bytes are OTLP's is proved with the
// official Python package in tests/e2e/test_otlp.py.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/grpcpp.h"
#include "millrace/otlp/v1/trace.pb.h"
#include "server/otlp_exporter.h"
#include "server/proto_answer.h"

namespace millrace::server {
namespace {

using otlp::v1::ExportTraceServiceRequest;
using otlp::v1::ExportTraceServiceResponse;

// Takes any method, keeps what came, answers as told. Thread: any.
class Collector final : public grpc::CallbackGenericService {
 public:
  Collector() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterCallbackGenericService(this);
    server_ = builder.BuildAndStart();
  }
  ~Collector() override { server_->Shutdown(std::chrono::system_clock::now()); }

  std::string endpoint() const { return "http://127.0.0.1:" + std::to_string(port_); }
  // The statuses of the next calls; then OK.
  void AnswerWith(std::vector<grpc::Status> statuses) {
    std::lock_guard lock(mutex_);
    statuses_ = std::move(statuses);
  }
  void Hang() { hang_ = true; }
  std::vector<ExportTraceServiceRequest> requests() const {
    std::lock_guard lock(mutex_);
    return requests_;
  }
  int calls() const { return calls_; }
  std::string method() const {
    std::lock_guard lock(mutex_);
    return method_;
  }
  int64_t rejects = 0;

 private:
  class Reactor final : public grpc::ServerGenericBidiReactor {
   public:
    Reactor(Collector& owner, const grpc::GenericCallbackServerContext& context) : owner_(owner) {
      std::lock_guard lock(owner_.mutex_);
      owner_.method_ = context.method();
      StartRead(&wire_);
    }
    void OnReadDone(bool ok) override {
      if (!ok) return Finish(grpc::Status(grpc::StatusCode::INTERNAL, "no request"));
      ++owner_.calls_;
      if (owner_.hang_) return;  // until the client gives up
      grpc::Status status = owner_.Take(wire_);
      if (!status.ok()) return Finish(status);
      ExportTraceServiceResponse response;
      if (owner_.rejects > 0)
        response.mutable_partial_success()->set_rejected_spans(owner_.rejects);
      answer_ = ToByteBuffer(response);
      StartWriteAndFinish(&answer_, {}, grpc::Status::OK);
    }
    void OnCancel() override {
      if (owner_.hang_) Finish(grpc::Status::CANCELLED);
    }
    void OnDone() override { delete this; }

   private:
    Collector& owner_;
    grpc::ByteBuffer wire_;
    grpc::ByteBuffer answer_;
  };

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    return new Reactor(*this, *context);
  }

  grpc::Status Take(grpc::ByteBuffer& wire) {
    grpc::Slice slice;
    EXPECT_TRUE(wire.DumpToSingleSlice(&slice).ok());
    ExportTraceServiceRequest request;
    EXPECT_TRUE(request.ParseFromArray(slice.begin(), static_cast<int>(slice.size())));
    std::lock_guard lock(mutex_);
    if (!statuses_.empty()) {
      grpc::Status status = statuses_.front();
      statuses_.erase(statuses_.begin());
      if (!status.ok()) return status;
    }
    requests_.push_back(std::move(request));
    return grpc::Status::OK;
  }

  mutable std::mutex mutex_;
  std::vector<grpc::Status> statuses_;
  std::vector<ExportTraceServiceRequest> requests_;
  std::string method_;
  std::atomic<int> calls_{0};
  std::atomic<bool> hang_{false};
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

struct Exporting {
  explicit Exporting(const std::string& endpoint, void (*adjust)(OtlpExporterOptions&) = nullptr) {
    OtlpExporterOptions options;
    options.endpoint = endpoint;
    options.service_version = "1.2.3";
    options.resource_attributes = {{"k8s.pod.name", "pod-1"}};
    options.delay = 5 * kNanosPerMilli;
    options.backoff = 5 * kNanosPerMilli;
    if (adjust != nullptr) adjust(options);
    auto made = OtlpExporter::Create(options, metrics, clock);
    EXPECT_TRUE(made.ok());
    exporter = *std::move(made);
  }
  MetricsRegistry metrics;
  RealClock clock;
  std::unique_ptr<OtlpExporter> exporter;
};

Span MakeSpan(const std::string& name) {
  Span span;
  span.context.trace_id.fill(0xab);
  span.context.span_id.fill(0xcd);
  span.context.flags = 1;
  span.context.trace_state = "a=b";
  span.parent_span_id.fill(0xef);
  span.name = name;
  span.kind = SpanKind::kServer;
  span.start = 1'700'000'000'000'000'001;
  span.end = 1'700'000'000'000'000'009;
  span.attributes = {{"text", std::string("v\xff")},
                     {"whole", int64_t{-7}},
                     {"real", 0.5},
                     {"truth", true},
                     {"list", std::vector<std::string>{"stop", "length"}}};
  span.events.push_back({"preempted", 1'700'000'000'000'000'005, {{"n", int64_t{1}}}});
  span.error = true;
  span.status_message = "engine fault";
  return span;
}

bool Eventually(const std::function<bool()>& done) {
  for (int i = 0; i < 10'000 && !done(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return done();
}

TEST(OtlpTest, SendsEverySpanWhole) {
  Collector collector;
  Exporting out(collector.endpoint());
  out.exporter->Export(MakeSpan("POST /v1/chat/completions"));
  Span root = MakeSpan("root");
  root.parent_span_id.fill(0);
  root.error = false;
  out.exporter->Export(std::move(root));
  Span unsampled = MakeSpan("unsampled");
  unsampled.context.flags = 0;
  out.exporter->Export(std::move(unsampled));
  ASSERT_TRUE(Eventually([&] { return out.exporter->Counts().exported == 2; }));
  EXPECT_EQ(collector.method(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
  const auto requests = collector.requests();
  ASSERT_EQ(requests.size(), 1u);
  const auto& resource = requests[0].resource_spans(0).resource();
  EXPECT_EQ(resource.attributes(0).key(), "service.name");
  EXPECT_EQ(resource.attributes(0).value().string_value(), "millrace");
  EXPECT_EQ(resource.attributes(2).value().string_value(), "pod-1");
  const auto& spans = requests[0].resource_spans(0).scope_spans(0).spans();
  ASSERT_EQ(spans.size(), 2);
  EXPECT_EQ(spans[0].trace_id(), std::string(16, '\xab'));
  EXPECT_EQ(spans[0].span_id(), std::string(8, '\xcd'));
  EXPECT_EQ(spans[0].parent_span_id(), std::string(8, '\xef'));
  EXPECT_EQ(spans[0].trace_state(), "a=b");
  EXPECT_EQ(spans[0].kind(), otlp::v1::Span::SPAN_KIND_SERVER);
  EXPECT_EQ(spans[0].start_time_unix_nano(), 1'700'000'000'000'000'001u);
  EXPECT_EQ(spans[0].attributes(0).value().string_value(), "v\xef\xbf\xbd");
  EXPECT_EQ(spans[0].attributes(1).value().int_value(), -7);
  EXPECT_EQ(spans[0].attributes(4).value().array_value().values(1).string_value(), "length");
  EXPECT_EQ(spans[0].events(0).name(), "preempted");
  EXPECT_EQ(spans[0].status().code(), otlp::v1::Status::STATUS_CODE_ERROR);
  EXPECT_EQ(spans[1].parent_span_id(), "");
  EXPECT_FALSE(spans[1].has_status());
}

TEST(OtlpTest, BatchesAndEmptiesTheQueueAtTheEnd) {
  Collector collector;
  Exporting out(collector.endpoint(), [](OtlpExporterOptions& options) {
    options.delay = 3600 * kNanosPerSecond;
    options.batch_max = 10;
  });
  for (int i = 0; i < 25; ++i) out.exporter->Export(MakeSpan("s"));
  out.exporter->Shutdown();
  EXPECT_EQ(out.exporter->Counts().exported, 25);
  EXPECT_EQ(collector.requests().size(), 3u);
  out.exporter->Export(MakeSpan("late"));
  EXPECT_EQ(out.exporter->Counts().dropped, 1);
}

TEST(OtlpTest, RetriesWhatMayBeRetriedAndNothingElse) {
  const grpc::Status unavailable(grpc::StatusCode::UNAVAILABLE, "");
  const grpc::Status exhausted(grpc::StatusCode::RESOURCE_EXHAUSTED, "");
  const grpc::Status invalid(grpc::StatusCode::INVALID_ARGUMENT, "");
  {
    Collector collector;
    collector.AnswerWith({unavailable, unavailable});
    Exporting out(collector.endpoint());
    out.exporter->Export(MakeSpan("s"));
    ASSERT_TRUE(Eventually([&] { return out.exporter->Counts().exported == 1; }));
    EXPECT_EQ(collector.calls(), 3);
  }
  for (const grpc::Status& final_status : {exhausted, invalid}) {
    Collector collector;
    collector.AnswerWith({final_status});
    Exporting out(collector.endpoint());
    out.exporter->Export(MakeSpan("s"));
    ASSERT_TRUE(Eventually([&] { return out.exporter->Counts().failed == 1; }));
    EXPECT_EQ(collector.calls(), 1);
  }
  {
    Collector collector;  // gives up at last
    collector.AnswerWith(std::vector<grpc::Status>(100, unavailable));
    Exporting out(collector.endpoint());
    out.exporter->Export(MakeSpan("s"));
    ASSERT_TRUE(Eventually([&] { return out.exporter->Counts().failed == 1; }));
    EXPECT_EQ(collector.calls(), 5);
  }
  {
    Collector collector;  // part of it was taken: the rest is not sent again
    collector.rejects = 1;
    Exporting out(collector.endpoint(), [](auto& options) { options.batch_max = 2; });
    out.exporter->Export(MakeSpan("s"));
    out.exporter->Export(MakeSpan("s"));
    ASSERT_TRUE(Eventually([&] { return out.exporter->Counts().exported >= 1; }));
    EXPECT_EQ(out.exporter->Counts().failed, 1);
  }
}

// A collector that never answers: the queue fills, spans are dropped, nobody waits, and the end
// comes in time.
TEST(OtlpTest, DropsRatherThanBlocks) {
  Collector collector;
  collector.Hang();
  Exporting out(collector.endpoint(), [](OtlpExporterOptions& options) {
    options.queue_max = 20;
    options.batch_max = 10;
    options.shutdown_max = 100 * kNanosPerMilli;
  });
  for (int i = 0; i < 10; ++i) out.exporter->Export(MakeSpan("s"));
  ASSERT_TRUE(Eventually([&] { return collector.calls() == 1; }));
  for (int i = 0; i < 50; ++i) out.exporter->Export(MakeSpan("s"));
  EXPECT_EQ(out.exporter->Counts().dropped, 30);
  out.exporter->Shutdown();
  const OtlpCounts counts = out.exporter->Counts();
  EXPECT_EQ(counts.exported, 0);
  EXPECT_EQ(counts.dropped + counts.failed, 60);
  EXPECT_THAT(out.metrics.Expose(), ::testing::HasSubstr("millrace_otlp_dropped_spans_total 60"));
}

TEST(OtlpTest, RefusesWhatIsNoEndpoint) {
  MetricsRegistry metrics;
  RealClock clock;
  for (const char* bad : {"", "http://", "ftp://x:1", "http://host/path", "http://user@host"}) {
    OtlpExporterOptions options;
    options.endpoint = bad;
    EXPECT_FALSE(OtlpExporter::Create(options, metrics, clock).ok()) << bad;
  }
}

}  // namespace
}  // namespace millrace::server
