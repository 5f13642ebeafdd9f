#pragma once
// What a model's author recommends for sampling: generation_config.json.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"

namespace millrace::text {

// Defaults of one model; absent means that the file says nothing. A request's own values win.
struct GenerationConfig {
  std::vector<TokenId> end_tokens;  // each ends a sequence; in the file's order, no id twice
  TokenId bos = -1;                 // -1: none
  TokenId pad = -1;
  std::optional<bool> do_sample;  // false: greedy, whatever the numbers below say
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<int64_t> top_k;  // 0 and -1: off
  std::optional<double> repetition_penalty;
  std::optional<int64_t> max_new_tokens;  // >= 1
  // Keys that would change what the reference implementation generates and that are not among the
  // above (beams, n-gram bans, ...), for a warning at load.
  std::vector<std::string> not_applied;
};

// InvalidArgument, one line, names the file and the key: no JSON object, values of another type,
// numbers outside their range, ids that are negative.
absl::StatusOr<GenerationConfig> ParseGenerationConfig(std::string_view json,
                                                       const std::string& file_name);

}  // namespace millrace::text
