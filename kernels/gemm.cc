// Gemm: quantize the activations once, then hand strips of all matrices to the workers.

#include <algorithm>

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

// One matrix of the call and where its units lie among all.
struct Part {
  GemmRun run;
  GemmFunction function = nullptr;
  int64_t unit_begin = 0;
  int64_t units = 0;
};

struct Plan {
  Part parts[kMaxMatrices];
  size_t count = 0;
  int64_t units = 0;
  bool quantize = false;  // some part reads quantized activations
  bool exact = false;     // some part needs the workers' scratch
};

Plan MakePlan(const GemmArgs& a, Stream& stream) {
  Plan plan;
  plan.count = a.weights.size();
  for (size_t i = 0; i < plan.count; ++i) {
    const PackedMatrix::Payload& w = a.weights[i]->payload();
    const GemmChoice choice = ChooseGemm(w.type, stream.mode(), stream.tier());
    Part& part = plan.parts[i];
    part.function = choice.function;
    part.run.strips = w.data.get();
    part.run.strip_bytes = w.strip_bytes;
    part.run.strip_end = static_cast<int64_t>(w.bytes / w.strip_bytes);
    part.run.rows = w.rows;
    part.run.cols = w.cols;
    part.run.tokens = a.tokens;
    part.run.x = a.x;
    part.run.out = a.outputs[i];
    part.run.accumulate = a.accumulate;
    part.unit_begin = plan.units;
    part.units = (part.run.strip_end + kUnitStrips - 1) / kUnitStrips;
    plan.units += part.units;
    (choice.quantized ? plan.quantize : plan.exact) = true;
  }
  return plan;
}

struct Scratch {
  int8_t* q = nullptr;
  float* scale = nullptr;
  float* sum = nullptr;
  int32_t* bias8 = nullptr;
  float* exact = nullptr;  // a piece for each worker
  int64_t exact_floats = 0;
};

size_t Align64(size_t n) {
  return (n + 63) / 64 * 64;
}

Scratch TakeScratch(const Plan& plan, int64_t tokens, int64_t cols, Stream& stream) {
  const size_t values = plan.quantize ? static_cast<size_t>(tokens * cols) : 0;
  const size_t q_bytes = Align64(values), block_bytes = Align64(values / kBlock * sizeof(float));
  Scratch s;
  s.exact_floats = plan.exact ? ExactScratchFloats(tokens) : 0;
  const size_t exact_bytes = static_cast<size_t>(s.exact_floats) * sizeof(float);
  const size_t workers = static_cast<size_t>(stream.pool().workers());
  auto* p =
      static_cast<std::byte*>(stream.Scratch(q_bytes + 3 * block_bytes + workers * exact_bytes));
  s.q = reinterpret_cast<int8_t*>(p);
  s.scale = reinterpret_cast<float*>(p + q_bytes);
  s.sum = reinterpret_cast<float*>(p + q_bytes + block_bytes);
  s.bias8 = reinterpret_cast<int32_t*>(p + q_bytes + 2 * block_bytes);
  s.exact = reinterpret_cast<float*>(p + q_bytes + 3 * block_bytes);
  return s;
}

void QuantizeAll(const GemmArgs& a, int64_t cols, const Scratch& s, Stream& stream) {
  const QuantizeFunction quantize = ChooseRowKernels(stream.tier()).quantize;
  ForEach(stream, static_cast<size_t>(a.tokens), static_cast<size_t>(cols) * 2,
          [&](size_t begin, size_t end, int) {
            for (size_t t = begin; t < end; ++t) {
              const int64_t row = static_cast<int64_t>(t), block = row * (cols / kBlock);
              quantize(a.x + row * cols, cols, s.q + row * cols, s.scale + block, s.sum + block,
                       s.bias8 + block);
            }
          });
}

// Units [begin, end) of all parts for tokens [token_begin, token_end).
void RunUnits(const Plan& plan, int64_t begin, int64_t end, int64_t token_begin, int64_t token_end,
              float* scratch) {
  for (size_t i = 0; i < plan.count; ++i) {
    const Part& part = plan.parts[i];
    const int64_t first = std::max<int64_t>(begin - part.unit_begin, 0);
    const int64_t last = std::min(end - part.unit_begin, part.units);
    if (first >= last) continue;
    GemmRun run = part.run;
    run.strip_begin = first * kUnitStrips;
    run.strip_end = std::min(last * kUnitStrips, part.run.strip_end);
    run.tokens = token_end - token_begin;
    run.x += token_begin * run.cols;
    run.out += token_begin * run.rows;
    const int64_t block = token_begin * (run.cols / kBlock);
    run.quantized = {run.quantized.q + token_begin * run.cols, run.quantized.scale + block,
                     run.quantized.sum + block, run.quantized.bias8 + block};
    run.scratch = scratch;
    part.function(run);
  }
}

}  // namespace

absl::Status Gemm(const GemmArgs& args, Stream& stream) {
  if (absl::Status status = Check(args); !status.ok()) return status;
  if (args.tokens == 0) return absl::OkStatus();
  Plan plan = MakePlan(args, stream);
  const int64_t cols = args.weights[0]->cols();
  const Scratch scratch = TakeScratch(plan, args.tokens, cols, stream);
  if (plan.quantize) QuantizeAll(args, cols, scratch, stream);
  for (size_t i = 0; i < plan.count; ++i) {
    plan.parts[i].run.quantized = {scratch.q, scratch.scale, scratch.sum, scratch.bias8};
  }
  // Narrow matrices and many workers: cut the tokens too.
  const int64_t wanted = 4 * stream.pool().workers();
  const int64_t chunks = plan.units >= wanted
                             ? 1
                             : std::clamp<int64_t>((args.tokens + kChunkTokens - 1) / kChunkTokens,
                                                   1, (wanted + plan.units - 1) / plan.units);
  const int64_t chunk = (args.tokens + chunks - 1) / chunks;
  const size_t unit_cost = static_cast<size_t>(kUnitStrips * cols * chunk);
  ForEach(stream, static_cast<size_t>(plan.units * chunks), unit_cost,
          [&](size_t begin, size_t end, int worker) {
            float* exact = scratch.exact + worker * scratch.exact_floats;
            // Index = chunk * units + unit, so that a piece is a run of strips of one chunk or two.
            for (auto i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end);) {
              const int64_t c = i / plan.units, unit = i % plan.units;
              const int64_t run = std::min(plan.units - unit, static_cast<int64_t>(end) - i);
              const int64_t token = c * chunk;
              RunUnits(plan, unit, unit + run, token, std::min(token + chunk, args.tokens), exact);
              i += run;
            }
          });
  return absl::OkStatus();
}

}  // namespace millrace::kernels
