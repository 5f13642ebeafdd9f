// Attention of a tier; see gemm_body.h for how it is included.
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/kv_body.h"
#include "kernels/cpu/row_body.h"

namespace millrace::kernels::body {

// A query row is one head of one token. Its numbers come about so, whatever shares the work with
// it: blocks ascend; in a block, scores are chains over head_dim in 16 token lanes, the maximum is
// taken, what was summed is rescaled, and positions are added in ascending order (pairs of them, of
// kinds that take two at a time). Every `split_blocks` blocks the state starts anew, and the
// splits' states are joined in ascending order.
template <class V, class Kv>
struct Attend {
  using F = typename V::F;
  using Element = typename Kv::Element;
  using Word = typename Kv::Word;
  static constexpr bool kPairs = Kv::kStep == 2;

  struct Rows {
    int count = 0;
    const Word* q[kMaxQueryRows];
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

  // What an item or a fold works with, in its scratch.
  struct Memory {
    float* states;   // of the split at hand
    float* total;    // of all splits before
    float* scores;   // [2][rows of a tile][padded tokens]: of two tiles in turn; then weights
    float* queries;  // [rows][padded head_dim] Words, of kinds that take pairs
  };
  static inline Memory Cut(const AttentionItem& a, int rows) {
    const int64_t floats = AttentionPartialFloats(rows, a.head_dim);
    float* scores = a.scratch + 2 * floats;
    return {a.scratch, a.scratch + floats, scores,
            scores + 2 * kMaxTileRows * RoundUp16(a.block_tokens)};
  }

  // A query as Kv wants it: as it is, or scaled and rounded to `out`.
  static inline const Word* Query(const AttentionItem& a, const float* q, float* out) {
    if constexpr (kPairs) {
      auto* words = reinterpret_cast<Word*>(out);
      const F scale = V::Set(a.scale);
      int64_t d = 0;
      for (; d + 16 <= a.head_dim; d += 16) Kv::Put(words + d, V::Mul(V::Load(q + d), scale));
      if (d < a.head_dim) {
        Kv::Put(words + d, V::Mul(body::Rows<V>::LoadPart(q + d, a.head_dim - d), scale));
      }
      return words;
    } else {
      return q;
    }
  }

  // Adds the item's own query rows, not its sharers'.
  static inline void Describe(const AttentionItem& a, float* queries, Rows* rows) {
    for (int t = 0; t < a.tokens; ++t) {
      for (int h = 0; h < a.group; ++h) {
        const int64_t offset = t * a.token_stride + static_cast<int64_t>(h) * a.head_dim;
        rows->q[rows->count] =
            Query(a, a.q + offset, queries + rows->count * RoundUp16(a.head_dim));
        rows->out[rows->count] = offset;
        const int32_t begin = a.window > 0 ? a.position + t + 1 - a.window : 0;
        rows->first[rows->count] = begin > a.first_needed ? begin : a.first_needed;
        rows->last[rows->count++] = a.position + t;
      }
    }
  }

  // Fetches what the next block has in the place of N vectors from `p`. Blocks of a sequence are
  // strewn over memory, so the hardware does not see the next one coming; and asked for all at
  // once, its 128 lines would wait for each other and the work for them. Always inline: GCC takes a
  // function that only fetches for one without effects, and drops its calls.
  template <int N>
  static inline __attribute__((always_inline)) void Ahead(const Element* p, ptrdiff_t ahead) {
    const auto* bytes = reinterpret_cast<const std::byte*>(p) + ahead;
    MILLRACE_UNROLL
    for (int line = 0; line < N * 16 * static_cast<int>(sizeof(Element)); line += 64) {
      V::Prefetch(bytes + line);
    }
  }

  // What is read in the place of the row that a last pair lacks or must not see.
  static inline const Element* Zeros() {
    alignas(64) static constexpr Element
        kZeros[16 * (V::kValueVectors > 2 ? V::kValueVectors : 2)] = {};
    return kZeros;
  }

  // scores[r][16 v + lane] = scale * q_r . k for N vectors of tokens from vector v.
  template <int R, int N>
  static inline void Scores(const AttentionItem& a, const Word* const* q, const Element* keys,
                            ptrdiff_t ahead, float* scores) {
    const int64_t padded = RoundUp16(a.block_tokens);
    const Word* row[R];
    F s[R][N];
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) {
      row[r] = q[r];
      MILLRACE_UNROLL
      for (int n = 0; n < N; ++n) s[r][n] = V::Zero();
    }
    const auto step = [&](int32_t d, const Element* second) __attribute__((always_inline)) {
      const Element* first = keys + d * padded;
      Ahead<N>(first, ahead);
      if constexpr (kPairs) Ahead<N>(first + padded, ahead);
      typename Kv::Taken k[N];
      Kv::template Take<N>(first, second, k);
      MILLRACE_UNROLL
      for (int r = 0; r < R; ++r) {
        MILLRACE_UNROLL
        for (int n = 0; n < N; ++n) s[r][n] = Kv::Add(s[r][n], k[n], row[r] + d);
      }
    };
    int32_t d = 0;
    for (; d + Kv::kStep <= a.head_dim; d += Kv::kStep) step(d, keys + (d + 1) * padded);
    if (kPairs && d < a.head_dim) step(d, Zeros());
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) {
      MILLRACE_UNROLL
      for (int n = 0; n < N; ++n) {
        const F scaled = kPairs ? s[r][n] : V::Mul(s[r][n], V::Set(a.scale));
        V::Store(scores + r * padded + 16 * n, scaled);
      }
    }
  }

  // What a row sees of a block: tokens [begin, end); nothing when end <= begin.
  struct Seen {
    int begin;
    int end;
    bool any() const { return begin < end; }
  };

  // e^(score - maximum) as a weight, to `weights` as a Word.
  static inline F Weight(F below, Word* weights) {
    if constexpr (kPairs) {  // the sum is that of the rounded ones, so that they add up to 1
      return Kv::Put(weights, body::Rows<V>::ExpOfNegative(below));
    } else {
      const F p = body::Rows<V>::Exp(below);
      V::Store(weights, p);
      return p;
    }
  }

  // Turns R rows' scores of the tokens that each sees into weights, in their place (a vector of
  // Words never reaches beyond the scores it is made of), and rescales the states but for the
  // values: `shrink` says by what.
  template <int R>
  static inline void Softmax(const AttentionItem& a, const Seen (&seen)[R], float* states,
                             float* scores, float* shrink) {
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
      change[r] = NewMaximum(states + r * stride, top);
    }
    V::Store(shrink, body::Rows<V>::Exp(V::Load(change)));
    for (int r = 0; r < R; ++r) {
      if (!seen[r].any()) continue;
      float* row = scores + r * padded;
      float* state = states + r * stride;
      const F max = V::Set(state[0]);
      F sum = V::Mul(V::Load(state + 16), V::Set(shrink[r]));
      for (int j = seen[r].begin / 16 * 16; j < seen[r].end; j += 16) {
        const F below = V::Sub(V::Load(row + j), max);
        sum = V::Add(sum, Weight(below, reinterpret_cast<Word*>(row) + j));
      }
      V::Store(state + 16, sum);
    }
  }
  // The change of a row's maximum.
  static inline float NewMaximum(float* state, F top) {
    const float block_max = V::ReduceMax(top), max = block_max > state[0] ? block_max : state[0];
    const float change = state[0] - max;
    state[0] = max;
    return change;
  }
  // The same where all rows see the whole block, of whole vectors: the rows' chains side by side.
  template <int R>
  static inline void SoftmaxOfAll(const AttentionItem& a, float* states, float* scores,
                                  float* shrink) {
    const int64_t padded = a.block_tokens, stride = AttentionStateFloats(a.head_dim);
    float change[16] = {};
    F row[R];
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) row[r] = V::Set(-__builtin_inff());
    for (int j = 0; j < a.block_tokens; j += 16) {
      MILLRACE_UNROLL
      for (int r = 0; r < R; ++r) row[r] = V::Max(row[r], V::Load(scores + r * padded + j));
    }
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) change[r] = NewMaximum(states + r * stride, row[r]);
    V::Store(shrink, body::Rows<V>::Exp(V::Load(change)));
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) {
      row[r] = V::Mul(V::Load(states + r * stride + 16), V::Set(shrink[r]));
    }
    for (int j = 0; j < a.block_tokens; j += 16) {
      MILLRACE_UNROLL
      for (int r = 0; r < R; ++r) {
        float* s = scores + r * padded;
        const F below = V::Sub(V::Load(s + j), V::Set(states[r * stride]));
        row[r] = V::Add(row[r], Weight(below, reinterpret_cast<Word*>(s) + j));
      }
    }
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) V::Store(states + r * stride + 16, row[r]);
  }

  // states[r].values[16 n ...] = shrink[r] times itself + sum over the j that are seen of
  // weights[r][j] * values[j][16 n ...].
  template <int R, int N>
  static inline void Values(const AttentionItem& a, float* states, const float* weights,
                            const float* shrink, const Seen& seen, const Element* values,
                            ptrdiff_t ahead) {
    const int64_t stride = AttentionStateFloats(a.head_dim);
    const int64_t padded_tokens = RoundUp16(a.block_tokens), padded_dim = RoundUp16(a.head_dim);
    const Word* row[R];
    F o[R][N];
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) {
      row[r] = reinterpret_cast<const Word*>(weights + r * padded_tokens);
      MILLRACE_UNROLL
      for (int n = 0; n < N; ++n) {
        o[r][n] = V::Mul(V::Load(states + r * stride + 16 * n), V::Set(shrink[r]));
      }
    }
    const auto step = [&](int j, const Element* first, const Element* second)
        __attribute__((always_inline)) {
      const Element* place = values + j * padded_dim;
      Ahead<N>(place, ahead);
      if constexpr (kPairs) Ahead<N>(place + padded_dim, ahead);
      typename Kv::Taken v[N];
      Kv::template Take<N>(first, second, v);
      MILLRACE_UNROLL
      for (int r = 0; r < R; ++r) {
        MILLRACE_UNROLL
        for (int n = 0; n < N; ++n) o[r][n] = Kv::Add(o[r][n], v[n], row[r] + j);
      }
    };
    int j = seen.begin;
    if (kPairs && j % 2 != 0) {
      step(j - 1, Zeros(), values + j * padded_dim);
      ++j;
    }
    for (; j + Kv::kStep <= seen.end; j += Kv::kStep) {
      step(j, values + j * padded_dim, values + (j + 1) * padded_dim);
    }
    if (kPairs && j < seen.end) step(j, values + j * padded_dim, Zeros());
    MILLRACE_UNROLL
    for (int r = 0; r < R; ++r) {
      MILLRACE_UNROLL
      for (int n = 0; n < N; ++n) V::Store(states + r * stride + 16 * n, o[r][n]);
    }
  }

  template <int R>
  static inline void AllValues(const AttentionItem& a, float* states, const float* weights,
                               const float* shrink, const Seen& seen, const Block& block) {
    if (!seen.any()) return;
    constexpr int kMost = V::kValueVectors,
                  kVectors = R * kMost > V::kValueSums ? kMost / 2 : kMost;
    const int64_t dim = RoundUp16(a.head_dim);
    int64_t d = 0;
    for (; d + 16 * kVectors <= dim; d += 16 * kVectors) {
      Values<R, kVectors>(a, states + 32 + d, weights, shrink, seen, block.values + d, block.ahead);
    }
    for (; d < dim; d += 16) {
      Values<R, 1>(a, states + 32 + d, weights, shrink, seen, block.values + d, block.ahead);
    }
  }

  // Rows first .. first + R - 1 against one block.
  template <int R>
  struct Tile {
    int first;
    float* scores;  // [R][padded tokens]
    Seen seen[R];
    Seen some, all;    // what some row sees, and all do
    float shrink[16];  // what becomes of the rows' values so far

    bool whole(const AttentionItem& a) const {
      return all.begin == 0 && all.end == a.block_tokens && a.block_tokens % 16 == 0;
    }
  };

  // The scores of a tile.
  template <int R>
  static inline void Begin(const AttentionItem& a, const Rows& rows, const Block& block,
                           Tile<R>* tile) {
    Seen some = {a.block_tokens, 0}, all = {0, a.block_tokens};
    for (int r = 0; r < R; ++r) {
      Seen& seen = tile->seen[r];
      const int32_t from = rows.first[tile->first + r] - block.start;
      const int32_t to = rows.last[tile->first + r] + 1 - block.start;
      seen = {from > 0 ? from : 0, to < a.block_tokens ? to : a.block_tokens};
      all.begin = seen.begin > all.begin ? seen.begin : all.begin;
      all.end = seen.end < all.end ? seen.end : all.end;
      if (!seen.any()) continue;
      some.begin = seen.begin < some.begin ? seen.begin : some.begin;
      some.end = seen.end > some.end ? seen.end : some.end;
    }
    tile->some = some;
    tile->all = all;
    if (!some.any()) return;
    const Word* const* q = rows.q + tile->first;
    int j = some.begin / 16 * 16;
    for (; j + 16 < some.end; j += 32) {
      Scores<R, 2>(a, q, block.keys + j, block.ahead, tile->scores + j);
    }
    if (j < some.end) Scores<R, 1>(a, q, block.keys + j, block.ahead, tile->scores + j);
  }

  // Scores to weights.
  template <int R>
  static inline void Weigh(const AttentionItem& a, const Block& block, float* states,
                           Tile<R>* tile) {
    const Seen& some = tile->some;
    if (!some.any()) return;
    if constexpr (Kv::kScaled) Multiply<R>(a, some, block.scales, tile->scores);
    if (a.soft_cap > 0) Cap<R>(a, some, tile->scores);
    float* state = states + tile->first * AttentionStateFloats(a.head_dim);
    if (tile->whole(a)) {
      SoftmaxOfAll<R>(a, state, tile->scores, tile->shrink);
    } else {
      Softmax<R>(a, tile->seen, state, tile->scores, tile->shrink);
    }
    if constexpr (Kv::kScaled) {
      Multiply<R>(a, some, block.scales + RoundUp16(a.block_tokens), tile->scores);
    }
  }

  template <int R>
  static inline void End(const AttentionItem& a, const Tile<R>& tile, const Block& block,
                         float* states) {
    if (!tile.some.any()) return;
    const int64_t padded = RoundUp16(a.block_tokens), stride = AttentionStateFloats(a.head_dim);
    float* state = states + tile.first * stride;
    if (tile.whole(a)) {
      return AllValues<R>(a, state, tile.scores, tile.shrink, {0, a.block_tokens}, block);
    }
    // Positions that all rows see go together, the others row by row; for each row they ascend.
    static constexpr float kOnes[kMaxTileRows] = {1, 1, 1, 1, 1, 1, 1, 1};
    Seen all = tile.all;
    if (kPairs && all.any()) all = {all.begin + all.begin % 2, all.end - all.end % 2};
    if (!all.any()) all = {a.block_tokens, a.block_tokens};
    for (int r = 0; r < R; ++r) {
      const Seen& seen = tile.seen[r];
      if (!seen.any()) continue;
      float* values = state + r * stride + 32;
      for (int64_t d = 0; d < RoundUp16(a.head_dim); d += 16) {
        V::Store(values + d, V::Mul(V::Load(values + d), V::Set(tile.shrink[r])));
      }
      const int to = seen.end < all.begin ? seen.end : all.begin;
      AllValues<1>(a, state + r * stride, tile.scores + r * padded, kOnes, {seen.begin, to}, block);
    }
    AllValues<R>(a, state, tile.scores, kOnes, all, block);
    for (int r = 0; r < R; ++r) {
      AllValues<1>(a, state + r * stride, tile.scores + r * padded, kOnes,
                   {all.end, tile.seen[r].end}, block);
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

  // The scores of the next tile are computed between a tile's weights and its values: the weights
  // are a few long chains, beside which the core has something else to do.
  template <int R>
  static inline void Tiles(const AttentionItem& a, const Rows& rows, int first, const Block& block,
                           const Memory& memory) {
    static_assert(R <= kMaxTileRows);
    if (first + R <= rows.count) {
      Tile<R> tiles[2];
      tiles[0].first = first;
      tiles[0].scores = memory.scores;
      tiles[1].scores = memory.scores + kMaxTileRows * RoundUp16(a.block_tokens);
      Begin<R>(a, rows, block, &tiles[0]);
      for (int at = 0; first + R <= rows.count; at ^= 1, first += R) {
        Weigh<R>(a, block, memory.states, &tiles[at]);
        if (first + 2 * R <= rows.count) {
          tiles[at ^ 1].first = first + R;
          Begin<R>(a, rows, block, &tiles[at ^ 1]);
        }
        End<R>(a, tiles[at], block, memory.states);
      }
    }
    if constexpr (R > 1) {
      if (first < rows.count) Tiles<R - 1>(a, rows, first, block, memory);
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
                     const Memory& memory) {
    const int32_t final_block = rows.last[rows.count - 1] / a.block_tokens;
    for (int32_t b = begin; b < end; ++b) {
      const std::byte* base = a.base + a.table[b] * a.block_stride;
      const std::byte* next = b < final_block ? a.base + a.table[b + 1] * a.block_stride : a.next;
      const Block block = {
          reinterpret_cast<const Element*>(base),
          reinterpret_cast<const Element*>(base + a.value_offset), b * a.block_tokens,
          reinterpret_cast<const float*>(base + a.scale_offset), next == nullptr ? 0 : next - base};
      if constexpr (Kv::kScaled) PrefetchScales(a, next == nullptr ? base : next);
      Tiles<V::kQueryRows>(a, rows, 0, block, memory);
    }
  }

  static void Split(const AttentionItem& a, const Rows& rows, int32_t split, const Memory& memory) {
    Reset(a, rows, memory.states);
    const int32_t past = rows.last[rows.count - 1] / a.block_tokens + 1;
    const int32_t first = rows.first[0] / a.block_tokens;
    const int32_t begin = split * a.split_blocks, end = begin + a.split_blocks;
    Blocks(a, rows, begin < first ? first : begin, end < past ? end : past, memory);
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
    Memory memory = Cut(a, (1 + a.sharer_count) * a.group);
    Rows all;
    for (int i = 0; i <= a.sharer_count; ++i) Describe(One(a, i), memory.queries, &all);
    Reset(a, all, memory.total);
    const int32_t whole = a.shared_blocks / a.split_blocks;
    for (int32_t s = 0; s < whole; ++s) {
      Reset(a, all, memory.states);
      Blocks(a, all, s * a.split_blocks, (s + 1) * a.split_blocks, memory);
      Join(a, all, s, memory.states, memory.total);
    }
    Reset(a, all, memory.states);
    Blocks(a, all, whole * a.split_blocks, a.shared_blocks, memory);
    const int64_t own = AttentionPartialFloats(a.group, a.head_dim);
    for (int i = 0; i <= a.sharer_count; ++i, memory.states += own, memory.total += own) {
      AttentionItem one = One(a, i);
      if (i < a.sharer_count) {
        one.next = a.base + a.sharers[i].table[a.shared_blocks] * a.block_stride;
      }
      Rows rows;
      Describe(one, memory.queries, &rows);
      const int32_t past = one.position / a.block_tokens + 1;
      const int32_t end = (whole + 1) * a.split_blocks;
      Blocks(one, rows, a.shared_blocks, end < past ? end : past, memory);
      Join(one, rows, whole, memory.states, memory.total);
      for (int32_t s = whole + 1; s < one.split_end; ++s) {
        Split(one, rows, s, memory);
        Join(one, rows, s, memory.states, memory.total);
      }
      Write(one, rows, memory.total);
    }
  }

  static void Run(const AttentionItem& a) {
    if (a.sharer_count > 0) return RunFold(a);
    Memory memory = Cut(a, a.tokens * a.group);
    Rows rows;
    Describe(a, memory.queries, &rows);
    if (a.out == nullptr) {
      memory.states = a.partial;
      for (int32_t s = a.split_begin; s < a.split_end; ++s) {
        Split(a, rows, s, memory);
        memory.states += AttentionPartialFloats(rows.count, a.head_dim);
      }
      return;
    }
    Reset(a, rows, memory.total);
    for (int32_t s = a.split_begin; s < a.split_end; ++s) {
      Split(a, rows, s, memory);
      Join(a, rows, s, memory.states, memory.total);
    }
    Write(a, rows, memory.total);
  }

  static void Merge(const AttentionItem& a) {
    Rows rows;
    Describe(a, nullptr, &rows);  // of fp32: their queries as they are
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
