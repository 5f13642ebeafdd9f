#include "text/gguf_vocabulary.h"

#include <gtest/gtest.h>

#include "text/tokenizer.h"

namespace millrace::text {
namespace {

GgufVocabulary Pieces() {
  GgufVocabulary v;
  v.file_name = "m.gguf";
  v.model = "llama";
  v.tokens = {"<unk>", "<s>", "</s>", "<|end|>", "\u2581", "a", "\u2581a", "<0x62>"};
  v.token_types = {2, 3, 3, 3, 1, 1, 1, 6};
  v.scores = {0, 0, 0, 0, -3, -2, -1, 0};
  return v;
}

GgufVocabulary Bytes() {
  GgufVocabulary v;
  v.file_name = "m.gguf";
  v.model = "gpt2";
  v.pre = "llama-bpe";
  v.tokens = {"a", "b", "ab", "<s>"};
  v.token_types = {1, 1, 1, 3};
  v.merges = {"a b"};
  return v;
}

std::vector<TokenId> Ids(const GgufVocabulary& v, const std::string& text) {
  auto spec = TokenizerSpecFromGguf(v);
  EXPECT_TRUE(spec.ok()) << spec.status();
  auto tokenizer = Tokenizer::Create(std::move(*spec));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  EncodeOptions options;
  options.parse_special = true;
  return (*tokenizer)->Encode(text, options);
}

TEST(GgufVocabulary, PiecesHaveDefaults) {
  EXPECT_EQ(Ids(Pieces(), "a ab"), (std::vector<TokenId>{1, 6, 6, 7}));
  GgufVocabulary v = Pieces();
  v.add_space_prefix = false;
  v.add_bos_token = false;
  v.add_eos_token = true;
  EXPECT_EQ(Ids(v, "a ac"), (std::vector<TokenId>{5, 6, 0, 2}));
  v.bos_token_id = 3;
  v.add_bos_token = true;
  EXPECT_EQ(Ids(v, "a"), (std::vector<TokenId>{3, 5, 2}));
}

TEST(GgufVocabulary, Phi3TokensTakeSpaceAlong) {
  GgufVocabulary v = Pieces();
  EXPECT_EQ(Ids(v, "<|end|>\n a"), (std::vector<TokenId>{1, 3, 4, 0, 6}));
  v.model_name = "Phi-3 Mini 4K";
  EXPECT_EQ(Ids(v, "<|end|>\n a"), (std::vector<TokenId>{1, 3, 6}));
}

TEST(GgufVocabulary, BytesBeginAsTheFamilySays) {
  EXPECT_EQ(Ids(Bytes(), "ab"), (std::vector<TokenId>{2}));
  GgufVocabulary v = Bytes();
  v.bos_token_id = 3;
  EXPECT_EQ(Ids(v, "ab"), (std::vector<TokenId>{3, 2}));
  v.add_bos_token = false;
  EXPECT_EQ(Ids(v, "ab"), (std::vector<TokenId>{2}));
  v.pre = "qwen2";
  v.add_bos_token.reset();
  EXPECT_EQ(Ids(v, "ab"), (std::vector<TokenId>{2}));
}

TEST(GgufVocabulary, RefusesByKey) {
  const auto refused = [](auto change, const std::string& what) {
    GgufVocabulary v = Pieces();
    change(v);
    const absl::Status status = TokenizerSpecFromGguf(v).status();
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << what;
    EXPECT_NE(status.ToString().find(what), std::string::npos) << status;
  };
  refused([](GgufVocabulary& v) { v.model = "bert"; },
          "m.gguf: tokenizer.ggml.model: 'bert' is not supported (supported: gpt2, llama)");
  refused([](GgufVocabulary& v) { v.model = "gpt2"; }, "tokenizer.ggml.pre: is missing");
  refused([](GgufVocabulary& v) { v.scores.pop_back(); }, "scores: 7 entries for 8 tokens");
  refused([](GgufVocabulary& v) { v.token_types.pop_back(); }, "token_type: 7 entries for 8");
  refused([](GgufVocabulary& v) { v.token_types[4] = 9; }, "that of token 4 is none of 1 to 6");
  refused([](GgufVocabulary& v) { v.token_types[4] = -1e300; }, "token 4");
  refused([](GgufVocabulary& v) { v.bos_token_id = 8; }, "bos_token_id: 8 is outside");
  refused([](GgufVocabulary& v) { v.eos_token_id = -1; }, "eos_token_id: -1 is outside");
  refused([](GgufVocabulary& v) { v.unknown_token_id = int64_t{1} << 40; }, "unknown_token_id");
}

}  // namespace
}  // namespace millrace::text
