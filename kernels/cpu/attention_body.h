// Attention of a tier; see gemm_body.h for how it is included.
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/row_body.h"

namespace millrace::kernels::body {

template <class V>
struct KvF32 {
  using Element = float;
  static constexpr bool kScaled = false;
  static inline typename V::F Load(const float* p) { return V::Load(p); }
};
template <class V>
struct KvBF16 {
  using Element = uint16_t;
  static constexpr bool kScaled = false;
  static inline typename V::F Load(const uint16_t* p) { return V::LoadBf16(p); }
};
// A token's scale multiplies its score, and its weight before the values are added up: scales cost
// a product a token, not one an element.
template <class V>
struct KvInt8 {
  using Element = int8_t;
  static constexpr bool kScaled = true;
  static inline typename V::F Load(const int8_t* p) { return V::LoadS8(p); }
};

// A query row is one head of one token. Its numbers come about so, whatever shares the work with
// it: blocks ascend; in a block, scores are chains over head_dim in 16 token lanes, the maximum is
// taken, what was summed is rescaled, and positions are added in ascending order. Every
// `split_blocks` blocks the state starts anew, and the splits' states are joined in ascending
// order.
template <class V, class Kv>
struct Attend {
  using F = typename V::F;
  using Element = typename Kv::Element;

  struct Rows {
    int count = 0;
    const float* q[kMaxQueryRows];
    int32_t first[kMaxQueryRows];  // positions that the row sees: the first,
    int32_t last[kMaxQueryRows];   // and the last, its own token's
    int64_t out[kMaxQueryRows];    // offset in item.out
  };
  struct Block {
    const Element* keys;    // [head_dim][padded tokens]
    const Element* values;  // [tokens][padded head_dim]
    int32_t start;          // first position
    const float* scales;    // [2][padded tokens]: of keys, of values; null: none
    ptrdiff_t ahead;        // bytes from this block to the one that is read next
  };

  // Adds the item's own query rows, not its sharers'.
  static inline void Describe(const AttentionItem& a, Rows* rows) {
    for (int t = 0; t < a.tokens; ++t) {
      for (int h = 0; h < a.group; ++h) {
        const int64_t offset = t * a.token_stride + static_cast<int64_t>(h) * a.head_dim;
        rows->q[rows->count] = a.q + offset;
        rows->out[rows->count] = offset;
        const int32_t begin = a.window > 0 ? a.position + t + 1 - a.window : 0;
        rows->first[rows->count] = begin > a.first_needed ? begin : a.first_needed;
        rows->last[rows->count++] = a.position + t;
      }
    }
  }

  // Fetches what the next block has in the place of N vectors from `p`. Blocks of a sequence are
  // strewn over memory, so the hardware does not see the next one coming; and asked for all at
  // once, its 128 lines would wait for each other and the work for them.
  template <int N>
  static inline void Ahead(const Element* p, ptrdiff_t ahead) {
    const auto* bytes = reinterpret_cast<const std::byte*>(p) + ahead;
    MILLRACE_UNROLL
    for (int line = 0; line < N * 16 * static_cast<int>(sizeof(Element)); line += 64) {
      V::Prefetch(bytes + line);
    }
  }

  // scores[r][16 v + lane] = scale * q_r . k for N vectors of tokens from vector v.
  template <int R, int N>
  static inline void Scores(const AttentionItem& a, const float* const* q, const Element* keys,
                            ptrdiff_t ahead, float* scores) {
    const int64_t padded = RoundUp16(a.block_tokens);
    const float* row[R];
    F s[R][N];
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) {
      row[r] = q[r];
      MILLRACE_UNROLL
      for (int n = 0; n < N; ++n) s[r][n] = V::Zero();
    }
    for (int32_t d = 0; d < a.head_dim; ++d) {
      Ahead<N>(keys + d * padded, ahead);
      F k[N];
      MILLRACE_UNROLL
      for (int n = 0; n < N; ++n) k[n] = Kv::Load(keys + d * padded + 16 * n);
      MILLRACE_UNROLL
      for (int r = 0; r < R; ++r) {
        const F x = V::Set(row[r][d]);
        MILLRACE_UNROLL
        for (int n = 0; n < N; ++n) s[r][n] = V::Fma(k[n], x, s[r][n]);
      }
    }
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) {
      MILLRACE_UNROLL
      for (int n = 0; n < N; ++n) {
        V::Store(scores + r * padded + 16 * n, V::Mul(s[r][n], V::Set(a.scale)));
      }
    }
  }

  // What a row sees of a block: tokens [begin, end); nothing when end <= begin.
  struct Seen {
    int begin;
    int end;
    bool any() const { return begin < end; }
  };

  // Turns R rows' scores of the tokens that each sees into weights and rescales their states.
  template <int R>
  static inline void Softmax(const AttentionItem& a, const Seen (&seen)[R], float* states,
                             float* scores) {
    const float infinity = __builtin_inff();
    const int64_t padded = RoundUp16(a.block_tokens), stride = AttentionStateFloats(a.head_dim);
    float change[16] = {};  // of the maximum, all rows together: one exponential gives all factors
    for (int r = 0; r < R; ++r) {
      if (!seen[r].any()) continue;
      float* row = scores + r * padded;
      F top = V::Set(-infinity);
      const int begin = seen[r].begin, end = seen[r].end;
      for (int j = begin / 16 * 16; j < end; j += 16) {
        F s = V::Load(row + j);
        if (j < begin || j + 16 > end) {
          s = V::Keep(s, begin - j, end - j, -infinity);
          V::Store(row + j, s);
        }
        top = V::Max(top, s);
      }
      float* state = states + r * stride;
      const float block_max = V::ReduceMax(top), max = block_max > state[0] ? block_max : state[0];
      change[r] = state[0] - max;
      state[0] = max;
    }
    float shrink[16];
    V::Store(shrink, body::Rows<V>::Exp(V::Load(change)));
    for (int r = 0; r < R; ++r) {
      if (!seen[r].any()) continue;
      float* row = scores + r * padded;
      float* state = states + r * stride;
      const F max = V::Set(state[0]), factor = V::Set(shrink[r]);
      F sum = V::Mul(V::Load(state + 16), factor);
      for (int j = seen[r].begin / 16 * 16; j < seen[r].end; j += 16) {
        const F p = body::Rows<V>::Exp(V::Sub(V::Load(row + j), max));
        V::Store(row + j, p);
        sum = V::Add(sum, p);
      }
      V::Store(state + 16, sum);
      for (int64_t d = 32; d < stride; d += 16) {
        V::Store(state + d, V::Mul(V::Load(state + d), factor));
      }
    }
  }

  // states[r].values[16 n ...] += sum over the j that are seen of weights[r][j] * values[j][16 n
  // ...].
  template <int R, int N>
  static inline void Values(const AttentionItem& a, float* states, const float* weights,
                            const Seen& seen, const Element* values, ptrdiff_t ahead) {
    const int64_t stride = AttentionStateFloats(a.head_dim);
    const int64_t padded_tokens = RoundUp16(a.block_tokens), padded_dim = RoundUp16(a.head_dim);
    F o[R][N];
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) {
      MILLRACE_UNROLL
      for (int n = 0; n < N; ++n) o[r][n] = V::Load(states + r * stride + 16 * n);
    }
    for (int j = seen.begin; j < seen.end; ++j) {
      Ahead<N>(values + j * padded_dim, ahead);
      F v[N];
      MILLRACE_UNROLL
      for (int n = 0; n < N; ++n) v[n] = Kv::Load(values + j * padded_dim + 16 * n);
      MILLRACE_UNROLL
      for (int r = 0; r < R; ++r) {
        const F p = V::Set(weights[r * padded_tokens + j]);
        MILLRACE_UNROLL
        for (int n = 0; n < N; ++n) o[r][n] = V::Fma(p, v[n], o[r][n]);
      }
    }
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) {
      MILLRACE_UNROLL
      for (int n = 0; n < N; ++n) V::Store(states + r * stride + 16 * n, o[r][n]);
    }
  }

  template <int R>
  static inline void AllValues(const AttentionItem& a, float* states, const float* weights,
                               const Seen& seen, const Block& block) {
    if (!seen.any()) return;
    const int64_t dim = RoundUp16(a.head_dim);
    int64_t d = 0;
    for (; d + 16 * V::kValueVectors <= dim; d += 16 * V::kValueVectors) {
      Values<R, V::kValueVectors>(a, states + 32 + d, weights, seen, block.values + d, block.ahead);
    }
    for (; d < dim; d += 16) {
      Values<R, 1>(a, states + 32 + d, weights, seen, block.values + d, block.ahead);
    }
  }

  // Rows first .. first + R - 1 against one block.
  template <int R>
  static inline void Tile(const AttentionItem& a, const Rows& rows, int first, const Block& block,
                          float* states, float* scores) {
    const int64_t padded = RoundUp16(a.block_tokens), stride = AttentionStateFloats(a.head_dim);
    Seen seen[R];
    Seen some = {a.block_tokens, 0}, all = {0, a.block_tokens};  // what some row sees, and all do
    for (int r = 0; r < R; ++r) {
      const int32_t from = rows.first[first + r] - block.start;
      const int32_t to = rows.last[first + r] + 1 - block.start;
      seen[r] = {from > 0 ? from : 0, to < a.block_tokens ? to : a.block_tokens};
      all.begin = seen[r].begin > all.begin ? seen[r].begin : all.begin;
      all.end = seen[r].end < all.end ? seen[r].end : all.end;
      if (!seen[r].any()) continue;
      some.begin = seen[r].begin < some.begin ? seen[r].begin : some.begin;
      some.end = seen[r].end > some.end ? seen[r].end : some.end;
    }
    if (!some.any()) return;
    int j = some.begin / 16 * 16;
    for (; j + 16 < some.end; j += 32) {
      Scores<R, 2>(a, rows.q + first, block.keys + j, block.ahead, scores + j);
    }
    if (j < some.end) Scores<R, 1>(a, rows.q + first, block.keys + j, block.ahead, scores + j);
    if constexpr (Kv::kScaled) Multiply<R>(a, some, block.scales, scores);
    if (a.soft_cap > 0) Cap<R>(a, some, scores);
    float* state = states + first * stride;
    Softmax<R>(a, seen, state, scores);
    if constexpr (Kv::kScaled) Multiply<R>(a, some, block.scales + padded, scores);
    // Positions that all rows see go together, the others row by row; for each row they ascend.
    if (!all.any()) all = {a.block_tokens, a.block_tokens};
    for (int r = 0; r < R; ++r) {
      const int to = seen[r].end < all.begin ? seen[r].end : all.begin;
      AllValues<1>(a, state + r * stride, scores + r * padded, {seen[r].begin, to}, block);
    }
    AllValues<R>(a, state, scores, all, block);
    for (int r = 0; r < R; ++r) {
      AllValues<1>(a, state + r * stride, scores + r * padded, {all.end, seen[r].end}, block);
    }
  }

  // Tokens that a row does not see may become anything: nothing reads them.
  template <int R>
  static inline void Multiply(const AttentionItem& a, const Seen& some, const float* scales,
                              float* scores) {
    const int64_t padded = RoundUp16(a.block_tokens);
    for (int j = some.begin / 16 * 16; j < some.end; j += 16) {
      const F factor = V::Load(scales + j);
      for (int r = 0; r < R; ++r) {
        float* s = scores + r * padded + j;
        V::Store(s, V::Mul(V::Load(s), factor));
      }
    }
  }

  template <int R>
  static inline void Cap(const AttentionItem& a, const Seen& some, float* scores) {
    const int64_t padded = RoundUp16(a.block_tokens);
    const F cap = V::Set(a.soft_cap);
    for (int r = 0; r < R; ++r) {
      for (int j = some.begin / 16 * 16; j < some.end; j += 16) {
        float* s = scores + r * padded + j;
        V::Store(s, body::Rows<V>::SoftCap(V::Load(s), cap));
      }
    }
  }

  template <int R>
  static inline void Tiles(const AttentionItem& a, const Rows& rows, int first, const Block& block,
                           float* states, float* scores) {
    for (; first + R <= rows.count; first += R) Tile<R>(a, rows, first, block, states, scores);
    if constexpr (R > 1) {
      if (first < rows.count) Tiles<R - 1>(a, rows, first, block, states, scores);
    }
  }

  static void Reset(const AttentionItem& a, const Rows& rows, float* states) {
    const int64_t stride = AttentionStateFloats(a.head_dim);
    for (int r = 0; r < rows.count; ++r) {
      for (int64_t i = 0; i < stride; i += 16) V::Store(states + r * stride + i, V::Zero());
      states[r * stride] = -__builtin_inff();
    }
  }

  // Blocks [begin, end) of the item's table, for the rows' states as they are.
  static void Blocks(const AttentionItem& a, const Rows& rows, int32_t begin, int32_t end,
                     float* states, float* scores) {
    const int32_t final_block = rows.last[rows.count - 1] / a.block_tokens;
    for (int32_t b = begin; b < end; ++b) {
      const std::byte* base = a.base + a.table[b] * a.block_stride;
      const std::byte* next = b < final_block ? a.base + a.table[b + 1] * a.block_stride : a.next;
      const Block block = {
          reinterpret_cast<const Element*>(base),
          reinterpret_cast<const Element*>(base + a.value_offset), b * a.block_tokens,
          reinterpret_cast<const float*>(base + a.scale_offset), next == nullptr ? 0 : next - base};
      if constexpr (Kv::kScaled) PrefetchScales(a, next == nullptr ? base : next);
      Tiles<V::kQueryRows>(a, rows, 0, block, states, scores);
    }
  }

  static void Split(const AttentionItem& a, const Rows& rows, int32_t split, float* states,
                    float* scores) {
    Reset(a, rows, states);
    const int32_t past = rows.last[rows.count - 1] / a.block_tokens + 1;
    const int32_t first = rows.first[0] / a.block_tokens;
    const int32_t begin = split * a.split_blocks, end = begin + a.split_blocks;
    Blocks(a, rows, begin < first ? first : begin, end < past ? end : past, states, scores);
  }

  static inline void PrefetchScales(const AttentionItem& a, const std::byte* base) {
    const int64_t bytes = 2 * RoundUp16(a.block_tokens) * static_cast<int64_t>(sizeof(float));
    for (int64_t at = 0; at < bytes; at += 64) V::Prefetch(base + a.scale_offset + at);
  }

  // total += part, for the rows that saw a position of the split. The first split that a row sees
  // finds the maximum -infinity: then total becomes 0 * e^-inf + part * 1 = part.
  static void Join(const AttentionItem& a, const Rows& rows, int32_t split, const float* part,
                   float* total) {
    const int64_t stride = AttentionStateFloats(a.head_dim);
    const int64_t tokens = static_cast<int64_t>(a.split_blocks) * a.block_tokens;
    const int64_t start = split * tokens;
    for (int r = 0; r < rows.count; ++r, part += stride, total += stride) {
      if (rows.last[r] < start || rows.first[r] >= start + tokens) continue;
      const float max = part[0] > total[0] ? part[0] : total[0];
      const F keep = body::Rows<V>::Exp(V::Set(total[0] - max));
      const F take = body::Rows<V>::Exp(V::Set(part[0] - max));
      total[0] = max;
      for (int64_t i = 16; i < stride; i += 16) {
        V::Store(total + i, V::Fma(V::Load(part + i), take, V::Mul(V::Load(total + i), keep)));
      }
    }
  }

  static void Write(const AttentionItem& a, const Rows& rows, const float* states) {
    const int64_t stride = AttentionStateFloats(a.head_dim);
    for (int r = 0; r < rows.count; ++r, states += stride) {
      const F sum = V::Set(V::ReduceAdd(V::Load(states + 16)));
      float* out = a.out + rows.out[r];
      for (int64_t d = 0; d < a.head_dim; d += 16) {
        const F value = V::Div(V::Load(states + 32 + d), sum);
        if (d + 16 <= a.head_dim) {
          V::Store(out + d, value);
        } else {
          body::Rows<V>::StorePart(out + d, a.head_dim - d, value);
        }
      }
    }
  }

  // The item, but the query of one sequence of its fold.
  static AttentionItem One(const AttentionItem& a, int i) {
    AttentionItem one = a;
    if (i == 0) return one;
    const AttentionSharer& s = a.sharers[i - 1];
    one.q = s.q;
    one.out = s.out;
    one.table = s.table;
    one.position = s.position;
    one.split_end = s.position / (a.split_blocks * a.block_tokens) + 1;
    return one;
  }

  // Several sequences: what they share for all rows together, then each on its own from the states
  // that this left. The split in which they part is begun together as well.
  static void RunFold(const AttentionItem& a) {
    Rows all;
    for (int i = 0; i <= a.sharer_count; ++i) Describe(One(a, i), &all);
    const int64_t floats = AttentionPartialFloats(all.count, a.head_dim);
    float* states = a.scratch;
    float* total = states + floats;
    float* scores = total + floats;
    Reset(a, all, total);
    const int32_t whole = a.shared_blocks / a.split_blocks;
    for (int32_t s = 0; s < whole; ++s) {
      Reset(a, all, states);
      Blocks(a, all, s * a.split_blocks, (s + 1) * a.split_blocks, states, scores);
      Join(a, all, s, states, total);
    }
    Reset(a, all, states);
    Blocks(a, all, whole * a.split_blocks, a.shared_blocks, states, scores);
    const int64_t own = AttentionPartialFloats(a.group, a.head_dim);
    for (int i = 0; i <= a.sharer_count; ++i, states += own, total += own) {
      AttentionItem one = One(a, i);
      if (i < a.sharer_count) {
        one.next = a.base + a.sharers[i].table[a.shared_blocks] * a.block_stride;
      }
      Rows rows;
      Describe(one, &rows);
      const int32_t past = one.position / a.block_tokens + 1;
      const int32_t end = (whole + 1) * a.split_blocks;
      Blocks(one, rows, a.shared_blocks, end < past ? end : past, states, scores);
      Join(one, rows, whole, states, total);
      for (int32_t s = whole + 1; s < one.split_end; ++s) {
        Split(one, rows, s, states, scores);
        Join(one, rows, s, states, total);
      }
      Write(one, rows, total);
    }
  }

  static void Run(const AttentionItem& a) {
    if (a.sharer_count > 0) return RunFold(a);
    Rows rows;
    Describe(a, &rows);
    const int64_t floats = AttentionPartialFloats(rows.count, a.head_dim);
    float* states = a.scratch;
    float* total = states + floats;
    float* scores = total + floats;
    if (a.out == nullptr) {
      float* part = a.partial;
      for (int32_t s = a.split_begin; s < a.split_end; ++s, part += floats) {
        Split(a, rows, s, part, scores);
      }
      return;
    }
    Reset(a, rows, total);
    for (int32_t s = a.split_begin; s < a.split_end; ++s) {
      Split(a, rows, s, states, scores);
      Join(a, rows, s, states, total);
    }
    Write(a, rows, total);
  }

  static void Merge(const AttentionItem& a) {
    Rows rows;
    Describe(a, &rows);
    float* total = a.scratch;
    Reset(a, rows, total);
    const float* part = a.partial;
    for (int32_t s = a.split_begin; s < a.split_end; ++s) {
      Join(a, rows, s, part, total);
      part += AttentionPartialFloats(rows.count, a.head_dim);
    }
    Write(a, rows, total);
  }
};

}  // namespace millrace::kernels::body
