// A body to a judged request: nothing crashes, what passes is within the limits, and errors are
// short and echo nothing. The first byte chooses the route.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/check.h"
#include "server/openai_format.h"
#include "server/openai_parse.h"
#include "server/validate.h"

namespace {

millrace::ModelCard Card() {
  millrace::ModelCard card;
  card.name = "m";
  card.vocab_size = 1000;
  card.max_model_len = 4096;
  card.has_chat_template = true;
  return card;
}

void CheckError(const millrace::server::ApiError& error) {
  CHECK(error.shape().http >= 400 && error.shape().http < 500);
  CHECK(error.message.size() < 2000);
  CHECK(millrace::Json::Parse(millrace::server::ErrorBody(error)).ok());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace millrace::server;
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 4 >= 2) {
    if (data[0] % 4 == 2) {
      auto parsed = ParseTokenize(body);
      if (auto* error = std::get_if<ApiError>(&parsed)) CheckError(*error);
    } else {
      auto parsed = ParseDetokenize(body);
      if (auto* error = std::get_if<ApiError>(&parsed)) CheckError(*error);
    }
    return 0;
  }
  auto parsed = data[0] % 4 == 0 ? ParseChat(body) : ParseCompletion(body);
  if (auto* error = std::get_if<ApiError>(&parsed)) {
    CheckError(*error);
    return 0;
  }
  auto& request = std::get<GenerationRequest>(parsed);
  const Limits limits;
  const millrace::ModelCard card = Card();
  if (auto error = Validate(card, limits, request)) {
    CheckError(*error);
    return 0;
  }
  CHECK(*request.n >= 1 && *request.n <= 128);
  CHECK(request.stop.strings.size() <= 4);
  const millrace::SamplingParams sampling = ToSamplingParams(request, 1);
  CHECK(sampling.temperature >= 0 && sampling.temperature <= 2);
  CHECK(sampling.top_p > 0 && sampling.top_p <= 1);
  CHECK(sampling.repetition_penalty > 0 && sampling.repetition_penalty <= 2);
  CHECK(sampling.logprobs >= -1 && sampling.logprobs <= 20);
  for (const auto& bias : sampling.logit_bias) {
    CHECK(bias.first >= 0 && bias.first < card.vocab_size);
    CHECK(bias.second >= -100 && bias.second <= 100);
  }
  const millrace::StopParams stop = ToStopParams(request);
  CHECK(stop.max_tokens >= 0 && stop.min_tokens >= 0);
  return 0;
}
