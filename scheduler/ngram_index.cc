#include "scheduler/ngram_index.h"

#include <algorithm>
#include <bit>

namespace millrace::scheduler {
namespace {

constexpr size_t kBucketsMin = 64;

// How many tokens before and at `a` and `b` agree, at most kLongest.
int32_t Agreement(std::span<const TokenId> tokens, int32_t a, int32_t b) {
  int32_t length = 0;
  while (length < NgramIndex::kLongest && length <= a &&
         tokens[static_cast<size_t>(a - length)] == tokens[static_cast<size_t>(b - length)]) {
    ++length;
  }
  return length;
}

}  // namespace

// A multiplicative hash of the `length` tokens that end at `end`. Tokens that collide cost a place
// in a chain, no more: what is found is compared.
size_t NgramIndex::Bucket(std::span<const TokenId> tokens, int32_t end, int32_t length) const {
  uint64_t hash = 0x9e3779b97f4a7c15;
  for (int32_t i = end - length + 1; i <= end; ++i) {
    hash = (hash ^ static_cast<uint32_t>(tokens[static_cast<size_t>(i)])) * 0xff51afd7ed558ccd;
    hash ^= hash >> 32;
  }
  return static_cast<size_t>(hash) & (heads_.size() - 1);
}

void NgramIndex::Enter(std::span<const TokenId> tokens, int32_t end) {
  links_.push_back(-1);
  if (end >= kShort - 1) pairs_[Bucket(tokens, end, kShort)] = end;
  if (end < kLinked - 1) return;
  int32_t& head = heads_[Bucket(tokens, end, kLinked)];
  links_.back() = head;
  head = end;
}

// All but the n-grams that end with the last token: those are what is asked for. When the tables
// are full they double and are filled anew, so that each token is entered twice at most on average.
void NgramIndex::Extend(std::span<const TokenId> tokens) {
  const size_t buckets = std::max(kBucketsMin, std::bit_ceil(tokens.size()));
  if (buckets > heads_.size()) {
    pairs_.assign(buckets, -1);
    heads_.assign(buckets, -1);
    links_.clear();
    entered_ = 0;
  }
  const auto last = static_cast<int32_t>(tokens.size()) - 1;
  for (; entered_ < last; ++entered_) Enter(tokens, entered_);
}

NgramMatch NgramIndex::Find(std::span<const TokenId> tokens) {
  NgramMatch match;
  const auto last = static_cast<int32_t>(tokens.size()) - 1;
  if (last < kShort) return match;
  Extend(tokens);
  int32_t place = last >= kLinked ? heads_[Bucket(tokens, last, kLinked)] : -1;
  for (int32_t i = 0; i < kPlaces && place >= 0; ++i, place = links_[static_cast<size_t>(place)]) {
    const int32_t length = Agreement(tokens, place, last);
    if (length >= kLinked && length > match.length) match = {place + 1, length};
    if (length >= kLongest) break;
  }
  if (match.next >= 0) return match;
  place = pairs_[Bucket(tokens, last, kShort)];
  if (place >= 0 && Agreement(tokens, place, last) >= kShort) match = {place + 1, kShort};
  return match;
}

void ReadOn(std::span<const TokenId> tokens, int32_t next, int32_t count,
            std::vector<TokenId>& guesses) {
  guesses.clear();
  const size_t period = tokens.size() - static_cast<size_t>(next);
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    guesses.push_back(i < period ? tokens[static_cast<size_t>(next) + i] : guesses[i - period]);
  }
}

}  // namespace millrace::scheduler
