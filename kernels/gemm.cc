// Gemm: quantize the activations once, then hand strips of all matrices to the workers.

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/dispatch.h"
#include "kernels/ops.h"
#include "kernels/parallel.h"
#include "kernels/payload.h"

namespace millrace::kernels {
namespace {

constexpr size_t kMaxMatrices = 4;
// Two strips are the widest register tile; a piece of work starts at an even strip of its matrix.
constexpr int64_t kUnitStrips = 2;
// A token chunk keeps the tiles full (a multiple of 2, 3 and 6) and the fork short.
constexpr int64_t kChunkTokens = 48;
// Activations of a chunk, beside kChunkTokens at least: they stay in the second-level cache while
// all strips pass, and their sums and outputs near the first.
constexpr int64_t kCacheBytes = int64_t{384} << 10;
// The same on tiles, of whole pairs of pieces: CPUs that have them have 2 MiB of cache. Making the
// weights is hidden behind the products of 256 tokens and not of fewer, so where the columns are
// many the products are made of so many bytes of a row at a time.
constexpr int64_t kTiledChunkTokens = 256, kTiledRowBytes = 4096;
constexpr int64_t kTiledGrain = 2 * kTileRows;

absl::Status Check(const GemmArgs& a) {
  if (a.weights.empty() || a.weights.size() > kMaxMatrices ||
      a.weights.size() != a.outputs.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("gemm: ", a.weights.size(), " matrices, ", a.outputs.size(), " outputs"));
  }
  if (a.tokens < 0 || (a.tokens > 0 && a.x == nullptr)) {
    return absl::InvalidArgumentError("gemm: no activations");
  }
  for (size_t i = 0; i < a.weights.size(); ++i) {
    if (a.weights[i] == nullptr || a.weights[i]->rows() == 0 ||
        (a.tokens > 0 && a.outputs[i] == nullptr)) {
      return absl::InvalidArgumentError(absl::StrCat("gemm: matrix or output ", i, " is missing"));
    }
    if (a.weights[i]->cols() != a.weights[0]->cols()) {
      return absl::InvalidArgumentError(absl::StrCat("gemm: matrices of ", a.weights[i]->cols(),
                                                     " and of ", a.weights[0]->cols(), " columns"));
    }
  }
  return absl::OkStatus();
}

// The activations as one or several of the matrices read them: columns in the order of their
// strips, in fp32, in 8 bits or as tiles.
struct Input {
  const PackedMatrix::Payload* weights = nullptr;  // one that reads it
  bool quantized = false;
  bool halves = false;
  TiledChoice tiled;
  const float* x = nullptr;  // [tokens, packed_cols]
  QuantizedRows rows;
  TiledRows tiles;
};

// One matrix of the call and where its units lie among all.
struct Part {
  GemmRun run;
  GemmFunction function = nullptr;
  size_t input = 0;
  int64_t pass_columns = 0;
  int64_t unit_begin = 0;
  int64_t units = 0;
};

struct Plan {
  Part parts[kMaxMatrices];
  Input inputs[kMaxMatrices];
  size_t count = 0;
  size_t input_count = 0;
  int64_t units = 0;
  int64_t passes = 1;          // over the columns
  int64_t scratch_floats = 0;  // of each worker
  float* scratch = nullptr;
};

bool SameTiles(const TiledChoice& a, const TiledChoice& b) {
  return a.kernels == b.kernels && a.bytes == b.bytes;
}

// The input that a matrix reads; matrices with the same order of columns share it.
size_t FindInput(Plan& plan, const PackedMatrix::Payload& w, const GemmChoice& choice,
                 const TiledChoice& tiled) {
  size_t i = 0;
  for (; i < plan.input_count; ++i) {
    const PackedMatrix::Payload& other = *plan.inputs[i].weights;
    if (plan.inputs[i].quantized == choice.quantized && other.gather == w.gather &&
        SameTiles(plan.inputs[i].tiled, tiled) &&
        (!choice.quantized || other.per_token == w.per_token)) {
      break;
    }
  }
  plan.input_count = std::max(plan.input_count, i + 1);
  Input& input = plan.inputs[i];
  input.weights = &w;
  input.quantized = choice.quantized;
  input.halves |= choice.halves;
  input.tiled = tiled;
  return i;
}

GroupForm FormOf(const PackedMatrix::Payload& w) {
  GroupForm form;
  form.blocks = w.group.blocks;
  form.header = w.group.header;
  form.bytes = w.group.header + static_cast<size_t>(w.group.blocks) * w.group.block;
  form.scale = w.scale_type == WeightType::kF16    ? GroupForm::Scale::kF16
               : w.scale_type == WeightType::kBF16 ? GroupForm::Scale::kBF16
                                                   : GroupForm::Scale::kF32;
  return form;
}

// Columns whose products are made before those of the next: all, but on tiles even parts of a row
// that do not depend on the tokens, and so neither do the sums.
int64_t PassColumns(const Input& input) {
  const int64_t cols = input.weights->packed_cols;
  if (input.tiled.kernels == nullptr) return cols;
  const int64_t bytes = cols * (input.tiled.bytes ? 1 : 2);
  const int64_t passes = (bytes + kTiledRowBytes - 1) / kTiledRowBytes;
  const int64_t grain = passes * kTiledColumnsOfFew;
  return (cols + grain - 1) / grain * kTiledColumnsOfFew;
}

Plan MakePlan(const GemmArgs& a, const StreamShape& stream) {
  Plan plan;
  plan.count = a.weights.size();
  for (size_t i = 0; i < plan.count; ++i) {
    const PackedMatrix::Payload& w = a.weights[i]->payload();
    const TiledChoice tiled = ChooseTiled(w, a.tokens, stream);
    const bool on_tiles = tiled.kernels != nullptr;
    const GemmChoice choice =
        on_tiles ? GemmChoice{tiled.kernels->gemm} : ChooseGemm(w.kind, stream.mode, stream.tier);
    Part& part = plan.parts[i];
    part.function = choice.function;
    part.input = FindInput(plan, w, choice, tiled);
    part.run.strips = w.data.get();
    part.run.strip_bytes = w.strip_bytes;
    part.run.strip_end = static_cast<int64_t>(w.bytes / w.strip_bytes);
    part.run.rows = w.rows;
    part.run.cols = w.packed_cols;
    part.pass_columns = PassColumns(plan.inputs[part.input]);
    plan.passes =
        std::max(plan.passes, (w.packed_cols + part.pass_columns - 1) / part.pass_columns);
    part.run.group = FormOf(w);
    part.run.fill = tiled.fill;
    part.run.tokens = a.tokens;
    part.run.out = a.outputs.empty() ? nullptr : a.outputs[i];  // none while bytes are counted
    part.run.accumulate = a.accumulate;
    part.unit_begin = plan.units;
    part.units = (part.run.strip_end + kUnitStrips - 1) / kUnitStrips;
    plan.units += part.units;
    plan.scratch_floats = std::max(
        plan.scratch_floats, on_tiles ? TiledScratchFloats(a.tokens) : GemmScratchFloats(a.tokens));
  }
  plan.scratch_floats += kWorkerGapFloats;
  return plan;
}

// Hands out consecutive pieces of the scratch, or only counts them while it has none.
class Pieces {
 public:
  explicit Pieces(void* base) : base_(static_cast<std::byte*>(base)) {}
  template <class T>
  T* Take(int64_t count) {
    T* piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + bytes_);
    bytes_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* base_;
  size_t bytes_ = 0;
};

// Where an input is made; what it does not need is null or, for x, the caller's.
struct InputBuffers {
  float* gathered = nullptr;
  int8_t* q = nullptr;
  float* scale = nullptr;
  float* sum = nullptr;
  int32_t* bias8 = nullptr;
  int32_t* halves = nullptr;
  std::byte* tiles = nullptr;
  float* tile_scale = nullptr;
};

// Of the tiles of 16 tokens.
int64_t PieceBytes(const Input& input) {
  return TileDepth(input.tiled.bytes, input.weights->packed_cols) * kTileBytes;
}

InputBuffers TakeInput(const Input& input, int64_t tokens, Pieces& pieces) {
  InputBuffers b;
  const int64_t values = tokens * input.weights->packed_cols;
  if (!input.weights->gather.empty()) b.gathered = pieces.Take<float>(values);
  if (input.tiled.kernels != nullptr) {
    b.tiles = pieces.Take<std::byte>(RoundUp16(tokens) / kTileRows * PieceBytes(input));
    if (input.tiled.bytes) b.tile_scale = pieces.Take<float>(RoundUp16(tokens));
  }
  if (!input.quantized) return b;
  b.q = pieces.Take<int8_t>(values);
  b.scale = pieces.Take<float>(values / kBlock);
  b.sum = pieces.Take<float>(values / kBlock);
  b.bias8 = pieces.Take<int32_t>(values / kBlock);
  if (input.halves) b.halves = pieces.Take<int32_t>(values / 16);
  return b;
}

// One token as its row of the tiles; null: none, zeros.
void MakeTileRow(const Input& input, const InputBuffers& b, const float* x, int64_t token) {
  TileRow row;
  row.x = x;
  row.cols = input.weights->packed_cols;
  row.bytes = input.tiled.bytes;
  row.row = static_cast<int>(token % kTileRows);
  row.tiles = b.tiles + token / kTileRows * PieceBytes(input);
  if (row.bytes) row.scale = b.tile_scale + token / kTileRows * kTileRows;
  input.tiled.kernels->make_row(row);
}

// Gathers and quantizes one token.
void MakeInputRow(const Input& input, const InputBuffers& b, const float* x, int64_t token,
                  QuantizeFunction quantize) {
  const std::vector<int32_t>& gather = input.weights->gather;
  const int64_t cols = input.weights->packed_cols, block = token * (cols / kBlock);
  if (b.gathered != nullptr) {
    float* row = b.gathered + token * cols;
    for (int64_t k = 0; k < cols; ++k) {
      const int32_t from = gather[static_cast<size_t>(k)];
      row[k] = from < 0 ? 0.0f : x[from];
    }
    x = row;
  }
  if (input.tiled.kernels != nullptr) MakeTileRow(input, b, x, token);
  if (!input.quantized) return;
  int8_t* q = b.q + token * cols;
  quantize(x, cols, q, b.scale + block, b.sum + block, b.bias8 + block);
  if (!input.halves) return;
  for (int64_t half = 0; half < cols / 16; ++half) {
    int32_t sum = 0;
    for (int64_t i = 0; i < 16; ++i) sum += q[16 * half + i];
    b.halves[2 * block + half] = -4 * sum;
  }
}

// Cuts the scratch for all inputs and workers; returns its bytes.
size_t TakeScratch(Plan& plan, int64_t tokens, int workers, Pieces pieces,
                   InputBuffers (&buffers)[kMaxMatrices]) {
  for (size_t i = 0; i < plan.input_count; ++i) {
    buffers[i] = TakeInput(plan.inputs[i], tokens, pieces);
  }
  plan.scratch = pieces.Take<float>(plan.scratch_floats * workers);
  return pieces.bytes();
}

void MakeInputs(const GemmArgs& a, Plan& plan, Stream& stream) {
  InputBuffers buffers[kMaxMatrices];
  const int workers = stream.pool().workers();
  const size_t bytes = TakeScratch(plan, a.tokens, workers, Pieces(nullptr), buffers);
  TakeScratch(plan, a.tokens, workers, Pieces(stream.Scratch(bytes)), buffers);
  for (size_t i = 0; i < plan.input_count; ++i) {
    Input& input = plan.inputs[i];
    const InputBuffers& b = buffers[i];
    input.x = b.gathered != nullptr ? b.gathered : a.x;
    input.rows = {b.q, b.scale, b.sum, b.bias8, b.halves};
    input.tiles = {input.tiled.bytes, b.tiles, b.tile_scale};
    if (b.tiles != nullptr) {  // the last tile's rows beyond the tokens
      const int64_t end = RoundUp16(a.tokens);
      for (int64_t t = a.tokens; t < end; ++t) MakeTileRow(input, b, nullptr, t);
    }
    if (b.gathered == nullptr && b.tiles == nullptr && !input.quantized) continue;
    const QuantizeFunction quantize = input.weights->per_token
                                          ? ChooseQuantizeToken(stream.tier())
                                          : ChooseRowKernels(stream.tier()).quantize;
    const int64_t cols = a.weights[0]->cols();
    ForEach(stream, static_cast<size_t>(a.tokens),
            static_cast<size_t>(input.weights->packed_cols) * 2,
            [&](size_t begin, size_t end, int) {
              for (auto t = static_cast<int64_t>(begin); t < static_cast<int64_t>(end); ++t) {
                MakeInputRow(input, b, a.x + t * cols, t, quantize);
              }
            });
  }
}

// The part of an input that starts at a token, for tiles the first of a piece; they are described
// in `tiles`.
void SetInput(const Input& input, int64_t token, GemmRun& run, TiledRows& tiles) {
  run.x = input.x + token * run.cols;
  if (input.tiled.kernels != nullptr) {
    tiles = input.tiles;
    tiles.tiles += token / kTileRows * PieceBytes(input);
    if (tiles.bytes) tiles.scale += token;
    run.tiled = &tiles;
  }
  if (!input.quantized) return;
  const QuantizedRows& rows = input.rows;
  const int64_t block = token * (run.cols / kBlock);
  run.quantized = {rows.q + token * run.cols, rows.scale + block, rows.sum + block,
                   rows.bias8 + block, rows.halves == nullptr ? nullptr : rows.halves + 2 * block};
}

// Units [begin, end) of all parts for tokens [token_begin, token_end), in a pass over the columns.
void RunUnits(const Plan& plan, int64_t pass, int64_t begin, int64_t end, int64_t token_begin,
              int64_t token_end, float* scratch) {
  for (size_t i = 0; i < plan.count; ++i) {
    const Part& part = plan.parts[i];
    const int64_t first = std::max<int64_t>(begin - part.unit_begin, 0);
    const int64_t last = std::min(end - part.unit_begin, part.units);
    const int64_t column = pass * part.pass_columns;
    if (first >= last || column >= part.run.cols) continue;
    GemmRun run = part.run;
    run.strip_begin = first * kUnitStrips;
    run.strip_end = std::min(last * kUnitStrips, part.run.strip_end);
    run.tokens = token_end - token_begin;
    run.out += token_begin * run.rows;
    TiledRows tiles;
    SetInput(plan.inputs[part.input], token_begin, run, tiles);
    tiles.begin = column;
    tiles.end = std::min(column + part.pass_columns, run.cols);
    run.accumulate |= pass > 0;
    run.scratch = scratch;
    part.function(run);
  }
}

// Tokens that pass all strips together: all of them if they fit the cache, in even chunks if not,
// or where the matrices are narrow and the workers many.
int64_t TokensOfChunk(const Plan& plan, int64_t tokens, int workers) {
  int64_t bytes = 1;  // of a row
  bool tiled = false;
  for (size_t i = 0; i < plan.input_count; ++i) {
    const Input& input = plan.inputs[i];
    bytes = std::max(bytes, input.weights->packed_cols * (input.quantized ? 1 : 4));
    tiled |= input.tiled.kernels != nullptr;
  }
  const int64_t fit = tiled ? kTiledChunkTokens : std::max(kCacheBytes / bytes, kChunkTokens);
  const int64_t wanted = 4 * workers;
  const int64_t narrow =
      std::min((tokens + kChunkTokens - 1) / kChunkTokens, (wanted + plan.units - 1) / plan.units);
  const int64_t chunks = std::max({int64_t{1}, narrow, (tokens + fit - 1) / fit});
  const int64_t chunk = (tokens + chunks - 1) / chunks;
  return tiled ? (chunk + kTiledGrain - 1) / kTiledGrain * kTiledGrain : chunk;
}

}  // namespace

size_t GemmScratchBytes(std::span<const PackedMatrix* const> weights, int64_t tokens,
                        const StreamShape& stream) {
  GemmArgs args;
  args.tokens = tokens;
  args.weights = weights;
  Plan plan = MakePlan(args, stream);
  InputBuffers buffers[kMaxMatrices];
  return TakeScratch(plan, tokens, stream.workers, Pieces(nullptr), buffers);
}

absl::Status Gemm(const GemmArgs& args, Stream& stream) {
  if (absl::Status status = Check(args); !status.ok()) return status;
  if (args.tokens == 0) return absl::OkStatus();
  Plan plan = MakePlan(args, stream.shape());
  MakeInputs(args, plan, stream);
  const int64_t chunk = TokensOfChunk(plan, args.tokens, stream.pool().workers());
  const int64_t chunks = (args.tokens + chunk - 1) / chunk;
  const int64_t cols = args.weights[0]->cols() / plan.passes;
  const auto unit_cost = static_cast<size_t>(kUnitStrips * cols * chunk);
  for (int64_t pass = 0; pass < plan.passes; ++pass) {
    ForEach(stream, static_cast<size_t>(plan.units * chunks), unit_cost,
            [&](size_t begin, size_t end, int worker) {
              float* own = plan.scratch + worker * plan.scratch_floats;
              // Index = chunk * units + unit: a piece is a run of strips of one chunk or two.
              for (auto i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end);) {
                const int64_t c = i / plan.units, unit = i % plan.units;
                const int64_t run = std::min(plan.units - unit, static_cast<int64_t>(end) - i);
                const int64_t token = c * chunk;
                RunUnits(plan, pass, unit, unit + run, token, std::min(token + chunk, args.tokens),
                         own);
                i += run;
              }
            });
  }
  return absl::OkStatus();
}

}  // namespace millrace::kernels
