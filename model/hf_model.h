#pragma once
// A Hugging Face checkpoint turned into the neutral description. Tables only: of the weights, no
// more is read than the indices of act-order and biases that must be zero.

#include <deque>

#include "absl/status/statusor.h"
#include "model/hf_checkpoint.h"
#include "model/hf_quantization.h"
#include "model/weights.h"

namespace millrace::model {

// A validated configuration and tensors that point into the bytes of `source`; what grouped
// matrices need beside them goes to `groups`, whose elements must not move. Errors are one line
// that names the file and the key or tensor.
absl::StatusOr<ModelDescription> DescribeHf(const HfSource& source,
                                            std::deque<kernels::RawGroups>* groups);

}  // namespace millrace::model
