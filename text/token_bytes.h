#pragma once
// What the tokens of a vocabulary stand for.

#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer_spec.h"

namespace millrace::text {

// The bytes of tokens[i] after the decoder's steps (SentencePiece tokens keep their leading space).
std::vector<std::string> TokenBytesOf(const TokenizerSpec& spec);
// The byte that "<0xE4>" stands for, or -1.
int ByteOfToken(std::string_view spelling);

}  // namespace millrace::text
