#pragma once
// The published ways of cutting text before byte-level BPE. Only these regular expressions are
// taken: a pattern out of a file could need exponential time, these need linear time.

#include <string>
#include <string_view>

#include "text/tokenizer_spec.h"

namespace millrace::text {

// The known pattern that `published`, spelled as in a tokenizer.json, is, for PCRE2; "" if none.
std::string PatternForPcre2(std::string_view published);
// The pattern of GPT-2, which a tokenizer.json may ask for without spelling it.
std::string_view Gpt2Pattern();

// Fills splits, normalizer and ignore_merges of `spec` for a name of tokenizer.ggml.pre. False if
// there is no such row; `known` then lists those that are.
bool SetPreTokenizer(std::string_view name, TokenizerSpec& spec, std::string& known);

}  // namespace millrace::text
