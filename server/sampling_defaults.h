#pragma once
// What a request gets for what it leaves out, from what a model's generation_config.json says.

#include <string>

#include "absl/status/statusor.h"
#include "messages/model_card.h"
#include "text/generation_config.h"

namespace millrace::server {

// Numbers count whether or not do_sample is there, as in vLLM and SGLang. do_sample false means
// greedy: temperature 0, and the file's filters (top_p, top_k, min_p) are not taken, so that a
// request with a temperature of its own samples unfiltered; the repetition penalty holds for greedy
// answers too. What the file does not say stays neutral (never transformers' own top_k of 50).
//
// InvalidArgument, one line with `file_name`: a number that no request may have.
absl::StatusOr<SamplingDefaults> SamplingDefaultsFrom(const text::GenerationConfig& config,
                                                      const std::string& file_name);

}  // namespace millrace::server
