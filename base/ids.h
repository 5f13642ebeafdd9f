#pragma once
// Strong identifiers shared by every folder: a value of one kind cannot be passed as another.

#include <compare>
#include <cstdint>
#include <functional>
#include <limits>
#include <utility>

namespace millrace {

// An integer that is distinct by `Tag`. Thread: immutable value.
template <typename Tag, typename Rep>
class StrongId {
 public:
  using rep = Rep;
  constexpr StrongId() = default;
  constexpr explicit StrongId(Rep value) : value_(value) {}
  constexpr Rep value() const { return value_; }
  friend constexpr auto operator<=>(const StrongId&, const StrongId&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const StrongId& id) {
    return H::combine(std::move(h), id.value_);
  }

 private:
  Rep value_ = 0;
};

// One accepted client request. Made by the server, unique for the life of the process.
using RequestId = StrongId<struct RequestTag, uint64_t>;
// Our running copy of one choice of a request. Made by the scheduler, never reused.
using SequenceId = StrongId<struct SequenceTag, uint64_t>;
// A dense index into the executor's per-sequence state; reused after the sequence is released.
using SlotId = StrongId<struct SlotTag, uint32_t>;
// A fixed number of token slots of KV memory. Block 0 is the null block (never allocated).
using BlockId = StrongId<struct BlockTag, uint32_t>;
// One forward pass. Counts up by one from 1.
using StepId = StrongId<struct StepTag, uint64_t>;
// An interned tenant; 0 is the default tenant of a node without keys.
using TenantId = StrongId<struct TenantTag, uint32_t>;

inline constexpr BlockId kNullBlock{0};

// An index into the vocabulary. Negative values never name a token.
using TokenId = int32_t;
// Input token whose value is the sample of the previous submitted step, still on the device.
inline constexpr TokenId kTokenOnDevice = -1;

}  // namespace millrace

template <typename Tag, typename Rep>
struct std::hash<millrace::StrongId<Tag, Rep>> {
  size_t operator()(const millrace::StrongId<Tag, Rep>& id) const {
    return std::hash<Rep>{}(id.value());
  }
};
