#pragma once
// The command line, in one place. Flags are named as in vLLM where the meaning is the same.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace millrace::cli {

// What `serve` and `plan` share: how the model is to be run.
struct ModelOptions {
  std::string model;             // path of a .gguf file or of a Hugging Face directory
  int64_t max_model_len = 0;     // 0: the model's own
  bool force_model_len = false;  // max_model_len may exceed the model's own
  int64_t max_num_seqs = 256;    // sequences running at once
  int64_t max_batched_tokens = 512;
  uint64_t kv_cache_bytes = 0;  // 0: a quarter of the memory there is
  int64_t block_tokens = 32;
  bool exact = false;
  bool batch_invariant = false;   // no kernels whose bytes depend on the batch
  int64_t kv_reference_len = 0;   // 0: by the model's window
  std::string kv_dtype = "auto";  // auto f32 bf16 int8
  bool source_head = false;       // the output head as in the file, also in fast mode
  int threads = 0;                // 0: every usable CPU
  std::string cpu_tier = "auto";  // a kernels::IsaTier by name; auto: the best there is
};

struct ServeOptions {
  ModelOptions model;
  bool generation_config = true;  // the author's sampling defaults hold
  std::vector<std::string> served_names;
  std::string host = "127.0.0.1";
  int port = 8000;  // 0: any free one, said in the "serving" line
  int grpc_port = 8001;
  int health_port = 8002;
  bool prefix_caching = true;
  int mixed_prefill_tokens = 128;  // prompt tokens of a step in which others decode
  bool speculation = false;        // guesses by prompt look-up
  int speculation_tokens = 8;      // guesses in one step of a sequence, at most
  int64_t max_queued_requests = 4096;
  std::string packed_cache;  // directory of packed weights (docs/packed_cache.md); empty: none
  uint64_t packed_cache_bytes = uint64_t{32} << 30;
  bool packed_cache_verify = false;
  std::string api_key_file;
  double shutdown_timeout_s = 30;
  std::string otlp_endpoint;
  std::string log_format = "text";
  std::string log_level = "info";
  bool reflection = true;
  bool print_examples = false;
};

struct ChatOptions {
  std::string address = "127.0.0.1:8001";
  std::string model;
  std::string message;  // one question, then exit; empty: a conversation on the terminal
  std::string system;
  std::string api_key_file;
  std::optional<double> temperature;  // absent: as the model's author says, else 0
  std::optional<int64_t> max_tokens;  // absent: as the model's author says, else 512
};

struct BenchOptions {
  ModelOptions model;
  std::vector<int64_t> batches = {1, 8, 32};
  std::vector<int64_t> contexts;  // empty: of 128 and 1,024 those that the model can hold
  int64_t prefill = 512;          // 0: not measured; cut to the model's context unless given
  bool prefill_given = false;
  int64_t steps = 64;
  int64_t repeats = 3;
  double probe_seconds = 0.5;  // of each of the four probes; 0: none
};

enum class Command { kNone, kServe, kPlan, kChat, kInspect, kBench, kVersion };

struct CommandLine {
  Command command = Command::kNone;
  ServeOptions serve;
  ChatOptions chat;
  BenchOptions bench;
  bool json = false;  // plan, inspect, bench: machine-readable
  int exit_code = 0;  // with kNone: leave with this (help was shown, or the line was wrong)
};

// Prints help and errors itself. Environment: OTEL_EXPORTER_OTLP_TRACES_ENDPOINT and
// OTEL_EXPORTER_OTLP_ENDPOINT stand in for --otlp-traces-endpoint.
CommandLine ParseCommandLine(int argc, char** argv);

}  // namespace millrace::cli
