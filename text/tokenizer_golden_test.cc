// Ten thousand strings on which `tokenizers` and llama.cpp agree:
// tests/golden/text/make_tokenizer_golden.py.

#include <gtest/gtest.h>

#include <cstring>

#include "text/test_vocabulary.h"
#include "text/tokenizer.h"

namespace millrace::text {
namespace {

struct Reader {
  std::string_view rest;
  template <typename T>
  T Read() {
    T value{};
    EXPECT_GE(rest.size(), sizeof value);
    std::memcpy(&value, rest.data(), sizeof value);
    rest.remove_prefix(sizeof value);
    return value;
  }
};

TEST(TokenizerGolden, EqualsBothReferences) {
  const std::string file = ReadTestFile("tests/golden/text/tokenizer_golden.bin");
  const Tokenizer& tokenizer = DemoTokenizer();
  Reader reader{file};
  int strings = 0;
  int wrong = 0;
  while (!reader.rest.empty() && wrong < 10) {
    EncodeOptions options;
    options.parse_special = reader.Read<uint8_t>() != 0;
    options.add_special = false;
    const uint32_t bytes = reader.Read<uint32_t>();
    ASSERT_LE(bytes, reader.rest.size());
    const std::string_view text = reader.rest.substr(0, bytes);
    reader.rest.remove_prefix(bytes);
    std::vector<TokenId> expected(reader.Read<uint32_t>());
    for (TokenId& id : expected) id = reader.Read<uint16_t>();
    const std::vector<TokenId> ids = tokenizer.Encode(text, options);
    EXPECT_EQ(ids, expected) << "string " << strings << ": " << text.substr(0, 200);
    wrong += ids != expected;
    ++strings;
  }
  EXPECT_EQ(strings, 10'000);
}

}  // namespace
}  // namespace millrace::text
