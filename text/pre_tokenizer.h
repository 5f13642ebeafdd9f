#pragma once
// Cuts text into the pieces within which BPE merges. Each published vocabulary was trained with one
// way of cutting: text/split_patterns.h has them.

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "text/tokenizer_spec.h"

namespace millrace::text {

// Thread: immutable.
class PreTokenizer {
 public:
  // InvalidArgument for a pattern that is not known.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> Create(std::vector<SplitStep> steps);
  ~PreTokenizer();

  // Appends the pieces of `text`, in order; joined they are `text` unless a step removes or adds
  // something. They view `text` or `storage`. `at_start`: nothing comes before this text. Any
  // bytes: invalid UTF-8 becomes pieces of its own. Linear time, and no stack that grows with the
  // text.
  void Split(std::string_view text, bool at_start, std::deque<std::string>& storage,
             std::vector<std::string_view>& pieces) const;

 private:
  struct Stage;
  explicit PreTokenizer(std::vector<Stage> stages);
  std::vector<Stage> stages_;
};

}  // namespace millrace::text
