#pragma once
// The strings and vocabularies of tests/golden/text/tokenizer_families.py, made again here.

#include <string>
#include <utility>
#include <vector>

#include "text/tokenizer.h"

namespace millrace::text {

// (text, parse special tokens) of each number. REQUIRES: the golden files are there.
std::vector<std::pair<std::string, bool>> GoldenStrings(const std::vector<std::string>& added);

// tokenizer_FAMILY.json, and the texts of its added tokens in the file's order.
std::string FamilyJson(const std::string& family);
std::vector<std::string> AddedTexts(const TokenizerSpec& spec);
// A real vocabulary: that of Mistral 7B (tokenizer_mistral.vocab), as a GGUF file has it.
TokenizerSpec MistralSpec();
// FNV-1a over the ids, as tokenizer_FAMILY.ids has it.
uint32_t HashOfIds(const std::vector<TokenId>& ids);

}  // namespace millrace::text
