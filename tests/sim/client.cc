#include "tests/sim/client.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace millrace::sim {
namespace {

// After two preemptions a sequence comes back with its worst case reserved and is no victim any
// more, unless its client does not read (L3).
constexpr int32_t kPreemptionsMax = 2;
// A deadline is noticed when the step under way ends; two more when steps overlap.
constexpr MonoNanos kDeadlineSlack = 5 * kNanosPerMilli;

bool SameScore(const TokenLogprobs& a, const TokenLogprobs& b) {
  const auto same = [](const RankedToken& x, const RankedToken& y) {
    return x.token == y.token && x.logprob == y.logprob;
  };
  return a.logprob == b.logprob && a.rank == b.rank &&
         std::equal(a.top.begin(), a.top.end(), b.top.begin(), b.top.end(), same);
}

}  // namespace

Client::Client(const World& world, const ClientScript& script, const FakeClock& clock,
               Report report)
    : world_(world), script_(script), clock_(clock), report_(std::move(report)) {
  const testing::ModelSpec spec = {world.vocab_size, world.max_model_len, {2}};
  for (int32_t i = 0; i < script.request.n; ++i) {
    Choice& choice = choices_.emplace_back();
    choice.expected = testing::ExpectedChoice(script.request, i, spec, script.script);
    for (const TokenId token : script.request.prompt) {
      choice.context = testing::Extend(choice.context, token);
    }
  }
}

void Client::Fail(const TokenEvent& event, const std::string& what) {
  report_(
      absl::StrCat("request ", script_.request.id.value(), " choice ", event.choice, ": ", what));
}

SinkState Client::Push(TokenEvent&& event) {
  if (done_) Fail(event, "an event after the last one (S10)");
  if (event.choice < 0 || event.choice >= script_.request.n) {
    Fail(event, "no such choice");
    return SinkState::kReady;
  }
  // Refused after it was accepted (a drain, a dead device, never fits): one event for all choices.
  if (!installed_ && event.request_done && event.prompt_tokens == 0) {
    for (Choice& choice : choices_) choice.ended = true;
    done_ = refused_ = true;
    if (!FinishIsRight(choices_[0], event)) Fail(event, "refused without reason");
    return SinkState::kReady;
  }
  Choice& choice = choices_[static_cast<size_t>(event.choice)];
  if (choice.ended) Fail(event, "an event after its finish (S10)");
  CheckTokens(choice, event);
  if (event.choice == 0) CheckPromptLogprobs(event, events_of_choice_0_++ == 0);
  if (event.prompt_tokens != static_cast<int32_t>(script_.request.prompt.size()) ||
      event.cached_tokens < 0 || event.cached_tokens >= event.prompt_tokens) {
    Fail(event, "wrong usage of the prompt");
  }
  if (event.preemptions > kPreemptionsMax && !was_full_) {
    Fail(event, absl::StrCat(event.preemptions, " preemptions (L3)"));
  }
  if (event.finish != FinishReason::kNone) {
    CheckFinish(choice, event);
    choice.ended = true;
    choice.ended_at = device->submitted();
    ++*ended_now;
  }
  done_ = done_ || event.request_done;
  const bool all = std::all_of(choices_.begin(), choices_.end(), [](auto& c) { return c.ended; });
  if (all != event.request_done) Fail(event, "request_done is not with the last finish (S10)");
  if (script_.unread_max > 0 && ++unread_ >= script_.unread_max) {
    was_full_ = true;
    // What was in flight when it said so, and one last event for each choice.
    events_when_full_ += read_due ? 1 : 0;
    if (events_when_full_ > script_.request.n * (world_.depth + 2)) Fail(event, "is not paused");
    if (!read_due)
      next_read = script_.reads_every == kNever ? kNever : clock_.Now() + script_.reads_every;
    read_due = true;
    return SinkState::kFull;
  }
  return SinkState::kReady;
}

void Client::CheckTokens(Choice& choice, const TokenEvent& event) {
  const SamplingParams& sampling = script_.request.sampling;
  const size_t logprobs = sampling.logprobs >= 0 ? event.tokens.size() : 0;
  if (event.logprobs.size() != logprobs) Fail(event, "not one log-probability a token");
  for (size_t i = 0; i < event.tokens.size(); ++i) {
    const TokenId token = event.tokens[i];
    if (choice.tokens >= choice.expected.tokens.size() ||
        choice.expected.tokens[choice.tokens] != token) {
      return Fail(event, absl::StrCat("token ", choice.tokens, " is ", token,
                                      ", which it is not when alone (S16)"));
    }
    if (i < event.logprobs.size() &&
        !SameScore(event.logprobs[i], testing::ScoreToken(choice.context, token, sampling.logprobs,
                                                          world_.vocab_size))) {
      Fail(event, "wrong log-probabilities");
    }
    choice.context = testing::Extend(choice.context, token);
    ++choice.tokens;
  }
  if (!event.tokens.empty() && script_.request.deadline != kNever &&
      clock_.Now() > script_.request.deadline + kDeadlineSlack) {
    Fail(event, "tokens long after its deadline");
  }
}

void Client::CheckPromptLogprobs(const TokenEvent& event, bool first) {
  const Request& request = script_.request;
  if (!first || request.prompt_logprobs < 0 || event.tokens.empty()) {
    // Also those that end before their prefill has, and those with max_tokens 0.
    const bool scored_only = request.stop.max_tokens == 0 && event.finish == FinishReason::kLength;
    const bool may = first && request.prompt_logprobs >= 0 &&
                     (scored_only || event.finish == FinishReason::kStop);
    if (!event.prompt_logprobs.empty() && !may) Fail(event, "prompt scores out of place");
    if (!scored_only) return;
  }
  const auto expected = testing::ExpectedPromptLogprobs(request, world_.vocab_size);
  if (!std::equal(expected.begin(), expected.end(), event.prompt_logprobs.begin(),
                  event.prompt_logprobs.end(), SameScore)) {
    Fail(event, "wrong prompt scores");
  }
}

void Client::CheckFinish(const Choice& choice, const TokenEvent& event) {
  if (!FinishIsRight(choice, event)) {
    Fail(event, absl::StrCat("ended with ", FinishReasonName(event.finish), " after ",
                             choice.tokens, " tokens, without reason"));
  }
  auto counted = static_cast<int32_t>(choice.tokens);
  if (event.finish == FinishReason::kStop) {
    counted = event.stop_token >= 0 ? counted + 1 : script_.stop_after;
  }
  if (event.completion_tokens != counted) {
    Fail(event, absl::StrCat("counts ", event.completion_tokens, " tokens, not ", counted));
  }
}

bool Client::FinishIsRight(const Choice& choice, const TokenEvent& event) const {
  const bool whole = choice.tokens == choice.expected.tokens.size();
  const auto length = static_cast<int32_t>(script_.request.prompt.size() + choice.tokens);
  switch (event.finish) {
    case FinishReason::kStop:
      if (event.stop_token < 0) return stop_sent && event.choice == script_.stop_choice;
      return whole && choice.expected.finish == FinishReason::kStop &&
             choice.expected.stop_token == event.stop_token;
    case FinishReason::kLength:
      return whole && choice.expected.finish == FinishReason::kLength;
    case FinishReason::kError:
      if (world_.device_fails_at != 0 && device->submitted().value() >= world_.device_fails_at) {
        return true;
      }
      return whole && choice.expected.finish == FinishReason::kError;
    case FinishReason::kNeverFits: {
      scheduler::SchedulerConfig config;
      config.block_tokens = world_.block_tokens;
      config.kv_groups = world_.groups;
      return !scheduler::FitsAlone(config, length);
    }
    case FinishReason::kCancelled:
      return cancel_sent;
    case FinishReason::kDeadline:
      return script_.request.deadline <= clock_.Now();
    case FinishReason::kSlowConsumer:
      return read_due;
    case FinishReason::kShutdown:
      return draining && clock_.Now() >= world_.drain_deadline;
    case FinishReason::kNone:
      break;
  }
  return false;
}

}  // namespace millrace::sim
