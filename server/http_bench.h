#pragma once
// For tests: an HTTP server over the scripted engine, whose steps a thread takes.

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "base/check.h"
#include "server/http_client.h"
#include "server/http_server.h"
#include "server/testing.h"

namespace millrace::server::testing {

struct HttpBench : Bench {
  explicit HttpBench(ScriptedEngine::Script script, HttpServerOptions options = {},
                     std::string_view keys = "", bool step = true)
      : Bench(std::move(script), Steady()) {
    if (!keys.empty()) CHECK(api_keys.Load(keys).ok());
    options.port = options.ops_port = 0;
    DoorDeps deps;
    deps.frontend = frontend.get();
    deps.keys = &api_keys;
    deps.health = &health;
    deps.metrics = &metrics;
    deps.clock = &clock;
    server = std::make_unique<HttpServer>(options, deps);
    CHECK(server->Start().ok());
    if (step) StartStepping();
  }
  ~HttpBench() {
    stop = true;
    if (stepping.joinable()) stepping.join();
    server.reset();
  }
  static FrontendOptions Steady() {
    FrontendOptions options;
    options.id_seed = 1;
    return options;
  }
  void StartStepping() {
    stepping = std::thread([this] {
      while (!stop) {
        engine.Step();
        std::this_thread::yield();
      }
    });
  }
  ClientReply Ask(std::string_view bytes) {
    RawClient client(server->port());
    client.Send(bytes);
    return client.Read();
  }

  ApiKeys api_keys;
  std::unique_ptr<HttpServer> server;
  std::atomic<bool> stop = false;
  std::thread stepping;
};

}  // namespace millrace::server::testing
