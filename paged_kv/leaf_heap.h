#pragma once
// The evictable leaves of the prefix index, least recently used first: a binary heap over block ids
// in which any member can be removed.

#include <cstdint>
#include <utility>
#include <vector>

namespace millrace::paged_kv {

// Thread: engine.
class LeafHeap {
 public:
  explicit LeafHeap(uint32_t ids) : place_(ids + 1, kAbsent), stamp_(ids + 1, 0) {}

  bool empty() const { return heap_.empty(); }
  bool Contains(uint32_t id) const { return place_[id] != kAbsent; }
  uint32_t Oldest() const { return heap_.front(); }

  void Push(uint32_t id, uint64_t stamp) {
    stamp_[id] = stamp;
    place_[id] = static_cast<uint32_t>(heap_.size());
    heap_.push_back(id);
    Rise(place_[id]);
  }
  // Absent ids are fine.
  void Erase(uint32_t id) {
    const uint32_t at = place_[id];
    if (at == kAbsent) return;
    const uint32_t last = heap_.back();
    heap_.pop_back();
    place_[id] = kAbsent;
    if (last == id) return;
    heap_[at] = last;
    place_[last] = at;
    Rise(at);
    Sink(place_[last]);
  }

 private:
  static constexpr uint32_t kAbsent = UINT32_MAX;

  // Ties by id: the order is the same in every run.
  bool Before(uint32_t x, uint32_t y) const {
    return stamp_[x] != stamp_[y] ? stamp_[x] < stamp_[y] : x < y;
  }
  void Swap(uint32_t i, uint32_t j) {
    std::swap(heap_[i], heap_[j]);
    place_[heap_[i]] = i;
    place_[heap_[j]] = j;
  }
  void Rise(uint32_t i) {
    while (i > 0 && Before(heap_[i], heap_[(i - 1) / 2])) {
      Swap(i, (i - 1) / 2);
      i = (i - 1) / 2;
    }
  }
  void Sink(uint32_t i) {
    while (2 * i + 1 < heap_.size()) {
      uint32_t child = 2 * i + 1;
      if (child + 1 < heap_.size() && Before(heap_[child + 1], heap_[child])) ++child;
      if (!Before(heap_[child], heap_[i])) return;
      Swap(i, child);
      i = child;
    }
  }

  std::vector<uint32_t> heap_;
  std::vector<uint32_t> place_;  // by id; kAbsent outside the heap
  std::vector<uint64_t> stamp_;
};

}  // namespace millrace::paged_kv
