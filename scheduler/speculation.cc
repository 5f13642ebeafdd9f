#include "scheduler/speculation.h"

#include <algorithm>
#include <iterator>

namespace millrace::scheduler {
namespace {

constexpr int32_t kRateMin = 8;
constexpr int32_t kRateMax = kOne - 8;

}  // namespace

// Measured by executor/draft_bench (docs/performance.md, "Speculation"): layers and head by input
// tokens, in between straight lines, and the last one goes on; and what each sampled token costs.
int64_t StepCost(const StepLoad& load) {
  constexpr int64_t kSample = 48;
  struct Point {
    int32_t tokens;
    int32_t cost;
  };
  constexpr Point kPoints[] = {{1, 976},   {2, 1000},  {4, 1110},  {7, 1270},  {8, 1400},
                               {12, 1950}, {16, 2520}, {32, 5100}, {64, 9700}, {128, 19300}};
  size_t i = 1;
  while (i + 1 < std::size(kPoints) && load.tokens > kPoints[i].tokens) ++i;
  const Point& a = kPoints[i - 1];
  const Point& b = kPoints[i];
  const int64_t layers =
      a.cost + int64_t{b.cost - a.cost} * (load.tokens - a.tokens) / (b.tokens - a.tokens);
  return layers + kSample * load.yield / kOne;
}

int64_t ExpectedTokens(int32_t rate, int32_t guesses) {
  int64_t all_right = kOne;
  int64_t sum = 0;
  for (int32_t i = 0; i < guesses; ++i) {
    all_right = all_right * rate / kOne;
    sum += all_right;
  }
  return sum;
}

int32_t BestGuesses(const StepLoad& load, int32_t rate, int32_t most) {
  int32_t best = 0;
  int64_t best_yield = load.yield + load.yield / 20;
  int64_t best_cost = StepCost(load);
  for (int32_t k = 1; k <= most; ++k) {
    const StepLoad with{load.tokens + k, load.yield + ExpectedTokens(rate, k)};
    const int64_t cost = StepCost(with);
    if (with.yield * best_cost <= best_yield * cost) continue;
    best = k;
    best_yield = with.yield;
    best_cost = cost;
  }
  return best;
}

void Acceptance::Note(int32_t match, int32_t guesses, int32_t right) {
  int32_t& rate = rates_[Kind(match)];
  for (int32_t i = 0; i < right; ++i) rate += (kOne - rate) / 8;
  if (right < guesses) rate -= rate / 8;
  rate = std::clamp(rate, kRateMin, kRateMax);
}

void Acceptance::Rest(int32_t match) {
  const size_t kind = Kind(match);
  int32_t& rate = rates_[kind];
  if (rate < kFirst[kind]) rate += std::max(1, (kFirst[kind] - rate) / 64);
}

}  // namespace millrace::scheduler
