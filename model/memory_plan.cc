#include "model/memory_plan.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "kernels/payload.h"
#include "model/architectures.h"

namespace millrace::model {
namespace {

// Measured on the demo model (49,152 tokens of vocabulary) as RSS less weights, KV and activations:
// 33 MiB idle, 30 to 36 MiB under 200 streams; rounded up to about twice that. The load soak checks
// that RSS stays within the plan. Program and libraries take 19 MiB of it, the rest is threads,
// their buffers and the tokenizer's tables.
constexpr size_t kFixedOverhead = size_t{40} << 20;
// Text, merges and hash tables of a token.
constexpr size_t kOverheadPerVocabularyEntry = 256;
// Buffers of a stream on both sides, a request's tokens and text, scheduler state.
constexpr size_t kOverheadPerSequence = size_t{96} << 10;

int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// What does not depend on the request, found once: a plan looks at many requests.
struct PlannedModel {
  const ModelConfig& config;
  size_t weights = 0;
  size_t weight_files = 0;
  std::unique_ptr<Transformer> shape;  // without weights
};

size_t WeightBytes(const ModelDescription& description) {
  size_t bytes = 0;
  for (const auto& [name, tensor] : description.tensors) {
    const kernels::RawMatrix& matrix = tensor.matrix;
    if (matrix.rows == 1) {
      bytes += static_cast<size_t>(matrix.cols) * sizeof(float);  // vectors are kept as fp32
    } else {
      const kernels::PackedMatrix packed = DescribePacked(description, name);
      // Act-order has an index a column beside the strips.
      bytes += packed.bytes() + packed.payload().gather.size() * sizeof(int32_t);
    }
  }
  return bytes;
}

// Of the kernels, whose buffers grow with the matrices that a step reads (act-order's most).
size_t ScratchBytes(const PlannedModel& model, const PlanRequest& request) {
  StepBounds step;
  step.tokens = request.tokens_per_step;
  step.logits_rows = std::min(request.logits_rows, request.tokens_per_step);
  step.positions = request.max_model_len;
  step.block_tokens = request.kv_groups.front().layout.block_tokens;
  step.stream.workers = request.threads;
  step.stream.tier = kernels::DetectIsaTier();
  step.stream.mode = kernels::ComputeMode::kExact;
  size_t most = model.shape->ScratchBytes(step);
  step.stream.mode = kernels::ComputeMode::kFast;
  most = std::max(most, model.shape->ScratchBytes(step));
  if (!kernels::RunsIsaTier(kernels::IsaTier::kAmx)) return most;
  step.stream.tier = kernels::IsaTier::kAmx;
  return std::max(most, model.shape->ScratchBytes(step));
}

size_t ActivationBytes(const PlannedModel& model, const PlanRequest& request) {
  const size_t vocab = static_cast<size_t>(model.config.vocab_size);
  const size_t rows = static_cast<size_t>(std::min(request.logits_rows, request.tokens_per_step));
  const size_t workspace = model.shape->WorkspaceFloats(request.tokens_per_step) * sizeof(float);
  const size_t logits = rows * vocab * sizeof(float);
  // Two rows of fp32 a sampler.
  const size_t samplers = static_cast<size_t>(request.threads) * vocab * 2 * sizeof(float);
  return workspace + logits + samplers + ScratchBytes(model, request);
}

absl::Status CheckRange(const char* flag, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " is ", value, "; it must be from ", low, " to ", high));
}

// Most blocks that a sequence of `length` holds in a group: in one with a window what the longest
// row of a step sees, at any offset in its first block.
int64_t BlocksOf(const KvGroupLayout& group, const PlanRequest& request, int64_t length) {
  const int64_t block = group.layout.block_tokens;
  const int64_t all = CeilDiv(length, block);
  if (group.window == 0) return all;
  const int64_t seen = group.window + std::min(request.tokens_per_step, length) - 1;
  return std::min(all, CeilDiv(seen - 1, block) + 1);
}

// Bytes of one sequence of max_model_len alone, null blocks included.
size_t OneSequenceBytes(const PlanRequest& request) {
  size_t bytes = 0;
  for (const KvGroupLayout& group : request.kv_groups) {
    const auto blocks = static_cast<size_t>(BlocksOf(group, request, request.max_model_len));
    bytes += (blocks + 1) * group.layout.BlockBytes();
  }
  return bytes;
}

int64_t ReferenceLen(const PlanRequest& request) {
  constexpr int64_t kWindows = 4;
  int64_t length = request.kv_reference_len;
  for (const KvGroupLayout& group : request.kv_groups) {
    if (request.kv_reference_len != 0 || group.window == 0) continue;
    const int64_t windows = kWindows * group.window;
    length = length == 0 ? windows : std::min(length, windows);
  }
  return length == 0 ? request.max_model_len : std::min(length, request.max_model_len);
}

// Divides `bytes` between the groups: as many reference sequences as fit, but room for one of
// max_model_len in each, and no more than all sequences can use. Returns the blocks of each group,
// the null ones included; fewer than one sequence needs when there is not room for one.
std::vector<int64_t> DivideKv(const PlanRequest& request, int64_t reference_len, size_t bytes) {
  const bool room = OneSequenceBytes(request) <= bytes;
  // `sequences` reference sequences, in parts of 1 / kParts.
  constexpr int64_t kParts = 1024;
  const auto divide = [&](int64_t sequences) {
    std::vector<int64_t> blocks;
    for (const KvGroupLayout& group : request.kv_groups) {
      const int64_t one = BlocksOf(group, request, request.max_model_len);
      const int64_t usual = room ? BlocksOf(group, request, reference_len) : one;
      const int64_t most = std::min<int64_t>(one * request.max_num_seqs, INT32_MAX - 2);
      const int64_t wanted = std::clamp(usual * sequences / kParts, room ? one : 0, most);
      blocks.push_back(wanted + 1);
    }
    return blocks;
  };
  const auto size = [&](int64_t sequences) {
    const std::vector<int64_t> blocks = divide(sequences);
    size_t sum = 0;
    for (size_t g = 0; g < blocks.size(); ++g) {
      sum += static_cast<size_t>(blocks[g]) * request.kv_groups[g].layout.BlockBytes();
    }
    return sum;
  };
  if (size(0) > bytes) return std::vector<int64_t>(request.kv_groups.size(), 0);
  // What the largest cap takes, whatever the reference.
  int64_t low = 0;
  int64_t high = request.max_num_seqs * kParts * CeilDiv(request.max_model_len, reference_len) + 1;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (size(middle) <= bytes ? low : high) = middle;
  }
  return divide(low);
}

// Sets what the plan says of KV.
void PlanKv(const PlanRequest& request, size_t fixed, MemoryPlan& plan) {
  const MachineMemory& memory = plan.memory;
  const size_t left = memory.available > fixed ? memory.available - fixed : 0;
  size_t wanted = request.kv_cache_bytes;
  plan.kv_reason = "--kv-cache-bytes";
  if (wanted == 0) {
    wanted = memory.total / 4;
    plan.kv_reason = "a quarter of the memory";
    if (left < wanted) {
      wanted = left;
      plan.kv_reason = "what the rest leaves";
    }
  }
  const std::vector<int64_t> blocks = DivideKv(request, plan.kv_reference_len, wanted);
  bool useful = true;  // all that can be used
  plan.kv_sequences = std::numeric_limits<double>::infinity();
  for (size_t g = 0; g < blocks.size(); ++g) {
    KvGroupPlan& group = plan.kv_groups.emplace_back();
    group.group = request.kv_groups[g];
    group.per_sequence =
        static_cast<int32_t>(BlocksOf(group.group, request, request.max_model_len));
    group.blocks = static_cast<int32_t>(std::max<int64_t>(0, blocks[g] - 1));
    group.bytes = static_cast<size_t>(blocks[g]) * group.group.layout.BlockBytes();
    plan.kv += group.bytes;
    plan.kv_sequences = std::min(plan.kv_sequences, static_cast<double>(group.blocks) /
                                                        static_cast<double>(group.per_sequence));
    useful = useful && group.blocks >= int64_t{group.per_sequence} * request.max_num_seqs;
  }
  if (useful) plan.kv_reason = "all that --max-num-seqs x --max-model-len can use";
}

// The sizes, without remedies.
MemoryPlan Compute(const PlannedModel& model, const PlanRequest& request,
                   const MachineMemory& memory) {
  MemoryPlan plan;
  plan.max_model_len = request.max_model_len;
  plan.max_num_seqs = request.max_num_seqs;
  plan.tokens_per_step = request.tokens_per_step;
  plan.kv_reference_len = ReferenceLen(request);
  plan.memory = memory;
  plan.weights = model.weights;
  plan.weight_files = model.weight_files;
  plan.activations = ActivationBytes(model, request);
  plan.overhead = kFixedOverhead +
                  static_cast<size_t>(model.config.vocab_size) * kOverheadPerVocabularyEntry +
                  static_cast<size_t>(request.max_num_seqs) * kOverheadPerSequence;
  const size_t fixed = plan.weights + plan.activations + plan.overhead;
  PlanKv(request, fixed, plan);
  if (fixed > memory.available) {
    plan.problem = absl::StrCat("weights, activations and overhead alone need ", HumanBytes(fixed),
                                ", and ", HumanBytes(memory.available), " are available");
  } else if (plan.total() > memory.available) {
    plan.problem = absl::StrCat("it needs ", HumanBytes(plan.total()), ", and ",
                                HumanBytes(memory.available), " are available");
  } else if (plan.kv_sequences < 1) {
    plan.problem = absl::StrCat("the KV cache has ", HumanBytes(plan.kv),
                                ", and one sequence of --max-model-len ", request.max_model_len,
                                " needs ", HumanBytes(OneSequenceBytes(request)));
  }
  return plan;
}

bool Fits(const PlannedModel& model, const PlanRequest& request, const MachineMemory& memory) {
  return Compute(model, request, memory).problem.empty();
}

// The largest value of one member, in steps of `step`, with which the plan fits; 0: none. Fitting
// is monotone in each member that this is used for.
int64_t Largest(const PlannedModel& model, PlanRequest request, const MachineMemory& memory,
                int64_t PlanRequest::*member, int64_t step) {
  int64_t low = 0;
  int64_t high = CeilDiv(request.*member, step) + 1;
  const int64_t most = request.*member;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    request.*member = std::min(middle * step, most);
    (Fits(model, request, memory) ? low : high) = middle;
  }
  return std::min(low * step, most);
}

std::vector<std::string> Remedies(const PlannedModel& model, const PlanRequest& request,
                                  const MachineMemory& memory) {
  std::vector<std::string> out;
  const int64_t step = request.kv_groups.front().layout.block_tokens;
  const int64_t len = Largest(model, request, memory, &PlanRequest::max_model_len, step);
  if (len > 0) out.push_back(absl::StrCat("--max-model-len ", len));

  PlanRequest other = request;
  const MemoryPlan plan = Compute(model, request, memory);
  const size_t fixed = plan.weights + plan.activations + plan.overhead;
  const size_t one = OneSequenceBytes(request);
  // When the flag asked for too much: what is left. When there is too little: one whole sequence.
  const size_t left = memory.available > fixed ? memory.available - fixed : 0;
  other.kv_cache_bytes = plan.kv > left ? left : one;
  if (Fits(model, other, memory)) {
    out.push_back(absl::StrCat("--kv-cache-bytes ", other.kv_cache_bytes));
  }
  if (request.kv_groups.front().layout.type == kernels::KvType::kF32) {
    other = request;
    for (KvGroupLayout& group : other.kv_groups) group.layout.type = kernels::KvType::kBF16;
    if (Fits(model, other, memory)) out.push_back("--kv-cache-dtype bf16");
  }
  const int64_t tokens = Largest(model, request, memory, &PlanRequest::tokens_per_step, 1);
  if (tokens > 0) out.push_back(absl::StrCat("--max-num-batched-tokens ", tokens));
  const int64_t sequences = Largest(model, request, memory, &PlanRequest::max_num_seqs, 1);
  if (sequences > 0) out.push_back(absl::StrCat("--max-num-seqs ", sequences));

  // A machine on which it fits as asked.
  const size_t kv = request.kv_cache_bytes != 0 ? std::max(plan.kv, one) : one;
  if (fixed + kv > memory.available) {
    out.push_back(
        absl::StrCat("a machine or cgroup limit with ", HumanBytes(fixed + kv), " available"));
  }
  return out;
}

}  // namespace

std::string HumanBytes(size_t bytes) {
  const double value = static_cast<double>(bytes);
  if (bytes >= size_t{1} << 30) return absl::StrFormat("%.2f GiB", value / (1 << 30));
  if (bytes >= size_t{1} << 20) return absl::StrFormat("%.1f MiB", value / (1 << 20));
  return absl::StrFormat("%.1f KiB", value / 1024);
}

absl::StatusOr<MemoryPlan> PlanMemory(const ModelDescription& description, const PlanRequest& given,
                                      const MachineMemory& memory) {
  const int64_t context = description.config.context_length;
  PlanRequest request = given;
  if (request.max_model_len == 0) request.max_model_len = context;
  if (request.max_model_len > context && request.max_model_len <= kMaxContext &&
      !request.force_model_len) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--max-model-len is ", request.max_model_len, ", but the model was made for ", context,
        "; --force-model-len goes on all the same, with answers that nobody has vouched for"));
  }
  RETURN_IF_ERROR(CheckRange("--max-model-len", request.max_model_len, 1, kMaxContext));
  RETURN_IF_ERROR(CheckRange("--max-num-seqs", request.max_num_seqs, 1, 65536));
  RETURN_IF_ERROR(CheckRange("--max-num-batched-tokens", request.tokens_per_step, 1, 65536));
  RETURN_IF_ERROR(CheckRange("--kv-reference-len", request.kv_reference_len, 0, kMaxContext));
  RETURN_IF_ERROR(
      CheckRange("--block-size", request.kv_groups.front().layout.block_tokens, 1, 1024));
  ASSIGN_OR_RETURN(auto shape,
                   FindArchitecture(description.config.architecture)->describe(description));
  const PlannedModel model = {description.config, WeightBytes(description), FileBytes(description),
                              std::move(shape)};
  MemoryPlan plan = Compute(model, request, memory);
  PlanRequest longest = request;
  longest.max_model_len = context;
  plan.longest_model_len = Largest(model, longest, memory, &PlanRequest::max_model_len,
                                   request.kv_groups.front().layout.block_tokens);
  if (!plan.problem.empty()) plan.remedies = Remedies(model, request, memory);
  return plan;
}

absl::Status MemoryPlan::Check() const {
  if (problem.empty()) return absl::OkStatus();
  std::string text = absl::StrCat("the model does not fit: ", problem);
  for (size_t i = 0; i < remedies.size(); ++i) {
    absl::StrAppend(&text, i == 0 ? "; any of these would do: " : ", ", remedies[i]);
  }
  return absl::ResourceExhaustedError(text);
}

namespace {

// "12345 tokens in 386 blocks of 32".
std::string TokensLine(const KvGroupPlan& group) {
  const int64_t block = group.group.layout.block_tokens;
  return absl::StrCat(group.blocks * block, " tokens in ", group.blocks, " blocks of ", block);
}

std::string KvLine(const MemoryPlan& plan) {
  const char* type = kernels::KvTypeName(plan.kv_groups.front().group.layout.type);
  const std::string held = plan.kv_groups.size() == 1
                               ? TokensLine(plan.kv_groups.front())
                               : absl::StrCat("divided for sequences of ", plan.kv_reference_len,
                                              " tokens (--kv-reference-len)");
  return absl::StrCat(held, ", ", type, "; ", plan.kv_reason);
}

std::string GroupLine(const KvGroupPlan& group) {
  const int32_t window = group.group.window;
  return absl::StrCat("  ", group.group.layout.layers, " layers that see ",
                      window == 0 ? "all" : absl::StrCat("the last ", window), ": ",
                      TokensLine(group), ", ", group.per_sequence, " a sequence at most");
}

}  // namespace

std::string MemoryPlan::Table() const {
  const auto line = [](const char* name, size_t bytes, const std::string& note) {
    return absl::StrFormat("  %-13s %12s   %s\n", name, HumanBytes(bytes), note);
  };
  std::string out = line(
      "weights", weights,
      absl::StrCat(weights_mapped.empty() ? "packed" : absl::StrCat("mapped from ", weights_mapped),
                   "; ", HumanBytes(weight_files), " in files"));
  absl::StrAppend(&out, line("KV cache", kv, KvLine(*this)));
  if (kv_groups.size() > 1 || kv_groups.front().group.window > 0) {
    for (const KvGroupPlan& group : kv_groups) {
      absl::StrAppend(&out, line("", group.bytes, GroupLine(group)));
    }
  }
  absl::StrAppend(&out, line("activations", activations,
                             absl::StrCat("steps of ", tokens_per_step, " tokens")));
  absl::StrAppend(&out, line("overhead", overhead, absl::StrCat(max_num_seqs, " sequences")));
  absl::StrAppend(&out, line("total", total(), ""));
  absl::StrAppend(&out, line("available", memory.available,
                             absl::StrCat("of ", HumanBytes(memory.total), ", ", memory.source)));
  if (problem.empty()) {
    absl::StrAppendFormat(&out,
                          "fits: %.1f sequences of --max-model-len %d at once; the longest "
                          "--max-model-len that would fit is %d\n",
                          kv_sequences, max_model_len, longest_model_len);
    return out;
  }
  absl::StrAppend(&out, "does not fit: ", problem, "\n");
  for (const std::string& remedy : remedies) absl::StrAppend(&out, "  would fit: ", remedy, "\n");
  return out;
}

}  // namespace millrace::model
