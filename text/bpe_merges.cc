#include "text/bpe_merges.h"

#include <algorithm>
#include <functional>
#include <limits>

namespace millrace::text {
namespace {

constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
// Below this many symbols a scan of all pairs per merge beats the heap's bookkeeping. Words are
// shorter than this nearly always.
constexpr size_t kShort = 24;

uint64_t PairKey(TokenId left, TokenId right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

}  // namespace

void BpeMerges::Add(TokenId left, TokenId right, TokenId merged, uint32_t rank) {
  rules_.try_emplace(PairKey(left, right), Rule{rank, merged});
}

const BpeMerges::Rule* BpeMerges::Find(TokenId left, TokenId right) const {
  auto it = rules_.find(PairKey(left, right));
  return it == rules_.end() ? nullptr : &it->second;
}

void BpeMerges::Apply(MergeScratch& scratch, std::vector<TokenId>& out) const {
  if (scratch.ids.size() <= kShort) {
    MergeShort(scratch.ids);
  } else {
    MergeLong(scratch);
  }
  for (TokenId id : scratch.ids) {
    if (id >= 0) out.push_back(id);
  }
}

void BpeMerges::MergeShort(std::vector<TokenId>& ids) const {
  if (ids.size() < 2) return;
  const Rule* rules[kShort];  // rules[i]: of the pair (i, i + 1)
  for (size_t i = 0; i + 1 < ids.size(); ++i) rules[i] = Find(ids[i], ids[i + 1]);
  while (ids.size() > 1) {
    size_t best = ids.size();
    uint32_t best_rank = kNone;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      if (rules[i] != nullptr && rules[i]->rank < best_rank) {
        best = i;
        best_rank = rules[i]->rank;
      }
    }
    if (best == ids.size()) return;
    ids[best] = rules[best]->merged;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(best) + 1);
    for (size_t i = best; i + 1 < ids.size(); ++i) rules[i] = rules[i + 1];
    if (best + 1 < ids.size()) rules[best] = Find(ids[best], ids[best + 1]);
    if (best > 0) rules[best - 1] = Find(ids[best - 1], ids[best]);
  }
}

void BpeMerges::PushPair(MergeScratch& s, uint32_t left, uint32_t right) const {
  if (left == kNone || right == kNone) return;
  const Rule* rule = Find(s.ids[left], s.ids[right]);
  if (rule == nullptr) return;
  const uint32_t fresh = static_cast<uint32_t>(s.buckets.size());
  auto added = s.bucket_of.try_emplace(rule->rank, fresh);
  if (added.second) {
    s.buckets.emplace_back().rank = rule->rank;
    s.heap.push_back(uint64_t{rule->rank} << 32 | fresh);
    std::push_heap(s.heap.begin(), s.heap.end(), std::greater<uint64_t>());
  }
  MergeScratch::Bucket& bucket = s.buckets[added.first->second];
  // Not in a bucket that is done: it takes the place that is next, which is still in order.
  if (bucket.done < bucket.places.size() && left < bucket.places.back()) {
    bucket.late.push_back(left);
    std::push_heap(bucket.late.begin(), bucket.late.end(), std::greater<uint32_t>());
  } else {
    bucket.places.push_back(left);
  }
}

bool BpeMerges::TakePlace(MergeScratch::Bucket& bucket, uint32_t& place) {
  const bool in_order = bucket.done < bucket.places.size();
  if (!bucket.late.empty() && (!in_order || bucket.late.front() < bucket.places[bucket.done])) {
    place = bucket.late.front();
    std::pop_heap(bucket.late.begin(), bucket.late.end(), std::greater<uint32_t>());
    bucket.late.pop_back();
    return true;
  }
  if (!in_order) return false;
  place = bucket.places[bucket.done++];
  return true;
}

// Merges the pair at `left` if it still has this rank: its symbols may have changed since.
void BpeMerges::MergePair(MergeScratch& s, uint32_t left, uint32_t rank) const {
  const uint32_t right = s.next[left];
  if (s.ids[left] < 0 || right == kNone) return;
  const Rule* rule = Find(s.ids[left], s.ids[right]);
  if (rule == nullptr || rule->rank != rank) return;
  s.ids[left] = rule->merged;
  s.ids[right] = -1;
  s.next[left] = s.next[right];
  if (s.next[right] != kNone) s.prev[s.next[right]] = left;
  PushPair(s, left, s.next[left]);
  PushPair(s, s.prev[left], left);
}

// Within a rank the leftmost place goes first, which matters only where pairs overlap. With a rank
// for each rule those are pairs of two equal symbols, made by equal steps of which the left one's
// always come first: places enter such a bucket from left to right, and none is late.
void BpeMerges::MergeLong(MergeScratch& s) const {
  const uint32_t n = static_cast<uint32_t>(s.ids.size());
  s.next.resize(n);
  s.prev.resize(n);
  s.heap.clear();
  s.buckets.clear();
  s.bucket_of.clear();
  for (uint32_t i = 0; i < n; ++i) {
    s.next[i] = i + 1 < n ? i + 1 : kNone;
    s.prev[i] = i > 0 ? i - 1 : kNone;
  }
  for (uint32_t i = 0; i + 1 < n; ++i) PushPair(s, i, i + 1);
  while (!s.heap.empty()) {
    const uint64_t top = s.heap.front();
    const uint32_t at = static_cast<uint32_t>(top);
    const uint32_t rank = s.buckets[at].rank;
    // A merge may make a pair of lower rank, which goes first. By index: it may move the buckets
    // too.
    uint32_t place = 0;
    bool taken = false;
    while (s.heap.front() == top && (taken = TakePlace(s.buckets[at], place))) {
      MergePair(s, place, rank);
    }
    if (taken) continue;  // the rank below goes first
    std::pop_heap(s.heap.begin(), s.heap.end(), std::greater<uint64_t>());
    s.heap.pop_back();
    s.bucket_of.erase(rank);
    s.buckets[at].places = {};  // a rank that comes back gets a new bucket
  }
}

}  // namespace millrace::text
