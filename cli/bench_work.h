#pragma once
// The work that `millrace bench` times: real steps of the real executor, driven by hand, without
// scheduler, tokenizer or doors.
//
//   prefill   one prompt of random tokens, in steps as long as `serve` makes them, a sample at the
//             end; the best of `repeats` after one to warm up counts (what else runs only adds
//             time)
//   decode    B sequences that hold C tokens each, then `steps` steps of one token a sequence, each
//             sampled; the mean counts
//
// Each sequence has KV memory of its own: the prompt is computed once and its blocks are copied.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "base/thread_pool.h"
#include "executor/step_executor.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace millrace::cli {

// Multiplications of weights for one token. Attention is not in it.
struct LinearWork {
  double layers = 0;  // for each input token
  double head = 0;    // for each row that has logits
};
// REQUIRES: a checked description.
LinearWork LinearWorkOf(const model::ModelDescription& description);

struct PrefillFigure {
  int64_t tokens = 0;
  double seconds = 0;
  double ops = 0;  // of weights; a multiply and an add are two
};

struct DecodeFigure {
  int64_t batch = 0;
  int64_t context = 0;  // tokens of each sequence when the first step began
  double seconds = 0;   // of a step
  double bytes = 0;     // packed weights and KV that a step reads
  double ops = 0;       // as above, of a step
};

// What is measured. The pointees outlive it.
struct BenchSubject {
  const model::Transformer* transformer = nullptr;
  ThreadPool* pool = nullptr;
  executor::StepExecutorOptions executor;  // all but the sizes, which the work decides
  LinearWork work;
  int64_t steps = 64;
  int64_t repeats = 3;
};

// KV blocks of a group that hold these sequences and the one that they are copied from.
int64_t BlocksFor(int64_t batch, int64_t context, const BenchSubject& subject);

// REQUIRES: tokens, batches, context and steps are positive, and context + steps + 1 at most the
// model's context length. Errors are the executor's.
absl::StatusOr<PrefillFigure> MeasurePrefill(const BenchSubject& subject, int64_t tokens);
absl::StatusOr<std::vector<DecodeFigure>> MeasureDecode(const BenchSubject& subject,
                                                        int64_t context,
                                                        const std::vector<int64_t>& batches);

}  // namespace millrace::cli
