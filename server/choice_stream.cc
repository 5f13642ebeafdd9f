#include "server/choice_stream.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/utf8.h"

namespace millrace::server {
namespace {

// JSON has no infinity; OpenAI's API says -9999 for "as good as impossible".
constexpr float kLogprobMin = -9999.0f;

TokenScore ToScore(const text::Tokenizer& tokenizer, TokenId id, float logprob, int32_t rank) {
  TokenScore score;
  score.id = id;
  score.logprob = logprob >= kLogprobMin ? logprob : kLogprobMin;
  score.rank = rank;
  score.bytes = std::string(tokenizer.TokenBytes(id));
  score.text = ReplaceInvalidUtf8(score.bytes);
  return score;
}

}  // namespace

TokenLogprobText ToText(const text::Tokenizer& tokenizer, TokenId id, const TokenLogprobs* scores) {
  TokenLogprobText out;
  out.scored = scores != nullptr;
  out.token =
      ToScore(tokenizer, id, out.scored ? scores->logprob : 0, out.scored ? scores->rank : 0);
  if (!out.scored) return out;
  out.top.reserve(scores->top.size());
  int32_t place = 0;
  for (const RankedToken& ranked : scores->top) {
    out.top.push_back(ToScore(tokenizer, ranked.token, ranked.logprob, ++place));
  }
  return out;
}

ChoiceStream::ChoiceStream(const ChoiceOptions& options, int32_t index)
    : options_(options),
      detokenizer_(*options.tokenizer, options.skip_special),
      matcher_(*options.stops),
      offset_(options.offset) {
  pending_.index = index;
}

ChoiceStream::Effect ChoiceStream::Apply(const TokenEvent& event) {
  Effect effect;
  if (finish_ != FinishReason::kNone) return effect;
  const int64_t before = usage_.completion_tokens;
  usage_.prompt_tokens = event.prompt_tokens;
  usage_.cached_tokens = event.cached_tokens;
  for (size_t i = 0; i < event.tokens.size() && matched_ < 0; ++i) {
    const TokenLogprobs* scores = i < event.logprobs.size() ? &event.logprobs[i] : nullptr;
    ++usage_.completion_tokens;
    AppendToken(event.tokens[i], scores, static_cast<int32_t>(usage_.completion_tokens));
  }
  if (matched_ < 0) usage_.completion_tokens = event.completion_tokens;
  if (matched_ >= 0) {
    effect.stop_found = event.finish == FinishReason::kNone;
    End(FinishReason::kStop, -1);
  } else if (event.finish != FinishReason::kNone) {
    End(event.finish, event.stop_token);
  }
  effect.counted = static_cast<int32_t>(usage_.completion_tokens - before);
  return effect;
}

void ChoiceStream::AppendToken(TokenId id, const TokenLogprobs* scores, int32_t ordinal) {
  pending_.tokens.push_back(id);
  if (scores != nullptr) {
    pending_.logprobs.push_back(ToText(*options_.tokenizer, id, scores));
    pending_.logprobs.back().text_offset = offset_;
  }
  const std::string piece = detokenizer_.Append(id);
  if (scores != nullptr) offset_ += static_cast<int64_t>(CountCodePoints(piece));
  ShowText(piece, ordinal > options_.min_tokens);
}

void ChoiceStream::ShowText(std::string_view piece, bool look_for_stops) {
  if (options_.stops->empty() || !look_for_stops) {
    pending_.text += piece;
    return;
  }
  text::StopMatcher::Output output = matcher_.Append(piece, options_.include_stop);
  pending_.text += output.text;
  matched_ = output.matched;
}

void ChoiceStream::End(FinishReason reason, TokenId stop_token) {
  if (matched_ < 0) {
    const std::string rest = detokenizer_.Flush();
    const bool looked = usage_.completion_tokens > options_.min_tokens;
    if (!rest.empty()) ShowText(rest, looked);
    // The last bytes may complete a stop string, though hardly ever.
    if (matched_ < 0) {
      pending_.text += matcher_.Flush();
    } else {
      reason = reason == FinishReason::kLength ? FinishReason::kStop : reason;
    }
  }
  finish_ = reason;
  pending_.finish = reason;
  if (matched_ >= 0) pending_.stop_string = options_.stops->string(matched_);
  const std::vector<TokenId>& ids = *options_.stop_token_ids;
  if (std::find(ids.begin(), ids.end(), stop_token) != ids.end()) pending_.stop_token = stop_token;
}

bool ChoiceStream::HasOutput() const {
  return !pending_.text.empty() || pending_.finish != FinishReason::kNone;
}

OutputDelta ChoiceStream::Take() {
  OutputDelta taken = std::move(pending_);
  taken.usage = usage_;
  pending_ = OutputDelta();
  pending_.index = taken.index;
  return taken;
}

}  // namespace millrace::server
