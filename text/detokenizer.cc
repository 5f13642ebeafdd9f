#include "text/detokenizer.h"

#include <utility>

#include "base/utf8.h"

namespace millrace::text {

Detokenizer::Detokenizer(const Tokenizer& tokenizer, bool skip_special, bool at_start)
    : tokenizer_(&tokenizer), skip_special_(skip_special), at_start_(at_start) {}

std::string Detokenizer::Append(TokenId token) {
  // A hidden token leaves what is pending as it is: the pieces must join to Decode of all the ids.
  if (skip_special_ && tokenizer_->IsSpecial(token)) return {};
  pending_ += at_start_ ? tokenizer_->FirstTokenBytes(token) : tokenizer_->TokenBytes(token);
  at_start_ = at_start_ && tokenizer_->TokenBytes(token).empty();
  const size_t complete = CompleteUtf8Prefix(pending_);
  if (complete == 0) return {};
  std::string text = ReplaceInvalidUtf8(std::string_view(pending_).substr(0, complete));
  pending_.erase(0, complete);
  return text;
}

std::string Detokenizer::Flush() {
  std::string text = ReplaceInvalidUtf8(pending_);
  pending_.clear();
  return text;
}

}  // namespace millrace::text
