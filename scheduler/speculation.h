#pragma once
// Whether guesses of the next tokens pay, and how many: pure functions over integers, so that the
// same history gives the same plan on every machine.
//
// Checking k guesses makes a step of T input tokens one of T + k, for all of its sequences. It pays
// when the tokens Y that the step is expected to yield grow more than its time:
//
//     (Y + a(k)) / cost(T + k, Y + a(k))  >  Y / cost(T, Y),      a(k) = r + r^2 + ... + r^k
//
// where r is how often guesses of this kind have been right in this sequence.

#include <array>
#include <cstdint>
#include <vector>

#include "scheduler/ngram_index.h"

namespace millrace::scheduler {

// Rates and expected tokens are in 1/1024.
inline constexpr int32_t kOne = 1024;

// The step as far as it is planned: a sequence without guesses is one token and yields one.
struct StepLoad {
  int32_t tokens = 0;  // input tokens, guesses included
  int64_t yield = 0;   // tokens that it is expected to yield, in 1/kOne
};

// Its time; a step of one token costs kOne.
int64_t StepCost(const StepLoad& load);

// What guessing knows while a step is planned.
struct Drafting {
  bool on = false;           // the plan may have guesses
  int32_t decodes_left = 0;  // that have no row yet
  StepLoad load;             // of all decodes, those without a row included
  std::vector<TokenId> guesses;
};

// a(guesses), in 1/kOne.
int64_t ExpectedTokens(int32_t rate, int32_t guesses);
// How many guesses, at most `most`, give the most tokens a time; 0 when none beats none by 1/20.
int32_t BestGuesses(const StepLoad& load, int32_t rate, int32_t most);

// How often guesses were right, by how long the match was that they come from. Each verdict moves a
// rate by an eighth; while a kind of match is left unused its rate creeps back to where it began,
// so that it is tried again after some dozens of chances. Thread: engine.
class Acceptance {
 public:
  int32_t Rate(int32_t match) const { return rates_[Kind(match)]; }
  // `right` of `guesses` were; what follows the first wrong one says nothing.
  void Note(int32_t match, int32_t guesses, int32_t right);
  void Rest(int32_t match);
  const std::array<int32_t, 3>& rates() const { return rates_; }

 private:
  static constexpr std::array<int32_t, 3> kFirst = {300, 600, 850};
  static size_t Kind(int32_t match) { return match < NgramIndex::kLinked ? 0 : match < 8 ? 1 : 2; }
  std::array<int32_t, 3> rates_ = kFirst;
};

}  // namespace millrace::scheduler
