#include "executor/penalties.h"

namespace millrace::executor {

PenaltyCounts::Entry& PenaltyCounts::At(TokenId token) {
  const auto added = index_.try_emplace(token, static_cast<uint32_t>(entries_.size()));
  if (added.second) entries_.push_back({token, 0});
  return entries_[added.first->second];
}

void PenaltyCounts::Reset(std::span<const TokenId> history, int32_t prompt_tokens) {
  entries_.clear();
  index_.clear();
  for (size_t i = 0; i < history.size(); ++i) {
    Entry& entry = At(history[i]);
    if (i >= static_cast<size_t>(prompt_tokens)) ++entry.outputs;
  }
}

void PenaltyCounts::AddOutput(TokenId token) {
  ++At(token).outputs;
}

void PenaltyCounts::Apply(const SamplingParams& params, float* logits) const {
  for (const Entry& entry : entries_) {
    float& logit = logits[entry.token];
    // A factor makes a token less likely on both sides of zero.
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (entry.outputs == 0) continue;
    logit -= params.frequency_penalty * static_cast<float>(entry.outputs);
    logit -= params.presence_penalty;
  }
}

}  // namespace millrace::executor
