#pragma once
// Judges a GenerationRequest, whole, once, for both doors. What passes is bounded: nothing that
// comes after may fail on its size, type or range (the prompt's length in tokens aside, which only
// the tokenizer knows).

#include <optional>

#include "messages/model_card.h"
#include "messages/request.h"
#include "server/api_error.h"
#include "server/generation.h"
#include "server/limits.h"

namespace millrace::server {

// nullopt: valid. Normalizes in place: content parts of messages are joined to strings; n,
// truncation_side and what the card has sampling defaults for are filled in. Errors name the
// parameter as OpenAI's API does.
std::optional<ApiError> Validate(const ModelCard& card, const Limits& limits,
                                 GenerationRequest& request);

// The checks that need only the model's name (also for Tokenize).
std::optional<ApiError> ValidateModel(const ModelCard& card,
                                      const std::optional<std::string>& model, bool required);

// The ranges of the sampling numbers that are there; also for a model's own defaults.
std::optional<ApiError> ValidateRanges(const SamplingFields& fields);

// Sampling and stop parameters for the engine. REQUIRES: Validate returned nullopt.
// `max_tokens` stays 0 when the client gave none: PreparePrompts sets it from the prompt's length.
SamplingParams ToSamplingParams(const GenerationRequest& request, uint64_t drawn_seed);
StopParams ToStopParams(const GenerationRequest& request);

}  // namespace millrace::server
