#include "cli/options.h"

#include <CLI/CLI.hpp>
#include <cstdlib>

#include "kernels/stream.h"
#include "messages/step_plan.h"

namespace millrace::cli {
namespace {

void AddModelPath(CLI::App& app, ModelOptions& o) {
  app.add_option("model", o.model,
                 "Path of a .gguf file (the first part of a split one) or of a Hugging Face "
                 "directory")
      ->required();
}

// How many and how long.
void AddCapacityFlags(CLI::App& app, ModelOptions& o) {
  app.add_option("--max-model-len", o.max_model_len, "Prompt + output tokens of one sequence")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24));
  app.add_flag("--force-model-len", o.force_model_len,
               "Allow --max-model-len above what the model was made for");
  app.add_option("--max-num-seqs", o.max_num_seqs, "Sequences running at once")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app.add_option("--max-num-batched-tokens", o.max_batched_tokens, "Input tokens of one step")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app.add_option("--kv-cache-bytes", o.kv_cache_bytes,
                 "KV memory, as 512MiB or 2GB (default: a quarter of the memory there is)")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--kv-reference-len", o.kv_reference_len,
                 "Length of a usual sequence: divides KV memory between layers that see all and "
                 "those with a window (default: four windows)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24));
  app.add_option("--block-size", o.block_tokens, "Tokens of one KV block")
      ->check(CLI::IsMember({16, 32, 64}))
      ->capture_default_str();
}

// How it is computed.
void AddComputeFlags(CLI::App& app, ModelOptions& o) {
  const auto set_numerics = [&o](const std::string& numerics) {
    o.exact = numerics == "exact";
    o.batch_invariant = numerics == "batch-invariant";
  };
  CLI::Option* const numerics =
      app.add_option_function<std::string>(
             "--numerics", set_numerics,
             "default: integer kernels; batch-invariant: those of them whose answers have the same "
             "bytes in any batch (all but those of --cpu-tier amx, so elsewhere it costs nothing); "
             "exact: fp32, and the same bytes in any batch (docs/numerics.md)")
          ->check(CLI::IsMember({"default", "batch-invariant", "exact"}));
  app.add_option_function<std::string>("--compute-mode", set_numerics,
                                       "The older name: fast is --numerics default; exact")
      ->check(CLI::IsMember({"fast", "exact"}))
      ->excludes(numerics);
  app.add_option(
         "--kv-dtype,--kv-cache-dtype", o.kv_dtype,
         "auto: bf16, and f32 in exact mode; int8: half of bf16, with an error (docs/kv_cache.md)")
      ->check(CLI::IsMember({"auto", "f32", "bf16", "int8"}))
      ->capture_default_str();
  app.add_option_function<std::string>(
         "--head-dtype", [&o](const std::string& type) { o.source_head = type == "source"; },
         "auto: in fast mode the 16-bit head of a quantized model is made int8 "
         "(docs/formats.md); source: it is not")
      ->check(CLI::IsMember({"auto", "source"}));
  app.add_option("--threads", o.threads, "Kernel threads (0: every usable CPU)")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--cpu-tier", o.cpu_tier,
                 "Instruction set of the kernels: scalar, avx2, avx-vnni, avx512, avx512-vnni, amx "
                 "(auto: the best of this machine; amx takes part with --numerics default only, "
                 "and amx-emulated gives its answers slowly on any machine)")
      ->check([](const std::string& name) {
        return std::string(kernels::FindIsaTier(name).status().message());
      })
      ->capture_default_str();
}

void AddModelFlags(CLI::App& app, ModelOptions& o) {
  AddModelPath(app, o);
  AddCapacityFlags(app, o);
  AddComputeFlags(app, o);
}

// Where programs of this user keep what they can make again; empty where there is no home.
std::string AutoCacheDir() {
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache == '/') return std::string(cache) + "/millrace/packed";
  const char* const home = std::getenv("HOME");
  if (home != nullptr && *home == '/') return std::string(home) + "/.cache/millrace/packed";
  return "";
}

void AddPackedCacheFlags(CLI::App& app, ServeOptions& o) {
  app.add_option_function<std::string>(
         "--packed-cache",
         [&o](const std::string& where) {
           o.packed_cache = where == "auto" ? AutoCacheDir() : where == "off" ? "" : where;
         },
         "Keep packed weights for the next start, which maps them: off, auto "
         "(~/.cache/millrace/packed) or a directory. Takes as much disk as the weights "
         "(default: off; docs/packed_cache.md)")
      ->type_name("off|auto|DIR")
      ->check([](const std::string& where) -> std::string {
        if (where.empty()) return "off, auto or a directory";
        return where == "auto" && AutoCacheDir().empty() ? "auto needs $HOME; give a directory"
                                                         : "";
      });
  app.add_option("--packed-cache-bytes", o.packed_cache_bytes,
                 "Most that the packed cache may hold, as 32GiB; the longest unused goes first")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  app.add_flag("--verify,--packed-cache-verify", o.packed_cache_verify,
               "Check every byte of cached weights at the start, not only when they are written");
}

void AddServeFlags(CLI::App& app, ServeOptions& o) {
  AddModelFlags(app, o.model);
  AddPackedCacheFlags(app, o);
  app.add_option("--served-model-name", o.served_names,
                 "Name that clients send (default: the file's)")
      ->expected(1);
  app.add_option_function<std::string>(
         "--generation-config",
         [&o](const std::string& from) { o.generation_config = from == "auto"; },
         "auto: what a request leaves out comes from the model's generation_config.json; none: "
         "from the APIs' neutral defaults. End tokens hold either way (default: auto)")
      ->check(CLI::IsMember({"auto", "none"}));
  app.add_option("--host", o.host, "Address to listen on; others than loopback need --api-key-file")
      ->capture_default_str();
  const auto port = CLI::Range(0, 65535);
  app.add_option("--port", o.port, "HTTP")->check(port)->capture_default_str();
  app.add_option("--grpc-port", o.grpc_port, "gRPC")->check(port)->capture_default_str();
  app.add_option("--health-port", o.health_port, "Health and metrics only, without keys")
      ->check(port)
      ->capture_default_str();
  app.add_flag("--enable-prefix-caching,!--no-enable-prefix-caching", o.prefix_caching,
               "Reuse the KV of common prefixes (default: on)");
  app.add_option(
         "--mixed-prefill-tokens", o.mixed_prefill_tokens,
         "Prompt tokens of a step in which other sequences decode (4 for each of them, if that "
         "is more): less makes gaps between tokens shorter, more the first token earlier")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app.add_option_function<std::string>(
         "--speculation", [&o](const std::string& how) { o.speculation = how == "ngram"; },
         "ngram: guess the next tokens from what the text repeats, and check several in one step "
         "when it pays; none (default; docs/speculation.md)")
      ->check(CLI::IsMember({"none", "ngram"}));
  app.add_option("--speculation-max-tokens", o.speculation_tokens,
                 "Guesses for one sequence in one step")
      ->check(CLI::Range(1, kGuessesMax))
      ->capture_default_str();
  app.add_option("--max-queued-requests", o.max_queued_requests,
                 "Unfinished requests; more get 503")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--api-key-file", o.api_key_file,
                 "One key a line, `key` or `name:key`; read again when it changes, and at SIGHUP");
  app.add_option("--shutdown-timeout", o.shutdown_timeout_s,
                 "Seconds that running requests get after SIGTERM")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  app.add_option("--otlp-traces-endpoint", o.otlp_endpoint,
                 "OTLP/gRPC collector, as http://host:4317");
  app.add_option("--log-format", o.log_format, "")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  app.add_option("--log-level", o.log_level, "")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  app.add_flag("--grpc-reflection,!--no-grpc-reflection", o.reflection,
               "gRPC reflection (default: on)");
  app.add_flag("--print-examples", o.print_examples, "Print commands to try once it serves");
}

void AddChatFlags(CLI::App& app, ChatOptions& o) {
  app.add_option("message", o.message, "One question; without it, a conversation on the terminal");
  app.add_option("--address", o.address, "gRPC address of a running node")->capture_default_str();
  app.add_option("--model", o.model, "Served model name (default: the first one)");
  app.add_option("--system", o.system, "System message");
  app.add_option("--temperature", o.temperature, "Default: as the model's author says, else 0")
      ->check(CLI::Range(0.0, 2.0));
  app.add_option("--max-tokens", o.max_tokens,
                 "Default: as the model's author says, else 512 (half of a small context)")
      ->check(CLI::Range(1, 1 << 24));
  app.add_option("--api-key-file", o.api_key_file, "File whose first line is the key");
}

// Sizes are checked against the model when it is open.
void AddBenchFlags(CLI::App& app, BenchOptions& o) {
  AddModelPath(app, o.model);
  AddComputeFlags(app, o.model);
  app.add_option("--batches", o.batches, "Sequences that decode at once, as 1,8,32")
      ->delimiter(',')
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app.add_option("--contexts", o.contexts,
                 "Tokens that each sequence holds before it decodes (default: 128,1024)")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 24));
  app.add_option_function<int64_t>(
         "--prefill",
         [&o](int64_t tokens) {
           o.prefill = tokens;
           o.prefill_given = true;
         },
         "Tokens of the prompt (default: 512; 0: no prefill)")
      ->check(CLI::Range(0, 1 << 24));
  app.add_option("--steps", o.steps, "Steps of each decode measurement")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app.add_option("--repeats", o.repeats,
                 "Prompts of the prefill measurement after one to warm up; the best counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--probe-seconds", o.probe_seconds,
                 "Time of each probe of the machine's limits, before and after (0: none)")
      ->check(CLI::Range(0.0, 60.0))
      ->capture_default_str();
}

void ReadEnvironment(ServeOptions& o) {
  if (!o.otlp_endpoint.empty()) return;
  for (const char* name : {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"}) {
    if (const char* value = std::getenv(name); value != nullptr && *value != '\0') {
      o.otlp_endpoint = value;
      return;
    }
  }
}

}  // namespace

CommandLine ParseCommandLine(int argc, char** argv) {
  CommandLine line;
  CLI::App app("Millrace: a multi-tenant LLM serving node", "millrace");
  app.require_subcommand(1);
  CLI::App* serve = app.add_subcommand("serve", "Serve a model over gRPC and HTTP");
  AddServeFlags(*serve, line.serve);
  CLI::App* plan =
      app.add_subcommand("plan", "Print what a model needs against the memory there is");
  ModelOptions planned;
  AddModelFlags(*plan, planned);
  plan->add_flag("--json", line.json, "As JSON");
  CLI::App* inspect = app.add_subcommand("inspect", "List what is in a model");
  std::string inspected;
  inspect->add_option("model", inspected, "Path of a .gguf file or of a Hugging Face directory")
      ->required();
  inspect->add_flag("--json", line.json, "As JSON");
  CLI::App* bench = app.add_subcommand(
      "bench", "Measure a model's prefill and decode against this machine's limits");
  AddBenchFlags(*bench, line.bench);
  bench->add_flag("--json", line.json, "As one line of JSON");
  CLI::App* chat = app.add_subcommand("chat", "Talk to a running node");
  AddChatFlags(*chat, line.chat);
  CLI::App* version = app.add_subcommand("version", "Print the version");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {  // CLI11 throws; it stays in this file.
    line.exit_code = app.exit(error) == 0 ? 0 : 2;
    return line;
  }
  if (serve->parsed()) line.command = Command::kServe;
  if (chat->parsed()) line.command = Command::kChat;
  if (bench->parsed()) line.command = Command::kBench;
  if (version->parsed()) line.command = Command::kVersion;
  if (plan->parsed()) {
    line.command = Command::kPlan;
    line.serve.model = planned;
  }
  if (inspect->parsed()) {
    line.command = Command::kInspect;
    line.serve.model.model = inspected;
  }
  ReadEnvironment(line.serve);
  return line;
}

}  // namespace millrace::cli
