#pragma once
// What everyone may know about the model that is served.

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"

namespace millrace {

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
  std::string fingerprint;  // "fp_…": build, weights and compute mode; equal means reproducible
};

}  // namespace millrace
