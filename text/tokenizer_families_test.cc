// 14,000 strings a family against two references, read from tokenizer.json and as a GGUF file has
// the same vocabulary: tests/golden/text/tokenizer_families.py.

#include <gtest/gtest.h>

#include <cstring>

#include "base/utf8.h"
#include "text/detokenizer.h"
#include "text/gguf_vocabulary.h"
#include "text/test_strings.h"
#include "text/test_vocabulary.h"
#include "text/tokenizer_json.h"

namespace millrace::text {
namespace {

struct Family {
  const char* name;
  const char* pre;    // of its GGUF files; nullptr: SentencePiece pieces with scores
  bool space_prefix;  // of SentencePiece
};
constexpr Family kFamilies[] = {
    {"llama3", "llama-bpe", false}, {"qwen2", "qwen2", false}, {"gpt2", "gpt-2", false},
    {"smollm", "smollm", false},    {"phi4", "dbrx", false},   {"phi4mini", "gpt-4o", false},
    {"llama2", nullptr, true},      {"phi3", nullptr, true},   {"gemma", nullptr, false},
    {"mistral03", nullptr, true},
};

TokenizerSpec FromJson(const Family& family) {
  absl::StatusOr<TokenizerSpec> spec = TokenizerSpecFromJson(FamilyJson(family.name), family.name);
  EXPECT_TRUE(spec.ok()) << spec.status();
  return std::move(spec).value();
}

// What a GGUF file of the same vocabulary holds.
TokenizerSpec AsGguf(const Family& family) {
  const TokenizerSpec json = FromJson(family);
  GgufVocabulary gguf;
  gguf.model_name = std::string(family.name) == "phi3" ? "phi-3" : family.name;
  gguf.tokens = json.tokens;
  for (TokenKind kind : json.kinds) {
    gguf.token_types.push_back(kind == TokenKind::kControl       ? 3
                               : kind == TokenKind::kUserDefined ? 4
                               : kind == TokenKind::kByte        ? 6
                                                                 : 1);
  }
  if (family.pre != nullptr) {
    gguf.model = "gpt2";
    gguf.pre = family.pre;
    for (const auto& merge : json.merge_ids) {
      gguf.merges.push_back(json.tokens[static_cast<size_t>(merge.first)] + " " +
                            json.tokens[static_cast<size_t>(merge.second)]);
    }
  } else {
    gguf.model = "llama";
    gguf.token_types[0] = 2;
    gguf.add_space_prefix = family.space_prefix;
    for (size_t i = 0; i < gguf.tokens.size(); ++i) {
      gguf.scores.push_back(-static_cast<double>(i));
    }
  }
  absl::StatusOr<TokenizerSpec> spec = TokenizerSpecFromGguf(std::move(gguf));
  EXPECT_TRUE(spec.ok()) << spec.status();
  return std::move(spec).value();
}

void Compare(TokenizerSpec spec, const std::string& name, const std::vector<std::string>& added) {
  auto tokenizer = Tokenizer::Create(std::move(spec));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::string hashes = ReadTestFile("tests/golden/text/tokenizer_" + name + ".ids");
  const auto strings = GoldenStrings(added);
  ASSERT_EQ(hashes.size(), strings.size() * 4);
  int compared = 0;
  int wrong = 0;
  for (size_t i = 0; i < strings.size() && wrong < 5; ++i) {
    uint32_t expected;
    std::memcpy(&expected, hashes.data() + i * 4, 4);
    if (expected == 0) continue;
    EncodeOptions options;
    options.parse_special = strings[i].second;
    options.add_special = false;
    const std::vector<TokenId> ids = (*tokenizer)->Encode(strings[i].first, options);
    const bool equal = HashOfIds(ids) == expected;
    EXPECT_TRUE(equal) << "string " << i << ": " << strings[i].first.substr(0, 200) << "\n"
                       << testing::PrintToString(ids).substr(0, 400);
    wrong += !equal;
    ++compared;
  }
  EXPECT_GE(compared, 10'000);
}

class Families : public testing::TestWithParam<Family> {};

TEST_P(Families, TokenizerJsonEqualsBothReferences) {
  const TokenizerSpec spec = FromJson(GetParam());
  Compare(spec, GetParam().name, AddedTexts(spec));
}

TEST_P(Families, GgufEqualsBothReferences) {
  // Where only the first text gets a space, a GGUF file cannot say so: its reference puts one
  // behind each special token. The strings that differ are not among those compared.
  Compare(AsGguf(GetParam()), GetParam().name, AddedTexts(FromJson(GetParam())));
}

TEST(RealVocabulary, MistralEqualsSentencePieceAndLlamaCpp) {
  ASSERT_EQ(MistralSpec().tokens.size(), 32'000u);
  Compare(MistralSpec(), "mistral", {"<unk>", "<s>", "</s>"});
}

// Pieces join to the whole, and never end in half a character.
TEST_P(Families, StreamsAsItDecodes) {
  const TokenizerSpec spec = FromJson(GetParam());
  const std::vector<std::string> added = AddedTexts(spec);
  auto tokenizer = Tokenizer::Create(spec);
  ASSERT_TRUE(tokenizer.ok());
  const auto strings = GoldenStrings(added);
  for (size_t i = 0; i < strings.size(); i += 3) {
    EncodeOptions options;
    options.parse_special = strings[i].second;
    const std::vector<TokenId> ids = (*tokenizer)->Encode(strings[i].first, options);
    for (bool skip : {false, true}) {
      Detokenizer whole(**tokenizer, skip, true);
      std::string text;
      for (TokenId id : ids) {
        const std::string piece = whole.Append(id);
        ASSERT_TRUE(IsValidUtf8(piece));
        ASSERT_LT(whole.pending(), 4u);
        text += piece;
      }
      text += whole.Flush();
      ASSERT_EQ(text, Decode(**tokenizer, ids, skip)) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Families, testing::ValuesIn(kFamilies),
                         [](const auto& param) { return std::string(param.param.name); });

}  // namespace
}  // namespace millrace::text
