// SentencePiece-style vocabularies: merging by scores against the definition, bytes, long runs.

#include <gtest/gtest.h>

#include <map>
#include <random>

#include <pthread.h>

#include "text/detokenizer.h"
#include "text/test_strings.h"
#include "text/test_vocabulary.h"
#include "text/tokenizer.h"
#include "text/tokenizer_json.h"

namespace millrace::text {
namespace {

struct RandomVocabulary {
  TokenizerSpec spec;
  std::map<std::string, std::pair<float, TokenId>> tokens;
};

void AddToken(RandomVocabulary& v, const std::string& text, float score, TokenKind kind) {
  if (kind == TokenKind::kNormal) {
    v.tokens[text] = {score, static_cast<TokenId>(v.spec.tokens.size())};
  }
  v.spec.tokens.push_back(text);
  v.spec.kinds.push_back(kind);
  v.spec.scores.push_back(score);
}

// Tokens over few characters, scores unrelated to length and often equal; 'd' and 'é' have no token
// of their own but occur in tokens.
RandomVocabulary MakeVocabulary(std::mt19937& rng) {
  RandomVocabulary v;
  v.spec.model = "spm";
  AddToken(v, "<unk>", 0, TokenKind::kUnknown);
  v.spec.unknown = 0;
  for (int byte = 0; byte < 256; ++byte) {
    constexpr char kHex[] = "0123456789ABCDEF";
    AddToken(v, std::string("<0x") + kHex[byte / 16] + kHex[byte % 16] + ">", 0, TokenKind::kByte);
  }
  const std::vector<std::string> letters = {"a", "b", "\u2581", "d", "é"};
  for (int i = 0; i < 3; ++i) AddToken(v, letters[i], -1e9f, TokenKind::kNormal);
  while (v.tokens.size() < 28) {
    std::string text;
    for (size_t n = 2 + rng() % 4; n > 0; --n) text += letters[rng() % (rng() % 3 ? 2 : 5)];
    if (v.tokens.count(text) != 0) continue;
    AddToken(v, text, -static_cast<float>(rng() % 12), TokenKind::kNormal);
  }
  SetSentencePieceSteps(false, v.spec);
  return v;
}

// All neighbours are looked at before each merge.
std::vector<TokenId> NaiveEncode(const RandomVocabulary& v, const std::string& text) {
  std::vector<std::string> parts;
  for (size_t at = 0; at < text.size();) {
    const size_t length = text[at] == '\xe2' ? 3 : text[at] == '\xc3' ? 2 : 1;
    parts.push_back(text.substr(at, length));
    at += length;
  }
  for (;;) {
    size_t best = parts.size();
    float best_score = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto it = v.tokens.find(parts[i] + parts[i + 1]);
      if (it == v.tokens.end()) continue;
      if (best == parts.size() || it->second.first > best_score) {
        best = i;
        best_score = it->second.first;
      }
    }
    if (best == parts.size()) break;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
  std::vector<TokenId> ids;
  for (const std::string& part : parts) {
    const auto it = v.tokens.find(part);
    if (it != v.tokens.end()) {
      ids.push_back(it->second.second);
    } else {
      for (unsigned char byte : part) ids.push_back(1 + byte);
    }
  }
  return ids;
}

TEST(Pieces, MergesAsTheDefinition) {
  std::mt19937 rng(3);
  const char* const letters[] = {"a", "b", "\u2581", "d", "é", "x"};
  for (int vocabulary = 0; vocabulary < 60; ++vocabulary) {
    const RandomVocabulary v = MakeVocabulary(rng);
    const auto tokenizer = Tokenizer::Create(v.spec);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (int round = 0; round < 60; ++round) {
      std::string text;
      const size_t kinds = 1 + rng() % 6;
      for (size_t n = rng() % 90; n > 0; --n) text += letters[rng() % kinds];
      ASSERT_EQ((*tokenizer)->Encode(text, {}), NaiveEncode(v, text)) << text;
    }
  }
}

TEST(Pieces, EveryByteRoundTrips) {
  const auto tokenizer = Tokenizer::Create(MistralSpec()).value();
  std::mt19937 rng(4);
  for (int round = 0; round < 500; ++round) {
    std::string text;
    for (size_t n = rng() % 40; n > 0; --n) {
      text.push_back(static_cast<char>(rng() % 2 != 0 ? rng() : "ab 1.\n"[rng() % 6]));
    }
    std::string bytes;
    for (TokenId id : tokenizer->Encode(text, {})) bytes += tokenizer->TokenBytes(id);
    EXPECT_EQ(bytes, text.empty() ? "" : " " + text);
  }
}

TEST(Pieces, StreamsWholeCharacters) {
  const auto tokenizer = Tokenizer::Create(MistralSpec()).value();
  const std::string text = "ok \U0001f9ff\u1e9e!";  // the emoji has no token: four bytes
  const std::vector<TokenId> ids = tokenizer->Encode(text, {});
  ASSERT_GT(ids.size(), 5u);
  Detokenizer at_start(*tokenizer, true, true);
  Detokenizer after_prompt(*tokenizer, true);
  std::string first;
  std::string later;
  for (TokenId id : ids) {
    const std::string piece = at_start.Append(id);
    EXPECT_EQ(piece.find("\ufffd"), std::string::npos);
    first += piece;
    later += after_prompt.Append(id);
  }
  EXPECT_EQ(first, text);
  EXPECT_EQ(later, " " + text);
  // Cut in the middle of the emoji: nothing is shown until it is known to be broken.
  Detokenizer cut(*tokenizer, true, true);
  std::string shown;
  size_t bytes = 0;
  for (TokenId id : ids) {
    if (tokenizer->TokenBytes(id) == "\xa7") break;
    shown += cut.Append(id);
    ++bytes;
  }
  ASSERT_LT(bytes, ids.size());
  EXPECT_EQ(shown, "ok ");
  EXPECT_EQ(cut.Flush(), "\ufffd");
}

TEST(Pieces, RefusesBrokenSpecs) {
  std::mt19937 rng(5);
  const TokenizerSpec good = MakeVocabulary(rng).spec;
  const auto refused = [&](auto change, const std::string& what) {
    TokenizerSpec spec = good;
    change(spec);
    const auto tokenizer = Tokenizer::Create(std::move(spec));
    ASSERT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument) << what;
    EXPECT_NE(tokenizer.status().ToString().find(what), std::string::npos) << tokenizer.status();
  };
  refused([](TokenizerSpec& s) { s.scores.pop_back(); }, "scores");
  refused([](TokenizerSpec& s) { s.scores[280] = NAN; }, "the score of token 280 is not finite");
  refused([](TokenizerSpec& s) { s.tokens[5] = "<0xZZ>"; }, "byte token 5 is not spelled <0xHH>");
  refused([](TokenizerSpec& s) { s.tokens[258] = s.tokens[257]; }, "257 and 258 are equal");
  refused([](TokenizerSpec& s) { s.tokens[258] = std::string(5000, 'x'); }, "5000 bytes");
  refused([](TokenizerSpec& s) { s.unknown = 100000; }, "unknown token id 100000");
  refused([](TokenizerSpec& s) { s.prefix = {-2}; }, "first token id -2");
  refused([](TokenizerSpec& s) { s.add_eos = true; }, "add_eos without an eos token");
  refused([](TokenizerSpec& s) { s.model = "unigram"; }, "unknown model 'unigram'");
}

// TK-01, TK-02 on a thread with a 256 KiB stack; a quadratic step would run for minutes.
void* EncodeRuns(void*) {
  const auto pieces = Tokenizer::Create(MistralSpec()).value();
  const auto llama3 =
      Tokenizer::Create(TokenizerSpecFromJson(FamilyJson("llama3"), "llama3").value()).value();
  const auto qwen =
      Tokenizer::Create(TokenizerSpecFromJson(FamilyJson("qwen2"), "qwen2").value()).value();
  const auto o200k =
      Tokenizer::Create(TokenizerSpecFromJson(FamilyJson("phi4mini"), "phi4mini").value()).value();
  for (std::string_view unit : {"a",       "A",
                                "Ab",      "_",
                                ".",       " ",
                                "\n",      "7",
                                "\u4e2d",  "\U0001f469\u200d",
                                "\u0301",  "\u0301\u0323",
                                " \n",     "'s",
                                "\xff",    "\u2581",
                                "\u2581a", "\xe4\xb8",
                                "e\u0301", "<|im_s"}) {
    std::string text;
    while (text.size() < 1 << 20) text += unit;
    for (const Tokenizer* t : {pieces.get(), llama3.get(), qwen.get(), o200k.get()}) {
      EncodeOptions options;
      options.parse_special = true;
      options.add_special = false;
      const std::vector<TokenId> ids = t->Encode(text, options);
      EXPECT_FALSE(ids.empty());
      if (t == qwen.get()) continue;  // NFC: other bytes
      size_t bytes = 0;
      for (TokenId id : ids) bytes += t->TokenBytes(id).size();
      // U+2581 is written as a space and read as such.
      if (text.find("\u2581") == std::string::npos || t != pieces.get()) {
        EXPECT_EQ(bytes, text.size() + (t == pieces.get())) << unit;
      }
    }
  }
  return nullptr;
}
TEST(Pieces, LongRunsOnASmallStack) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 256 << 10), 0);
  pthread_t thread;
  ASSERT_EQ(pthread_create(&thread, &attributes, EncodeRuns, nullptr), 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}

}  // namespace
}  // namespace millrace::text
