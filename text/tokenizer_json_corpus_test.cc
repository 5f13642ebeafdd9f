// The fuzzer's corpus is worth something only as long as its good inputs are accepted. Those that
// have a word for a name are whole tokenizers; those named by a digest are findings and may be
// anything.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "text/tokenizer.h"
#include "text/tokenizer_json_fuzz_input.h"

namespace millrace::text {
namespace {

TEST(Corpus, TokenizerJson) {
  int good = 0;
  for (const auto& entry : std::filesystem::directory_iterator("text/corpus/tokenizer_json")) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_of("0123456789") != std::string::npos) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    auto read = ReadHfText(SplitFuzzInput(bytes));
    ASSERT_TRUE(read.ok()) << name << ": " << read.status();
    const auto tokenizer = Tokenizer::Create(std::move(read->spec));
    ASSERT_TRUE(tokenizer.ok()) << name << ": " << tokenizer.status();
    EXPECT_FALSE((*tokenizer)->Encode("a", {}).empty()) << name;
    ++good;
  }
  EXPECT_GE(good, 5);
}

}  // namespace
}  // namespace millrace::text
