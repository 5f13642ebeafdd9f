// 14,000 strings a family against two references, read from tokenizer.json and as a GGUF file has
// the same vocabulary: tests/golden/text/tokenizer_families.py.

#include <gtest/gtest.h>

#include <cstring>

#include "base/utf8.h"
#include "text/detokenizer.h"
#include "text/test_strings.h"
#include "text/test_vocabulary.h"
#include "text/tokenizer_json.h"

namespace millrace::text {
namespace {

struct Family {
  const char* name;
  const char* pre;     // of its GGUF files; nullptr: SentencePiece pieces with scores
  bool space_prefix;   // of SentencePiece
  bool follows_space;  // the space goes before the first text only
};
constexpr Family kFamilies[] = {
    {"llama3", "llama-bpe", false, false}, {"qwen2", "qwen2", false, false},
    {"gpt2", "gpt-2", false, false},       {"smollm", "smollm", false, false},
    {"phi4", "dbrx", false, false},        {"phi4mini", "gpt-4o", false, false},
    {"llama2", nullptr, true, false},      {"phi3", nullptr, true, false},
    {"gemma", nullptr, false, false},      {"mistral03", nullptr, true, true},
};

TokenizerSpec FromJson(const Family& family) {
  absl::StatusOr<TokenizerSpec> spec = TokenizerSpecFromJson(FamilyJson(family.name), family.name);
  EXPECT_TRUE(spec.ok()) << spec.status();
  return std::move(spec).value();
}

// What a GGUF file of the same vocabulary holds.
TokenizerSpec AsGguf(const Family& family) {
  const TokenizerSpec json = FromJson(family);
  TokenizerSpec spec;
  spec.tokens = json.tokens;
  spec.kinds = json.kinds;
  if (family.pre != nullptr) {
    spec.pre_tokenizer = family.pre;
    for (const auto& merge : json.merge_ids) {
      spec.merges.push_back(json.tokens[static_cast<size_t>(merge.first)] + " " +
                            json.tokens[static_cast<size_t>(merge.second)]);
    }
    return spec;
  }
  spec.model = "spm";
  spec.unknown = 0;
  spec.kinds[0] = TokenKind::kUnknown;
  SetSentencePieceSteps(family.space_prefix, spec);
  for (size_t i = 0; i < spec.tokens.size(); ++i) spec.scores.push_back(-static_cast<float>(i));
  spec.added = json.added;  // llama.cpp has rstrip for models named phi-3
  return spec;
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
