#include "cli/serve.h"

#include <signal.h>

#include <atomic>
#include <chrono>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/status_macros.h"
#include "cli/key_file.h"
#include "server/auth.h"
#include "server/frontend.h"
#include "server/grpc_server.h"
#include "server/health.h"
#include "server/http_server.h"
#include "server/otlp_exporter.h"
#include "server/real_engine.h"

namespace millrace::cli {
namespace {

constexpr int kExitEngineFailed = 70;  // EX_SOFTWARE: a supervisor should restart us

LogLevel LevelOf(const std::string& name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "warning") return LogLevel::kWarning;
  return name == "error" ? LogLevel::kError : LogLevel::kInfo;
}

// Signals wait for sigtimedwait instead of interrupting a thread. Before any thread starts: they
// inherit the mask.
sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, number);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

// True when a signal to end came within `milliseconds`. SIGHUP has the keys read again; without a
// key file it means what it always did: the terminal is gone, so end.
bool EndWithin(const sigset_t& signals, int milliseconds, KeyFile& keys) {
  const timespec timeout{milliseconds / 1000, milliseconds % 1000 * 1'000'000L};
  const int number = sigtimedwait(&signals, nullptr, &timeout);
  if (number != SIGHUP || !keys.given()) return number > 0;
  keys.Reload();
  return false;
}

// The doors of a node and what they share. Members are destroyed last to first.
struct Doors {
  explicit Doors(const ServeOptions& options) : key_file(options.api_key_file, keys) {}

  MetricsRegistry metrics;
  server::ApiKeys keys;
  KeyFile key_file;  // before anything is read: no keys
  std::unique_ptr<server::OtlpExporter> exporter;
  std::unique_ptr<server::RealEngine> engine;
  std::unique_ptr<server::Health> health;
  std::unique_ptr<server::Frontend> frontend;
  std::unique_ptr<server::HttpServer> http;
  std::unique_ptr<server::GrpcServer> grpc;
};

server::DoorDeps DepsOf(const Node& node, Doors& doors) {
  return {doors.frontend.get(), &doors.keys, doors.health.get(), &doors.metrics, &node.clock};
}

absl::Status OpenHttp(const ServeOptions& options, const Node& node, Doors& doors) {
  server::HttpServerOptions http;
  http.host = http.ops_host = options.host;
  http.port = static_cast<uint16_t>(options.port);
  http.ops_port = static_cast<uint16_t>(options.health_port);
  http.service.version = MILLRACE_VERSION;
  http.service.loopback_hosts_only = !doors.keys.required();
  doors.http = std::make_unique<server::HttpServer>(http, DepsOf(node, doors));
  return doors.http->Start();
}

absl::Status OpenGrpc(const ServeOptions& options, const Node& node, Doors& doors) {
  server::GrpcServerOptions grpc;
  grpc.host = options.host;
  grpc.port = static_cast<uint16_t>(options.grpc_port);
  grpc.reflection = options.reflection;
  doors.grpc = std::make_unique<server::GrpcServer>(grpc, DepsOf(node, doors));
  return doors.grpc->Start();
}

absl::Status OpenDoors(const ServeOptions& options, Node& node, Doors& doors) {
  if (!options.otlp_endpoint.empty()) {
    server::OtlpExporterOptions otlp;
    otlp.endpoint = options.otlp_endpoint;
    otlp.service_version = MILLRACE_VERSION;
    ASSIGN_OR_RETURN(doors.exporter, server::OtlpExporter::Create(otlp, doors.metrics, node.clock));
  }
  doors.engine = std::make_unique<server::RealEngine>(*node.engine);
  doors.health = std::make_unique<server::Health>(*doors.engine, node.clock);
  server::FrontendDeps deps;
  deps.engine = doors.engine.get();
  deps.clock = &node.clock;
  deps.metrics = &doors.metrics;
  deps.spans = doors.exporter.get();
  deps.health = doors.health.get();
  doors.metrics
      .AddGauge("millrace_packed_cache", "What --packed-cache did at this start: 1.",
                {{"result", std::string(node.packed->result())}})
      .Set(1);
  doors.frontend =
      std::make_unique<server::Frontend>(node.served(), server::FrontendOptions{}, deps);
  RETURN_IF_ERROR(OpenHttp(options, node, doors));
  RETURN_IF_ERROR(OpenGrpc(options, node, doors));
  doors.health->SetServing();
  return absl::OkStatus();
}

void PrintExamples(const std::string& model, const Doors& doors) {
  std::cout << absl::StrFormat(
                   R"(
Millrace serves %1$s. Try:

  curl -N http://127.0.0.1:%2$d/v1/chat/completions -H 'content-type: application/json' \
    -d '{"model":"%1$s","stream":true,"temperature":0,"messages":[{"role":"user","content":"What does HTTP stand for?"}]}'

  import openai  # pip install openai
  client = openai.OpenAI(base_url="http://127.0.0.1:%2$d/v1", api_key="none")
  for chunk in client.chat.completions.create(model="%1$s", temperature=0, stream=True,
          messages=[{"role": "user", "content": "What does HTTP stand for?"}]):
      print(chunk.choices[0].delta.content or "", end="")

  build/release/cli/millrace chat --address 127.0.0.1:%3$d "What does HTTP stand for?"

Health and metrics: http://127.0.0.1:%4$d/readyz, /metrics. Ctrl-C drains and ends.
)",
                   model, doors.http->port(), doors.grpc->port(), doors.http->ops_port())
            << std::flush;
}

// Readiness off, finish what runs or cut it at the deadline, then close the doors. A second signal
// cuts at once.
void Shutdown(const ServeOptions& options, const sigset_t& signals, Node& node, Doors& doors) {
  Log(LogLevel::kInfo, "draining", {{"seconds_max", options.shutdown_timeout_s}});
  doors.health->SetDraining();
  doors.http->BeginDrain();
  doors.grpc->BeginDrain();
  const MonoNanos deadline =
      node.clock.Now() + static_cast<MonoNanos>(options.shutdown_timeout_s * kNanosPerSecond);
  std::atomic<bool> drained{false};
  std::thread drain([&] {
    node.engine->Drain(deadline);
    drained.store(true);
  });
  while (!drained.load()) {
    if (EndWithin(signals, 50, doors.key_file)) {
      Log(LogLevel::kWarning, "second signal: ending at once");
      node.engine->Drain(node.clock.Now());
    }
  }
  drain.join();
  // What was generated still goes out to readers that read.
  const MonoNanos flush = node.clock.Now() + 2 * kNanosPerSecond;
  doors.http->Stop(flush);
  doors.grpc->Stop(flush);
  if (doors.exporter != nullptr) doors.exporter->Shutdown();
}

}  // namespace

int RunServe(const ServeOptions& options, const ExecutorFactory& factory) {
  const sigset_t signals = BlockSignals();
  InitLogging({options.log_format == "json", LevelOf(options.log_level)});
  std::atomic<bool> failed{false};
  const auto fail = [](const absl::Status& status) {
    FlushLogs();
    std::cerr << "millrace: " << status.message() << "\n";
    return 1;
  };
  Doors doors(options);  // before the node: outlived by nothing of it, and closed by hand below
  absl::Status opened = doors.key_file.Load();
  opened.Update(server::CheckBindAllowed(options.host, doors.keys.required()));
  if (!opened.ok()) return fail(opened);
  auto node = BuildNode(options, factory, [&](const absl::Status& status) {
    const std::string reason(status.message());
    Log(LogLevel::kError, "engine failed", {{"reason", std::string_view(reason)}});
    failed.store(true);
  });
  if (!node.ok()) return fail(node.status());
  opened = OpenDoors(options, **node, doors);
  if (opened.ok()) {
    Log(LogLevel::kInfo, "serving",
        {{"model", std::string_view((*node)->card.name)},
         {"http_port", static_cast<int64_t>(doors.http->port())},
         {"grpc_port", static_cast<int64_t>(doors.grpc->port())},
         {"health_port", static_cast<int64_t>(doors.http->ops_port())},
         {"kv_bytes", static_cast<int64_t>((*node)->plan.kv)},
         {"mode", std::string_view(options.model.exact ? "exact" : "fast")}});
    if (options.print_examples) PrintExamples((*node)->card.name, doors);
    while (!failed.load() && !EndWithin(signals, 200, doors.key_file)) doors.key_file.Poll();
    Shutdown(options, signals, **node, doors);
  }
  // Doors first: their destructors still call the engine.
  doors.grpc.reset(), doors.http.reset(), doors.frontend.reset();
  doors.health.reset(), doors.engine.reset();
  node->reset();
  if (!opened.ok()) return fail(opened);
  Log(LogLevel::kInfo, "ended");
  FlushLogs();
  return failed.load() ? kExitEngineFailed : 0;
}

}  // namespace millrace::cli
