// Attention over paged KV: write the new keys and values, then share out work items of one KV head
// and a few query rows. Layout of a block in one layer, per KV head: keys [head_dim][tokens padded
// to 16], then values [tokens][head_dim padded to 16]; 16 tokens of one dimension fill a register
// of scores. In int8, the scales of the keys and of the values [2][tokens padded to 16] follow.

#include "kernels/attention.h"

#include <xmmintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/attention_plan.h"
#include "kernels/dispatch.h"
#include "kernels/parallel.h"

namespace millrace::kernels {
namespace {

size_t ElementBytes(KvType type) {
  return type == KvType::kF32 ? 4 : type == KvType::kBF16 ? 2 : 1;
}

// Of one KV head in one block and layer.
size_t KeyBytes(const KvLayout& l) {
  return static_cast<size_t>(l.head_dim * RoundUp16(l.block_tokens)) * ElementBytes(l.type);
}
size_t ValueBytes(const KvLayout& l) {
  return static_cast<size_t>(l.block_tokens * RoundUp16(l.head_dim)) * ElementBytes(l.type);
}
// Scales, in fp32; what lies before them is a multiple of 16 bytes.
size_t ScaleBytes(const KvLayout& l) {
  return l.type == KvType::kInt8 ? static_cast<size_t>(2 * RoundUp16(l.block_tokens)) * 4 : 0;
}
size_t HeadBytes(const KvLayout& l) {
  return KeyBytes(l) + ValueBytes(l) + ScaleBytes(l);
}

bool ValidLayout(const KvLayout& l) {
  return l.layers > 0 && l.kv_heads > 0 && l.head_dim > 0 && l.block_tokens > 0 && l.blocks > 0;
}

absl::Status Check(const AttentionArgs& a) {
  if (a.layout == nullptr || !ValidLayout(*a.layout) || a.layer < 0 ||
      a.layer >= a.layout->layers || a.tokens < 0) {
    return absl::InvalidArgumentError("attention: bad layout, layer or token count");
  }
  if (a.window < 0 || !(a.soft_cap >= 0)) {
    return absl::InvalidArgumentError("attention: negative window or soft cap");
  }
  if (a.heads <= 0 || a.heads % a.layout->kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("attention: ", a.heads, " heads over ", a.layout->kv_heads, " KV heads"));
  }
  if (a.rows.empty()) return absl::OkStatus();
  if (a.q == nullptr || a.k == nullptr || a.v == nullptr || a.out == nullptr ||
      a.arena == nullptr) {
    return absl::InvalidArgumentError("attention: a buffer is missing");
  }
  for (const AttentionRow& r : a.rows) {
    if (r.token_begin < 0 || r.token_count <= 0 ||
        int64_t{r.token_begin} + r.token_count > a.tokens || r.position < 0 || r.first_needed < 0 ||
        r.first_needed > r.position || int64_t{r.position} + r.token_count > INT32_MAX ||
        r.table == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("attention: bad row of ", r.token_count,
                                                     " tokens at position ", r.position));
    }
    const int32_t bt = a.layout->block_tokens;
    for (int32_t b = FirstSeen(a, r, 0) / bt; b <= (r.position + r.token_count - 1) / bt; ++b) {
      if (r.table[b] == 0 || r.table[b] >= a.layout->blocks) {
        return absl::InvalidArgumentError(absl::StrCat("attention: block ", b, " of a row is ",
                                                       r.table[b], " of ", a.layout->blocks));
      }
    }
  }
  return absl::OkStatus();
}

// Round to nearest even. A NaN stays one.
uint16_t ToBf16(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
void Put(float* out, float value) {
  *out = value;
}
void Put(uint16_t* out, float value) {
  *out = ToBf16(value);
}

// A key or value in 8 bits: the scale, and what maps its numbers to -127 .. 127. Infinities and
// NaNs make the scale NaN, so that they reach whatever reads the token. (Magnitudes below 1e-36
// count as zero: 127 / them overflows.)
struct Int8Scale {
  float scale = 0;
  float inverse = 0;
};
Int8Scale ScaleOf(const float* x, int64_t dim) {
  float largest = 0;
  for (int64_t d = 0; d < dim; ++d) {
    const float magnitude = std::abs(x[d]);
    if (!(magnitude < INFINITY)) return {NAN, 0.0f};
    largest = std::max(largest, magnitude);
  }
  return {largest / 127.0f, largest > 1e-36f ? 127.0f / largest : 0.0f};
}
// Adding 1.5 * 2^23 leaves the nearest whole number, ties to even, in the low bits.
int8_t Round(float x) {
  constexpr float kMagic = 0x1.8p23f;
  return static_cast<int8_t>((x + kMagic) - kMagic);
}

// As WriteRun below, which says what the arguments are.
void WriteInt8Run(const AttentionArgs& a, int64_t token, int32_t count, int32_t slot,
                  int32_t kv_head, std::byte* base) {
  const KvLayout& l = *a.layout;
  const int64_t dim = l.head_dim, padded_tokens = RoundUp16(l.block_tokens),
                padded_dim = RoundUp16(dim);
  const int64_t stride = l.kv_heads * dim;
  const float* k = a.k + token * stride + kv_head * dim;
  const float* v = a.v + token * stride + kv_head * dim;
  auto* keys = reinterpret_cast<int8_t*>(base) + slot;
  auto* values = reinterpret_cast<int8_t*>(base + KeyBytes(l)) + slot * padded_dim;
  auto* scales = reinterpret_cast<float*>(base + KeyBytes(l) + ValueBytes(l)) + slot;
  for (int32_t t = 0; t < count; ++t, k += stride, v += stride, ++keys, values += padded_dim) {
    const Int8Scale key = ScaleOf(k, dim), value = ScaleOf(v, dim);
    scales[t] = key.scale;
    scales[padded_tokens + t] = value.scale;
    for (int64_t d = 0; d < dim; ++d) {
      keys[d * padded_tokens] = key.inverse == 0 ? int8_t{0} : Round(k[d] * key.inverse);
      values[d] = value.inverse == 0 ? int8_t{0} : Round(v[d] * value.inverse);
    }
    for (int64_t d = dim; d < padded_dim; ++d) values[d] = 0;
  }
}

// Tokens [token, token + count) of one KV head into slots [slot, ...) of one block.
template <class Element>
void WriteRun(const AttentionArgs& a, int64_t token, int32_t count, int32_t slot, int32_t kv_head,
              std::byte* base) {
  const KvLayout& l = *a.layout;
  const int64_t dim = l.head_dim, padded_tokens = RoundUp16(l.block_tokens),
                padded_dim = RoundUp16(dim);
  const int64_t stride = l.kv_heads * dim;
  const float* k = a.k + token * stride + kv_head * dim;
  const float* v = a.v + token * stride + kv_head * dim;
  auto* keys = reinterpret_cast<Element*>(base);
  auto* values = reinterpret_cast<Element*>(base + KeyBytes(l));
  for (int64_t d = 0; d < dim; ++d) {
    for (int32_t t = 0; t < count; ++t) Put(keys + d * padded_tokens + slot + t, k[t * stride + d]);
  }
  for (int32_t t = 0; t < count; ++t) {
    Element* out = values + (slot + t) * padded_dim;
    for (int64_t d = 0; d < dim; ++d) Put(out + d, v[t * stride + d]);
    for (int64_t d = dim; d < padded_dim; ++d) Put(out + d, 0.0f);
  }
}

// Block 0 of a layer.
std::byte* Layer(const KvLayout& l, std::byte* arena, int64_t layer) {
  return arena + static_cast<size_t>(layer * l.blocks) * l.LayerBlockBytes();
}

// Where a layer's blocks lie.
struct Arena {
  std::byte* layer = nullptr;  // block 0 of the layer
  size_t block_stride = 0;
  size_t head_bytes = 0;
};

// All tokens of a row that fall in block `b` of its table, one KV head.
void WriteBlock(const AttentionArgs& a, const Arena& arena, const AttentionRow& row, int32_t b,
                int32_t kv_head) {
  const KvLayout& l = *a.layout;
  const int32_t begin = std::max(row.position, b * l.block_tokens);
  const int64_t end =
      std::min<int64_t>(int64_t{row.position} + row.token_count, (int64_t{b} + 1) * l.block_tokens);
  std::byte* base = arena.layer + row.table[b] * arena.block_stride +
                    static_cast<size_t>(kv_head) * arena.head_bytes;
  const int64_t token = row.token_begin + (begin - row.position);
  const auto count = static_cast<int32_t>(end - begin);
  const int32_t slot = begin - b * l.block_tokens;
  switch (l.type) {
    case KvType::kF32:
      return WriteRun<float>(a, token, count, slot, kv_head, base);
    case KvType::kBF16:
      return WriteRun<uint16_t>(a, token, count, slot, kv_head, base);
    case KvType::kInt8:
      return WriteInt8Run(a, token, count, slot, kv_head, base);
  }
}

// Scratch of a worker.
int64_t WorkerFloats(const AttentionGeometry& g, const KvLayout& l) {
  const int64_t rows = std::max(g.item_tokens, g.fold_rows) * g.item_heads;
  return RoundUp16(AttentionScratchFloats(rows, l.head_dim, l.block_tokens)) + kWorkerGapFloats;
}

AttentionItem Describe(const AttentionArgs& a, const AttentionGeometry& g, const Arena& arena,
                       const AttentionTask& task) {
  const AttentionRow& row = a.rows[static_cast<size_t>(task.row)];
  const KvLayout& l = *a.layout;
  AttentionItem out;
  const int64_t head = task.kv_head * g.group + task.first_head;
  const int64_t offset = ((row.token_begin + task.first_token) * a.heads + head) * l.head_dim;
  out.q = a.q + offset;
  out.out = a.out + offset;
  out.token_stride = a.heads * l.head_dim;
  out.tokens = task.tokens;
  out.group = task.heads;
  out.position = row.position + task.first_token;
  out.first_needed = row.first_needed;
  out.window = a.window;
  out.scale = a.scale;
  out.soft_cap = a.soft_cap;
  out.head_dim = l.head_dim;
  out.block_tokens = l.block_tokens;
  out.split_blocks = g.split_blocks;
  out.split_begin = task.split_begin;
  out.split_end = task.split_end;
  out.table = row.table;
  out.base = arena.layer + static_cast<size_t>(task.kv_head) * arena.head_bytes;
  out.block_stride = arena.block_stride;
  out.value_offset = KeyBytes(l);
  out.scale_offset = KeyBytes(l) + ValueBytes(l);
  out.shared_blocks = task.shared_blocks;
  return out;
}

// The other sequences of a fold, into `out`.
void DescribeSharers(const AttentionArgs& a, const AttentionPlan& plan, const AttentionTask& task,
                     AttentionSharer* out, AttentionItem* item) {
  const int64_t head = task.kv_head * plan.geometry.group + task.first_head;
  for (int32_t i = 0; i < task.sharer_count; ++i) {
    const int32_t index = plan.sharers[static_cast<size_t>(task.sharers + i)].row;
    const AttentionRow& row = a.rows[static_cast<size_t>(index)];
    const int64_t offset = (row.token_begin * a.heads + head) * a.layout->head_dim;
    out[i] = {a.q + offset, a.out + offset, row.table, row.position};
  }
  item->sharers = out;
  item->sharer_count = task.sharer_count;
}

// The first block that a task reads.
const std::byte* FirstBlock(const AttentionArgs& a, const Arena& arena, const AttentionTask& task) {
  const AttentionRow& row = a.rows[static_cast<size_t>(task.row)];
  const int32_t block = FirstSeen(a, row, task.first_token) / a.layout->block_tokens;
  return arena.layer + row.table[block] * arena.block_stride +
         static_cast<size_t>(task.kv_head) * arena.head_bytes;
}

void WriteAll(const AttentionArgs& a, const Arena& arena, Stream& stream) {
  const int32_t bt = a.layout->block_tokens;
  // Index = (row, KV head); a row's blocks go together.
  const auto heads = static_cast<size_t>(a.layout->kv_heads);
  const size_t cost = static_cast<size_t>(a.tokens * a.layout->head_dim) * 16 / a.rows.size() + 1;
  ForEach(stream, a.rows.size() * heads, cost, [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i) {
      const AttentionRow& row = a.rows[i / heads];
      const int32_t last = (row.position + row.token_count - 1) / bt;
      for (int32_t b = row.position / bt; b <= last; ++b) {
        WriteBlock(a, arena, row, b, static_cast<int32_t>(i % heads));
      }
    }
  });
}

struct Work {
  AttentionPlan plan;
  float* partials = nullptr;
  float* scratch = nullptr;  // a piece for each worker
  int64_t scratch_floats = 0;
  size_t unit_cost = 0;
};

// While it lives, this thread takes subnormal numbers for zeros and makes none, which products of
// bf16 do on their own.
class FlushSubnormals {
 public:
  explicit FlushSubnormals(bool on) : saved_(_mm_getcsr()) {
    constexpr unsigned kFlushToZero = 0x8000, kDenormalsAreZero = 0x40;
    if (on) _mm_setcsr(saved_ | kFlushToZero | kDenormalsAreZero);
  }
  ~FlushSubnormals() { _mm_setcsr(saved_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  unsigned saved_;
};

// Each item alone, all its splits in turn.
void RunItems(const AttentionArgs& a, const Arena& arena, const Work& work, Stream& stream) {
  const AttentionChoice attend = ChooseAttention(a.layout->type, stream.mode(), stream.tier());
  const std::span<const AttentionTask> tasks = work.plan.tasks;
  const size_t cost = work.unit_cost * static_cast<size_t>(work.plan.units) / tasks.size() + 1;
  const auto run = [&](size_t begin, size_t end, int worker) {
    const FlushSubnormals flush(attend.flush);
    AttentionSharer sharers[kMaxQueryRows];
    for (size_t i = begin; i < end; ++i) {
      AttentionItem item = Describe(a, work.plan.geometry, arena, tasks[i]);
      DescribeSharers(a, work.plan, tasks[i], sharers, &item);
      item.scratch = work.scratch + worker * work.scratch_floats;
      if (i + 1 < tasks.size()) item.next = FirstBlock(a, arena, tasks[i + 1]);
      attend.function(item);
    }
  };
  ForEach(stream, tasks.size(), cost, run, Order::kAscending);
}

// Few items with long contexts: their splits are shared out and joined afterwards.
void RunSplits(const AttentionArgs& a, const Arena& arena, const Work& work, Stream& stream) {
  const AttentionChoice attend = ChooseAttention(a.layout->type, stream.mode(), stream.tier());
  const AttentionGeometry& g = work.plan.geometry;
  const std::span<const AttentionTask> tasks = work.plan.tasks;
  const auto run = [&](size_t begin, size_t end, int worker) {
    const FlushSubnormals flush(attend.flush);
    size_t i = 0;
    for (auto unit = static_cast<int64_t>(begin); unit < static_cast<int64_t>(end); ++unit) {
      while (i + 1 < tasks.size() && tasks[i + 1].unit_begin <= unit) ++i;
      const AttentionTask& source = tasks[i];
      AttentionItem item = Describe(a, g, arena, source);
      const int64_t nth = unit - source.unit_begin;
      item.out = nullptr;
      item.split_begin = source.split_begin + static_cast<int32_t>(nth);
      item.split_end = item.split_begin + 1;
      item.partial = work.partials + source.partial_offset +
                     nth * AttentionPartialFloats(source.tokens * source.heads, item.head_dim);
      item.scratch = work.scratch + worker * work.scratch_floats;
      attend.function(item);
    }
  };
  ForEach(stream, static_cast<size_t>(work.plan.units), work.unit_cost, run);
  const FlushSubnormals flush(attend.flush);
  for (const AttentionTask& task : tasks) {
    AttentionItem item = Describe(a, g, arena, task);
    item.partial = work.partials + task.partial_offset;
    item.scratch = work.scratch;
    ChooseRowKernels(stream.tier()).attention_merge(item);
  }
}

size_t RoundUp64(size_t bytes) {
  return (bytes + 63) / 64 * 64;
}
size_t ListBytes(int64_t tasks, size_t rows) {
  return RoundUp64(static_cast<size_t>(tasks) * sizeof(AttentionTask)) +
         RoundUp64(rows * sizeof(AttentionSharing));
}

}  // namespace

const char* KvTypeName(KvType type) {
  switch (type) {
    case KvType::kF32:
      return "f32";
    case KvType::kBF16:
      return "bf16";
    case KvType::kInt8:
      return "int8";
  }
  return "?";
}

size_t KvLayout::LayerBlockBytes() const {
  const size_t bytes = static_cast<size_t>(kv_heads) * HeadBytes(*this);
  return (bytes + 63) / 64 * 64;
}

absl::Status Attention(const AttentionArgs& args, Stream& stream) {
  if (absl::Status status = Check(args); !status.ok()) return status;
  if (args.rows.empty()) return absl::OkStatus();
  const KvLayout& l = *args.layout;
  Arena arena;
  arena.layer = Layer(l, args.arena, args.layer);
  arena.block_stride = l.LayerBlockBytes();
  arena.head_bytes = HeadBytes(l);
  WriteAll(args, arena, stream);

  const int workers = stream.pool().workers();
  Work work;
  const int64_t count = CountAttention(args, workers, &work.plan);
  const AttentionGeometry& g = work.plan.geometry;
  work.scratch_floats = WorkerFloats(g, l);
  work.unit_cost = static_cast<size_t>(g.item_tokens * g.item_heads * l.head_dim) * 16;
  const size_t task_bytes = ListBytes(count, 0), list_bytes = ListBytes(count, args.rows.size());
  const size_t floats = static_cast<size_t>(workers * work.scratch_floats +
                                            (work.plan.split ? work.plan.partial_floats : 0));
  auto* memory = static_cast<std::byte*>(stream.Scratch(list_bytes + floats * sizeof(float)));
  work.scratch = reinterpret_cast<float*>(memory + list_bytes);
  work.partials = work.scratch + workers * work.scratch_floats;
  PlanAttention(args, reinterpret_cast<AttentionTask*>(memory),
                reinterpret_cast<AttentionSharing*>(memory + task_bytes), &work.plan);
  if (work.plan.split) {
    RunSplits(args, arena, work, stream);
  } else {
    RunItems(args, arena, work, stream);
  }
  return absl::OkStatus();
}

// A token has as many items as a row of one token, and more tokens never more. Splits are shared
// out where there are fewer items than two a worker: then there are so few tokens that an item has
// one (the geometry would have cut 4 items a worker otherwise).
size_t AttentionScratchBytes(const AttentionBounds& b, const StreamShape& stream) {
  AttentionArgs args;
  args.layout = &b.layout;
  args.tokens = b.tokens;
  args.heads = b.heads;
  const AttentionGeometry g = ChooseAttentionGeometry(args, stream.workers);
  const int64_t items =
      b.tokens * b.layout.kv_heads * ((g.group + g.item_heads - 1) / g.item_heads);
  const int64_t worker_floats = WorkerFloats(g, b.layout);
  const int64_t split_tokens = int64_t{g.split_blocks} * b.layout.block_tokens;
  const int64_t splits = (b.positions + split_tokens - 1) / split_tokens;
  const int64_t partial_floats = splits < 2
                                     ? 0
                                     : std::min<int64_t>(items, 2 * stream.workers - 1) * splits *
                                           AttentionPartialFloats(g.item_heads, b.layout.head_dim);
  return ListBytes(items, static_cast<size_t>(b.tokens)) +
         static_cast<size_t>(stream.workers * worker_floats + partial_floats) * sizeof(float);
}

absl::Status CopyBlock(const CopyBlockArgs& args, Stream&) {
  if (args.layout == nullptr || !ValidLayout(*args.layout) || args.arena == nullptr) {
    return absl::InvalidArgumentError("copy_block: bad layout or no arena");
  }
  const KvLayout& l = *args.layout;
  if (args.source >= l.blocks || args.target >= l.blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("copy_block: ", args.source, " to ", args.target, " of ", l.blocks));
  }
  if (args.source == args.target) return absl::OkStatus();
  const size_t bytes = l.LayerBlockBytes();
  for (int64_t layer = 0; layer < l.layers; ++layer) {
    std::byte* base = Layer(l, args.arena, layer);
    std::memcpy(base + args.target * bytes, base + args.source * bytes, bytes);
  }
  return absl::OkStatus();
}

}  // namespace millrace::kernels
