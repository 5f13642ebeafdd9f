// Any bytes as the files of a directory: refused in one line, or a tokenizer that is total.
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/utf8.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"
#include "text/tokenizer_json_fuzz_input.h"

namespace {

namespace text = millrace::text;

void Use(const text::Tokenizer& t) {
  const char* const strings[] = {"",
                                 " a  bc\n",
                                 "<s> x <a>",
                                 "\xe2\x96\x81 e\xcc\x81 1234",
                                 "\xff\xf0\x9f a'LL",
                                 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
  for (const char* string : strings) {
    for (bool parse : {false, true}) {
      text::EncodeOptions options;
      options.parse_special = parse;
      const text::TextRange range = {2, 5};
      options.plain_ranges = {&range, 1};
      const std::vector<millrace::TokenId> ids = t.Encode(string, options);
      std::string streamed;
      text::Detokenizer detokenizer(t, false, true);
      for (millrace::TokenId id : ids) {
        CHECK(id >= 0 && id < t.vocab_size());
        streamed += detokenizer.Append(id);
      }
      streamed += detokenizer.Flush();
      CHECK(streamed == text::Decode(t, ids, false));
      CHECK(millrace::IsValidUtf8(streamed));
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const text::HfTextFiles files = text::SplitFuzzInput(input);
  absl::StatusOr<text::HfText> read = text::ReadHfText(files);
  if (!read.ok()) {
    CHECK(read.status().code() == absl::StatusCode::kInvalidArgument);
    CHECK(std::string(read.status().message()).find('\n') == std::string::npos);
    return 0;
  }
  auto tokenizer = text::Tokenizer::Create(std::move(read->spec));
  if (tokenizer.ok()) Use(**tokenizer);
  return 0;
}
