#pragma once
// Text to token ids and back. Whichever file it comes from (GGUF, tokenizer.json), it arrives here
// as a TokenizerSpec.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "text/tokenizer_spec.h"

namespace millrace::text {

// A part of a text that must not be read for special tokens: it came from a client.
struct TextRange {
  size_t begin = 0;
  size_t end = 0;
};

struct EncodeOptions {
  // Read control and user-defined tokens in the text. User-defined tokens are always read.
  bool parse_special = false;
  // With parse_special: a special token that overlaps one of these ranges is plain text. Ascending,
  // disjoint.
  std::span<const TextRange> plain_ranges;
  // Put the beginning-of-sequence token first where the model wants one.
  bool add_special = true;
};

// Thread: immutable.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // InvalidArgument names what is wrong in the spec: a merge of absent tokens, kinds of another
  // length, ids out of range, an unknown pre-tokenizer.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(TokenizerSpec spec);

  // Total: any bytes encode (invalid UTF-8 as its bytes, which is what the model's byte tokens are
  // for; a byte without a token of its own is left out, as the reference implementations do). Time
  // is linear in the text up to a logarithm.
  virtual std::vector<TokenId> Encode(std::string_view text,
                                      const EncodeOptions& options) const = 0;

  // The bytes a token stands for; special tokens give their text. "" for an id that is no token.
  virtual std::string_view TokenBytes(TokenId id) const = 0;
  // The same for the first token of a whole text, where some decoders drop the space that their
  // encoder put before the text.
  virtual std::string_view FirstTokenBytes(TokenId id) const { return TokenBytes(id); }
  virtual bool IsSpecial(TokenId id) const = 0;  // control tokens: hidden by skip_special_tokens
  virtual int32_t vocab_size() const = 0;
  virtual TokenId bos() const = 0;
  virtual TokenId eos() const = 0;
  // The id of the token with exactly this text (special tokens by their text), or -1.
  virtual TokenId FindToken(std::string_view text) const = 0;
};

// Bytes of all tokens of a whole text joined, invalid UTF-8 replaced by U+FFFD.
std::string Decode(const Tokenizer& tokenizer, std::span<const TokenId> ids, bool skip_special);

}  // namespace millrace::text
