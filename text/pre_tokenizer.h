#pragma once
// Cuts text into the pieces within which byte-level BPE merges. Each published vocabulary was
// trained with one way of cutting; the registry in the .cc has a row for each.

#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace millrace::text {

// Thread: immutable.
class PreTokenizer {
 public:
  // InvalidArgument for a name that has no row, listing those that have.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> Create(std::string_view name);
  ~PreTokenizer();

  // Appends the pieces of `text`, in order; joined they are `text`. Any bytes: invalid UTF-8
  // becomes pieces of its own. Linear time, and no stack that grows with the text.
  void Split(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  struct Stages;
  explicit PreTokenizer(std::unique_ptr<Stages> stages);
  std::unique_ptr<Stages> stages_;
};

}  // namespace millrace::text
