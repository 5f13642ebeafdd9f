#pragma once
// Runs a model through the real executor and keeps the logits of chosen positions; and breaks
// models on purpose.

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "executor/step_driver.h"
#include "executor/step_executor.h"
#include "model/load_model.h"

namespace millrace::golden {

using LogitRows = std::map<int32_t, std::vector<float>>;  // by position

struct RunOptions {
  kernels::ComputeMode mode = kernels::ComputeMode::kExact;
  int32_t chunk = 512;
  int32_t max_model_len = 0;  // 0: the model's context
  kernels::IsaTier tier = kernels::DetectIsaTier();
  std::optional<kernels::KvType> kv_type = std::nullopt;  // nullopt: as the mode wants it
};

// Logits of `positions` (all when empty) of one prompt.
inline absl::StatusOr<LogitRows> RunLogits(const model::Transformer& transformer, ThreadPool& pool,
                                           const std::vector<int32_t>& ids,
                                           const std::vector<int32_t>& positions,
                                           const RunOptions& run) {
  LogitRows rows;
  executor::StepExecutorOptions options;
  options.mode = run.mode;
  options.max_model_len = run.max_model_len != 0
                              ? run.max_model_len
                              : static_cast<int32_t>(transformer.config().context_length);
  options.tier = run.tier;
  options.kv_type = run.kv_type;
  options.kv_blocks = static_cast<int32_t>(ids.size()) / options.block_tokens + 2;
  options.max_num_seqs = 1;
  options.poison_kv = true;
  options.observer = [&](const executor::LogitsRow& row) {
    if (positions.empty() ||
        std::find(positions.begin(), positions.end(), row.position) != positions.end()) {
      rows[row.position].assign(row.logits.begin(), row.logits.end());
    }
  };
  ASSIGN_OR_RETURN(const auto executor, executor::StepExecutor::Create(transformer, pool, options));
  executor::StepDriver driver(*executor);
  const int sequence = driver.Add(ids);
  while (driver.pending(sequence) > 0) {
    executor::DriverWork work;
    work.sequence = sequence;
    const int32_t begin = static_cast<int32_t>(ids.size()) - driver.pending(sequence);
    work.tokens = std::min(run.chunk, driver.pending(sequence));
    // The head is much of the work: only where its rows are wanted.
    work.score =
        positions.empty() || std::any_of(positions.begin(), positions.end(), [&](int32_t position) {
          return position >= begin && position < begin + work.tokens;
        });
    work.sample = work.tokens == driver.pending(sequence);
    ASSIGN_OR_RETURN(const StepResult result, driver.Step({&work, 1}));
    if (work.sample) break;
  }
  return rows;
}

// A model file whose description may be changed before it is packed.
struct Mutant {
  model::ModelDescription description;
  std::vector<std::unique_ptr<std::vector<std::byte>>> storage;

  // A private copy of a tensor's bytes, which the description then points to.
  std::byte* Own(const std::string& name) {
    kernels::RawMatrix& matrix = description.tensors.at(name).matrix;
    const std::byte* data = static_cast<const std::byte*>(matrix.data);
    storage.push_back(std::make_unique<std::vector<std::byte>>(data, data + matrix.bytes));
    matrix.data = storage.back()->data();
    return storage.back()->data();
  }
};

struct Mutation {
  const char* name;
  const char* what;
  std::function<void(Mutant&)> apply;
};

inline void SwapRows(Mutant& mutant, const std::string& name, int64_t a, int64_t b, int64_t count) {
  const kernels::RawMatrix matrix = mutant.description.tensors.at(name).matrix;
  const size_t row = matrix.bytes / static_cast<size_t>(matrix.rows);
  std::byte* data = mutant.Own(name);
  std::swap_ranges(data + static_cast<size_t>(a) * row, data + static_cast<size_t>(a + count) * row,
                   data + static_cast<size_t>(b) * row);
}

// Calls change(block bytes) for every block of a tensor.
inline void ForBlocks(Mutant& mutant, const std::string& name,
                      const std::function<void(std::byte*, size_t)>& change) {
  const kernels::RawMatrix matrix = mutant.description.tensors.at(name).matrix;
  const size_t block = static_cast<size_t>(kernels::BlockBytes(matrix.type));
  std::byte* data = mutant.Own(name);
  for (size_t i = 0; i < matrix.bytes / block; ++i) change(data + i * block, i);
}

// Each must be seen by the goldens, 20 times over. `gate` is a 4-bit tensor with a scale in the
// first two bytes of a block and 16 bytes of nibbles at its end.
inline std::vector<Mutation> Mutations() {
  return {
      {"rope off", "no rotation at all",
       [](Mutant& m) {
         model::RopeConfig& rope = m.description.config.rope;
         rope.freq_factors.assign(static_cast<size_t>(rope.rotary_dim / 2), 1e30f);
       }},
      {"theta x2", "rope frequency base doubled",
       [](Mutant& m) { m.description.config.rope.freq_base *= 2; }},
      {"pairs permuted", "half-split rope on rows permuted for interleaved pairs",
       [](Mutant& m) {
         model::RopeConfig& rope = m.description.config.rope;
         rope.interleaved = !rope.interleaved;
       }},
      {"heads permuted", "layer 0: the first and the last query head swapped",
       [](Mutant& m) {
         const model::ModelConfig& config = m.description.config;
         SwapRows(m, "layers.0.q", 0, (config.heads - 1) * config.head_dim, config.head_dim);
       }},
      {"scale shifted", "layer 0 up: every scale is its right neighbour's",
       [](Mutant& m) {
         const size_t blocks = m.description.tensors.at("layers.0.up").matrix.bytes / 20;
         ForBlocks(m, "layers.0.up", [&](std::byte* block, size_t i) {
           if (i + 1 < blocks) std::memcpy(block, block + 20, 2);
         });
       }},
      {"nibbles swapped", "layer 0 up: low and high half of each byte exchanged",
       [](Mutant& m) {
         ForBlocks(m, "layers.0.up", [](std::byte* block, size_t) {
           for (int i = 4; i < 20; ++i) block[i] = (block[i] << 4) | (block[i] >> 4);
         });
       }},
  };
}

inline absl::StatusOr<std::unique_ptr<model::Transformer>> MakeMutant(const model::ModelFile& file,
                                                                      const Mutation* mutation,
                                                                      kernels::Stream& stream) {
  Mutant mutant;
  mutant.description = file.description();
  if (mutation != nullptr) mutation->apply(mutant);
  model::PackArgs args;
  args.stream = &stream;
  return model::FindArchitecture(mutant.description.config.architecture)
      ->make(mutant.description, args);
}

}  // namespace millrace::golden
