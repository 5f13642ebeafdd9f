#pragma once
// What everyone may know about the model that is served.

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"

namespace millrace {

// What a request gets for what it leaves out: the neutral values, or what the model's author says.
struct SamplingDefaults {
  double temperature = 1;  // [0, 2]; 0: greedy
  double top_p = 1;        // [0, 1]
  double min_p = 0;        // [0, 1]
  double repetition_penalty = 1;
  int64_t top_k = 0;            // 0: off
  int64_t chat_max_tokens = 0;  // 0: what the prompt leaves of the context
  bool from_model = false;      // the model's generation_config.json says at least one of them
  friend bool operator==(const SamplingDefaults&, const SamplingDefaults&) = default;
};

struct ModelCard {
  std::string name;          // what clients send as "model"
  std::string root;          // path it was loaded from
  std::string architecture;  // "llama"
  std::string format;        // "GGUF Q4_1, Q8_0 embedding"
  int64_t created = 0;       // Unix seconds of load
  int32_t vocab_size = 0;
  int32_t context_length = 0;       // of the model
  int32_t max_model_len = 0;        // served: <= context_length
  std::vector<TokenId> end_tokens;  // any of them ends a sequence
  bool has_chat_template = false;
  SamplingDefaults sampling;
  std::string fingerprint;  // "fp_…": build, weights and compute mode; equal means reproducible
};

}  // namespace millrace
