#include "server/sampling_defaults.h"

#include <algorithm>

#include "server/validate.h"

namespace millrace::server {

absl::StatusOr<SamplingDefaults> SamplingDefaultsFrom(const text::GenerationConfig& config,
                                                      const std::string& file_name) {
  SamplingFields given;
  if (config.do_sample.value_or(true)) {
    given.temperature = config.temperature;
    given.top_p = config.top_p;
    given.min_p = config.min_p;
    given.top_k = config.top_k;
  } else {
    given.temperature = 0;
  }
  given.repetition_penalty = config.repetition_penalty;
  if (const std::optional<ApiError> error = ValidateRanges(given)) {
    return absl::InvalidArgumentError(file_name + ": " + error->message +
                                      " --generation-config none leaves its defaults out.");
  }
  SamplingDefaults defaults;
  defaults.from_model = config.do_sample || given.temperature || given.top_p || given.min_p ||
                        given.top_k || given.repetition_penalty || config.max_new_tokens;
  defaults.temperature = given.temperature.value_or(defaults.temperature);
  defaults.top_p = given.top_p.value_or(defaults.top_p);
  defaults.min_p = given.min_p.value_or(defaults.min_p);
  defaults.repetition_penalty = given.repetition_penalty.value_or(defaults.repetition_penalty);
  defaults.top_k = std::max<int64_t>(0, given.top_k.value_or(0));
  defaults.chat_max_tokens = config.max_new_tokens.value_or(0);
  return defaults;
}

}  // namespace millrace::server
