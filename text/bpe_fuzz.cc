// Any text encodes, decodes to its own bytes, and streams to the same text.
#include <cstdint>
#include <string>

#include "base/check.h"
#include "base/utf8.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace {

using millrace::TokenId;
namespace text = millrace::text;

// A small vocabulary with every byte and merges of several lengths, so that all bytes round-trip.
const text::Tokenizer& FuzzTokenizer() {
  static const std::unique_ptr<text::Tokenizer>& tokenizer = *[] {
    text::TokenizerSpec spec;
    spec.pre_tokenizer = "smollm";
    int following = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool prints = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
      std::string token;
      millrace::AppendUtf8(static_cast<uint32_t>(prints ? byte : following++), token);
      spec.tokens.push_back(token);
    }
    for (int i = 0; i < 64; ++i) {
      const std::string left = spec.tokens[(i * 37 + 97) % spec.tokens.size()];
      const std::string right = spec.tokens[(i * 11 + 97) % spec.tokens.size()];
      bool known = false;
      for (const std::string& token : spec.tokens) known |= token == left + right;
      if (known) continue;
      spec.merges.push_back(left + " " + right);
      spec.tokens.push_back(left + right);
    }
    spec.kinds.assign(spec.tokens.size(), text::TokenKind::kNormal);
    for (const char* special : {"<|im_start|>", "<|im_end|>", "<|im"}) {
      spec.tokens.push_back(special);
      spec.kinds.push_back(text::TokenKind::kControl);
    }
    spec.tokens.push_back("<u>");
    spec.kinds.push_back(text::TokenKind::kUserDefined);
    return new std::unique_ptr<text::Tokenizer>(text::Tokenizer::Create(spec).value());
  }();
  return *tokenizer;
}

}  // namespace

// The first bytes choose the options: parse_special, then a plain range's begin and end.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3 || size > 1 << 16) return 0;
  const text::Tokenizer& t = FuzzTokenizer();
  const std::string input(reinterpret_cast<const char*>(data) + 3, size - 3);
  text::TextRange range = {data[1], data[2]};
  if (range.end < range.begin) range.end = range.begin;
  text::EncodeOptions options;
  options.parse_special = (data[0] & 1) != 0;
  options.plain_ranges = {&range, 1};
  const std::vector<TokenId> ids = t.Encode(input, options);
  std::string bytes;
  text::Detokenizer detokenizer(t, false);
  std::string streamed;
  for (TokenId id : ids) {
    CHECK(id >= 0 && id < t.vocab_size());
    const size_t begin = bytes.size();
    bytes += t.TokenBytes(id);
    const bool in_range =
        begin < range.end && bytes.size() > range.begin && range.begin < range.end;
    CHECK(!t.IsSpecial(id) || (options.parse_special && !in_range));
    streamed += detokenizer.Append(id);
    CHECK(detokenizer.pending() < 4);
  }
  CHECK(bytes == input);
  streamed += detokenizer.Flush();
  CHECK(streamed == millrace::ReplaceInvalidUtf8(input));
  CHECK(millrace::IsValidUtf8(streamed));
  return 0;
}
