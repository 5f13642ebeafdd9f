#pragma once
// Sequences with known queries, keys and values, and batches of their rows: tests of attention.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/attention.h"
#include "kernels/test_support.h"

namespace millrace::kernels::testing {

// What attention multiplies: each element type in fp32, and bf16 by bf16; on tiles bytes by bf16.
struct Numbers {
  KvType type;
  ComputeMode mode;
  bool rounded() const { return type != KvType::kF32 && mode == ComputeMode::kFast; }
  friend std::ostream& operator<<(std::ostream& out, const Numbers& n) {
    return out << KvTypeName(n.type) << (n.rounded() ? " products of it " : " ");
  }
};
constexpr auto kExact = ComputeMode::kExact;
inline constexpr Numbers kNumbers[] = {{KvType::kF32, kExact},
                                       {KvType::kBF16, kExact},
                                       {KvType::kInt8, kExact},
                                       {KvType::kBF16, ComputeMode::kFast}};

struct Shape {
  int64_t heads, kv_heads, head_dim;
  int32_t block_tokens;
  int32_t window = 0;
  float soft_cap = 0;
  int64_t FirstSeen(int64_t p) const { return window > 0 && p >= window ? p + 1 - window : 0; }
};

// A sequence of known q, k, v and the cache it fills.
struct Sequence {
  Sequence(const Shape& s, int64_t positions, uint64_t seed) : length(positions) {
    Random random(seed);
    q = random.Floats(positions * s.heads * s.head_dim, 1.5f);
    k = random.Floats(positions * s.kv_heads * s.head_dim, 1.5f);
    v = random.Floats(positions * s.kv_heads * s.head_dim, 1.0f);
    table.resize(static_cast<size_t>((positions + s.block_tokens - 1) / s.block_tokens));
  }
  int64_t length;
  std::vector<float> q, k, v;
  std::vector<uint32_t> table;
};

// Filled with NaNs, so that a read of what was never written shows.
struct Arena {
  Arena(const Shape& s, KvType type, uint32_t block_count) : blocks(block_count) {
    layout.type = type;
    layout.layers = 2;
    layout.kv_heads = static_cast<int32_t>(s.kv_heads);
    layout.head_dim = static_cast<int32_t>(s.head_dim);
    layout.block_tokens = s.block_tokens;
    layout.blocks = block_count;
    bytes.assign(layout.BlockBytes() * block_count + 64, std::byte{0xff});
  }
  std::byte* data() {
    const auto address = reinterpret_cast<uintptr_t>(bytes.data());
    return bytes.data() + (64 - address % 64) % 64;
  }
  uint32_t blocks;
  KvLayout layout;
  std::vector<std::byte> bytes;
};

// One row of a call.
struct RowSpec {
  const Sequence* sequence;
  int64_t position;
  int64_t count;
  int64_t first_needed = 0;
};

// Runs the rows as one batch; returns their outputs one after the other.
inline std::vector<float> RunBatch(const Shape& s, Arena& arena, const std::vector<RowSpec>& specs,
                                   Stream& stream) {
  std::vector<float> q, k, v;
  std::vector<AttentionRow> rows;
  int64_t tokens = 0;
  for (const RowSpec& spec : specs) {
    auto add = [&](std::vector<float>& to, const std::vector<float>& from, int64_t width) {
      to.insert(to.end(), from.begin() + spec.position * width,
                from.begin() + (spec.position + spec.count) * width);
    };
    add(q, spec.sequence->q, s.heads * s.head_dim);
    add(k, spec.sequence->k, s.kv_heads * s.head_dim);
    add(v, spec.sequence->v, s.kv_heads * s.head_dim);
    AttentionRow row;
    row.token_begin = static_cast<int32_t>(tokens);
    row.token_count = static_cast<int32_t>(spec.count);
    row.position = static_cast<int32_t>(spec.position);
    row.first_needed = static_cast<int32_t>(spec.first_needed);
    row.table = spec.sequence->table.data();
    rows.push_back(row);
    tokens += spec.count;
  }
  std::vector<float> out(q.size(), NAN);
  AttentionArgs args;
  args.q = q.data();
  args.k = k.data();
  args.v = v.data();
  args.out = out.data();
  args.tokens = tokens;
  args.heads = s.heads;
  args.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
  args.window = s.window;
  args.soft_cap = s.soft_cap;
  args.layout = &arena.layout;
  args.layer = 1;
  args.arena = arena.data();
  args.rows = rows;
  const absl::Status status = Attention(args, stream);
  EXPECT_TRUE(status.ok()) << status;
  return out;
}

// Fills the cache from `from` on without attention's cost: each token as if it saw itself alone.
inline void WriteKeys(const Shape& s, Arena& arena, const Sequence& sequence, Stream& stream,
                      int64_t from = 0) {
  for (int64_t t = from; t < sequence.length;) {
    std::vector<RowSpec> rows;
    for (; t < sequence.length && rows.size() < 64; ++t) rows.push_back({&sequence, t, 1, t});
    RunBatch(s, arena, rows, stream);
  }
}

inline bool SameBytes(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Fills the table with distinct blocks in a random order, none of them 0.
inline void Place(std::vector<uint32_t>& table, uint32_t blocks, Random& random) {
  std::vector<uint32_t> all(blocks - 1);
  std::iota(all.begin(), all.end(), 1u);
  for (size_t i = 0; i < table.size(); ++i) {
    std::swap(all[i],
              all[i + static_cast<size_t>(random.Below(static_cast<int64_t>(all.size() - i)))]);
    table[i] = all[i];
  }
}

}  // namespace millrace::kernels::testing
