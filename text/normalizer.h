#pragma once
// Brings text into the form that a vocabulary was trained on.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/tokenizer_spec.h"

namespace millrace::text {

// Thread: immutable.
class Normalizer {
 public:
  explicit Normalizer(std::vector<NormalizerStep> steps) : steps_(std::move(steps)) {}

  bool empty() const { return steps_.empty(); }
  // `text` after all steps: itself where they change nothing, else a view into `storage`. Any
  // bytes; what is no UTF-8 passes unchanged. Time is linear up to a logarithm. `at_start`: `text`
  // is the beginning of what is normalized, where a prefix goes.
  std::string_view Apply(std::string_view text, std::string& storage, bool at_start = true) const;

 private:
  std::vector<NormalizerStep> steps_;
};

}  // namespace millrace::text
