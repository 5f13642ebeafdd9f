#include "tests/support/fake_model.h"

#include <algorithm>
#include <bit>

namespace millrace::testing {

// The finalizer of SplitMix64 (Steele, Lea, Flood 2014) over both words.
uint64_t MixHash(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9e3779b97f4a7c15 + b + 0x632be59bd9b4e019;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

TokenId SampleToken(ContextHash context, const SampleArgs& args) {
  const SamplingParams& s = *args.sampling;
  uint64_t hash = context;
  if (!s.greedy()) {
    hash = MixHash(hash, s.seed);
    hash = MixHash(hash, static_cast<uint64_t>(args.choice));
    hash = MixHash(hash, static_cast<uint64_t>(args.sample_index));
    hash = MixHash(hash, std::bit_cast<uint32_t>(s.temperature));
  }
  if (args.history != 0) hash = MixHash(hash, args.history);
  for (const auto& bias : s.logit_bias) {
    hash = MixHash(hash, static_cast<uint64_t>(bias.first));
  }
  const bool banning = args.sample_index < args.min_tokens;
  while (true) {
    const auto token = static_cast<TokenId>(hash % static_cast<uint64_t>(args.vocab_size));
    const auto& banned = args.banned_until_min;
    if (!banning || std::find(banned.begin(), banned.end(), token) == banned.end()) return token;
    hash = MixHash(hash, 1);
  }
}

uint64_t HistoryHash(std::span<const TokenId> history) {
  uint64_t sum = 1;
  for (const TokenId token : history) sum += MixHash(7, static_cast<uint64_t>(token));
  return sum;
}

TokenLogprobs ScoreToken(ContextHash context, TokenId token, int32_t top, int32_t vocab_size) {
  const uint64_t hash = MixHash(context, static_cast<uint64_t>(token) ^ 0x5c0);
  TokenLogprobs score;
  score.logprob = -static_cast<float>(hash % 4096) / 256.0f;
  score.rank = 1 + static_cast<int32_t>(hash % static_cast<uint64_t>(vocab_size));
  for (int32_t i = 0; i < top; ++i) {
    const uint64_t h = MixHash(context, static_cast<uint64_t>(i) ^ 0x709);
    score.top.push_back({static_cast<TokenId>(h % static_cast<uint64_t>(vocab_size)),
                         -static_cast<float>(i) - static_cast<float>(h % 256) / 512.0f});
  }
  return score;
}

Expected ExpectedChoice(const Request& request, int32_t choice, const ModelSpec& spec,
                        const SequenceScript& script) {
  Expected expected;
  std::vector<TokenId> stops = request.stop.stop_token_ids;
  if (!request.stop.ignore_eos) {
    stops.insert(stops.end(), spec.end_tokens.begin(), spec.end_tokens.end());
  }
  std::vector<TokenId> history = request.prompt;
  ContextHash context = kEmptyContext;
  for (const TokenId token : request.prompt) context = Extend(context, token);
  const auto room = spec.max_model_len - static_cast<int32_t>(request.prompt.size());
  const int32_t limit = std::min(request.stop.max_tokens, room);
  for (int32_t i = 0; i < limit; ++i) {
    if (i == script.nan_at) {
      expected.finish = FinishReason::kError;
      return expected;
    }
    SampleArgs args;
    args.sampling = &request.sampling;
    args.choice = choice;
    args.sample_index = i;
    args.min_tokens = request.stop.min_tokens;
    args.banned_until_min = stops;
    args.vocab_size = spec.vocab_size;
    if (request.sampling.penalized()) args.history = HistoryHash(history);
    TokenId token = SampleToken(context, args);
    if (i == script.end_at && i >= request.stop.min_tokens) token = script.end_token;
    if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
      expected.finish = FinishReason::kStop;
      expected.stop_token = token;
      return expected;
    }
    expected.tokens.push_back(token);
    history.push_back(token);
    context = Extend(context, token);
  }
  expected.finish = FinishReason::kLength;
  return expected;
}

std::vector<TokenLogprobs> ExpectedPromptLogprobs(const Request& request, int32_t vocab_size) {
  std::vector<TokenLogprobs> scores;
  ContextHash context = kEmptyContext;
  for (size_t i = 0; i + 1 < request.prompt.size(); ++i) {
    context = Extend(context, request.prompt[i]);
    scores.push_back(
        ScoreToken(context, request.prompt[i + 1], request.prompt_logprobs, vocab_size));
  }
  return scores;
}

}  // namespace millrace::testing
