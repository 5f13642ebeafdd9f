#pragma once
// The parts of a tokenizer.json around its vocabulary, each as the steps of a TokenizerSpec.

#include "absl/status/status.h"
#include "text/json_field.h"
#include "text/tokenizer_spec.h"

namespace millrace::text {

// Each fills its part of `spec`; an absent field is no steps. InvalidArgument names what is not
// known, a type or an option of one.
absl::Status ReadNormalizer(const JsonField& field, TokenizerSpec& spec);
// Sets spec.model: "bpe" where the last step spells bytes as characters, else "spm".
absl::Status ReadPreTokenizer(const JsonField& field, TokenizerSpec& spec);
// After ReadPreTokenizer: bytes must be read back as they were spelled.
absl::Status ReadDecoder(const JsonField& field, TokenizerSpec& spec);
// After the vocabulary: the ids before and after a text.
absl::Status ReadPostProcessor(const JsonField& field, TokenizerSpec& spec);

}  // namespace millrace::text
