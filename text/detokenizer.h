#pragma once
// Tokens to text as they arrive, for one choice.

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "text/tokenizer.h"

namespace millrace::text {

// Never emits half a character, and its pieces join to the whole text (at the start of a text: to
// that of Decode). Thread: one owner at a time.
class Detokenizer {
 public:
  // `tokenizer` outlives this. `at_start`: no text comes before this one, so the space that some
  // encoders put before a text is dropped. The answer to a prompt is not at the start.
  Detokenizer(const Tokenizer& tokenizer, bool skip_special, bool at_start = false);

  // The text that became complete with `token`: valid UTF-8, perhaps empty. Bytes that can never
  // become a character are replaced by U+FFFD at once.
  std::string Append(TokenId token);
  // What is still held back, incomplete bytes as U+FFFD. Call at the end.
  std::string Flush();
  // Bytes held back.
  size_t pending() const { return pending_.size(); }

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  bool at_start_;
  std::string pending_;
};

}  // namespace millrace::text
