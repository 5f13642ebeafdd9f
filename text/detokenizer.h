#pragma once
// Tokens to text as they arrive, for one choice.

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "text/tokenizer.h"

namespace millrace::text {

// Never emits half a character, and its pieces join to the whole text. Thread: one owner at a time.
class Detokenizer {
 public:
  // `tokenizer` outlives this.
  Detokenizer(const Tokenizer& tokenizer, bool skip_special);

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
  std::string pending_;
};

}  // namespace millrace::text
