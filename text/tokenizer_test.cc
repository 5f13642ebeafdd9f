#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <random>
#include <thread>

#include <pthread.h>

#include "text/test_vocabulary.h"

namespace millrace::text {
namespace {

std::string Bytes(const Tokenizer& t, const std::vector<TokenId>& ids) {
  std::string bytes;
  for (TokenId id : ids) bytes += t.TokenBytes(id);
  return bytes;
}

// The bytes for which SmolLM2 has no token (its training data had none): left out by the
// references.
bool HasToken(const Tokenizer& t, char byte) {
  return t.FindToken({&byte, 1}) >= 0;
}

std::string Known(const Tokenizer& t, std::string_view text) {
  std::string known;
  for (char byte : text) {
    if (HasToken(t, byte)) known.push_back(byte);
  }
  return known;
}

TEST(Tokenizer, RoundTripsAnyBytesThatHaveTokens) {
  const Tokenizer& t = DemoTokenizer();
  std::mt19937 rng(1);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (size_t n = rng() % 60; n > 0; --n) {
      text.push_back(static_cast<char>(rng() % 3 == 0 ? rng() : "ab 1.\n"[rng() % 6]));
    }
    EXPECT_EQ(Bytes(t, t.Encode(text, {})), Known(t, text));
  }
}

// A random vocabulary over a few letters. Ranks are unrelated to lengths, as a hostile file may
// have them: a merge can then make a pair that goes before those already waiting.
TokenizerSpec RandomSpec(std::mt19937& rng, std::map<std::string, int>& rank) {
  TokenizerSpec spec;
  spec.pre_tokenizer = "gpt2";
  spec.tokens = {"a", "b", "c"};
  while (spec.merges.size() < 30) {
    const std::string left = spec.tokens[rng() % spec.tokens.size()];
    const std::string right = spec.tokens[rng() % spec.tokens.size()];
    const std::string joined = left + right;
    if (joined.size() > 12 || !rank.emplace(left + " " + right, 0).second) continue;
    spec.merges.push_back(left + " " + right);
    const bool fresh =
        std::find(spec.tokens.begin(), spec.tokens.end(), joined) == spec.tokens.end();
    if (fresh) spec.tokens.push_back(joined);  // else a second way to the same token
  }
  std::shuffle(spec.merges.begin(), spec.merges.end(), rng);
  for (size_t i = 0; i < spec.merges.size(); ++i) rank[spec.merges[i]] = static_cast<int>(i);
  spec.kinds.assign(spec.tokens.size(), TokenKind::kNormal);
  return spec;
}

// Merging as the definition says: all pairs are looked at before each merge.
std::vector<std::string> NaiveMerge(const std::string& text,
                                    const std::map<std::string, int>& rank) {
  std::vector<std::string> parts;
  for (char c : text) parts.emplace_back(1, c);
  for (;;) {
    size_t best = parts.size();
    int best_rank = 1 << 30;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      auto it = rank.find(parts[i] + " " + parts[i + 1]);
      if (it == rank.end() || it->second >= best_rank) continue;
      best = i;
      best_rank = it->second;
    }
    if (best == parts.size()) return parts;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
}

TEST(Tokenizer, EqualsNaiveMerging) {
  std::mt19937 rng(2);
  for (int vocabulary = 0; vocabulary < 150; ++vocabulary) {
    std::map<std::string, int> rank;
    const auto tokenizer = Tokenizer::Create(RandomSpec(rng, rank));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (int round = 0; round < 20; ++round) {
      std::string text;
      // Short pieces and long ones take different ways.
      for (size_t n = rng() % (round % 2 == 0 ? 24 : 120); n > 0; --n) {
        text.push_back("abc"[rng() % (1 + round % 3)]);
      }
      std::vector<std::string> got;
      for (TokenId id : (*tokenizer)->Encode(text, {})) {
        got.emplace_back((*tokenizer)->TokenBytes(id));
      }
      ASSERT_EQ(got, NaiveMerge(text, rank)) << text;
    }
  }
}

TEST(Tokenizer, SpecialTokensAreReadOnlyWhereAllowed) {
  const Tokenizer& t = DemoTokenizer();
  const TokenId start = t.FindToken("<|im_start|>");
  ASSERT_EQ(start, 1);
  EXPECT_TRUE(t.IsSpecial(start));
  const std::string text = "a<|im_start|>b<|im_start|>c";
  auto count = [&](const EncodeOptions& options) {
    const std::vector<TokenId> ids = t.Encode(text, options);
    EXPECT_EQ(Bytes(t, ids), text);
    return std::count(ids.begin(), ids.end(), start);
  };
  EXPECT_EQ(count({}), 0);
  EncodeOptions parse;
  parse.parse_special = true;
  EXPECT_EQ(count(parse), 2);
  // Every range of every place: a special token survives only if no byte of it is in the range.
  for (size_t begin = 0; begin < text.size(); ++begin) {
    for (size_t end = begin; end <= text.size(); ++end) {
      const TextRange range = {begin, end};
      parse.plain_ranges = {&range, 1};
      const bool first = begin < end && begin < 13 && end > 1;
      const bool second = begin < end && begin < 26 && end > 14;
      EXPECT_EQ(count(parse), 2 - first - second) << begin << " " << end;
    }
  }
}

TokenizerSpec SmallSpec() {
  TokenizerSpec spec;
  spec.pre_tokenizer = "gpt2";
  spec.tokens = {"a", "b", "ab", "<s>", "<s>x", "<u>"};
  spec.kinds = {TokenKind::kNormal,  TokenKind::kNormal,  TokenKind::kNormal,
                TokenKind::kControl, TokenKind::kControl, TokenKind::kUserDefined};
  spec.merges = {"a b"};
  return spec;
}

TEST(Tokenizer, UserDefinedTokensAreAlwaysReadAndTheLongestWins) {
  const auto t = Tokenizer::Create(SmallSpec());
  ASSERT_TRUE(t.ok());
  EXPECT_EQ((*t)->Encode("ab<u>", {}), (std::vector<TokenId>{2, 5}));
  EncodeOptions parse;
  parse.parse_special = true;
  EXPECT_EQ((*t)->Encode("<s>xa<s>a", parse), (std::vector<TokenId>{4, 0, 3, 0}));
  // The longer spelling reaches into content, the shorter does not.
  const TextRange content = {3, 5};
  parse.plain_ranges = {&content, 1};
  EXPECT_EQ((*t)->Encode("<s>xa", parse), (std::vector<TokenId>{3, 0}));
}

TEST(Tokenizer, BeginningOfSequence) {
  TokenizerSpec spec = SmallSpec();
  spec.bos = 3;
  spec.add_bos = true;
  const auto t = Tokenizer::Create(spec);
  ASSERT_TRUE(t.ok());
  EncodeOptions options;
  EXPECT_EQ((*t)->Encode("", options), (std::vector<TokenId>{3}));
  options.add_special = false;
  EXPECT_EQ((*t)->Encode("", options), (std::vector<TokenId>{}));  // TK-08
}

// TK-04: every wrong specification is one InvalidArgument that says where.
TEST(Tokenizer, RefusesWrongSpecifications) {
  const struct {
    const char* expect;
    std::function<void(TokenizerSpec&)> change;
  } cases[] = {
      {"empty", [](TokenizerSpec& s) { s.tokens.clear(), s.kinds.clear(); }},
      {"token kinds", [](TokenizerSpec& s) { s.kinds.pop_back(); }},
      {"bos token id 6", [](TokenizerSpec& s) { s.bos = 6; }},
      {"eos token id -2", [](TokenizerSpec& s) { s.eos = -2; }},
      {"unknown token id", [](TokenizerSpec& s) { s.unknown = 1 << 30; }},
      {"add_bos", [](TokenizerSpec& s) { s.add_bos = true; }},
      {"pre-tokenizer 'none'", [](TokenizerSpec& s) { s.pre_tokenizer = "none"; }},
      {"unknown model", [](TokenizerSpec& s) { s.model = "unigram"; }},
      {"left part of merge 0", [](TokenizerSpec& s) { s.merges = {"q b"}; }},
      {"right part of merge 0", [](TokenizerSpec& s) { s.merges = {"a q"}; }},
      {"result of merge 1",
       [](TokenizerSpec& s) {
         s.merges = {"a b", "ab ab"};
       }},
      {"merge 0 is not two", [](TokenizerSpec& s) { s.merges = {"ab"}; }},
      {"merge 0 is not two", [](TokenizerSpec& s) { s.merges = {"a "}; }},
      {"merge 0 is not two", [](TokenizerSpec& s) { s.merges = {""}; }},
      {"left part", [](TokenizerSpec& s) { s.merges = {"absent x"}; }},
      {"are equal", [](TokenizerSpec& s) { s.tokens[1] = "a"; }},
      {"is empty", [](TokenizerSpec& s) { s.tokens[3] = ""; }},
      {"bytes", [](TokenizerSpec& s) { s.tokens[3] = std::string(5000, 'x'); }},
  };
  for (const auto& c : cases) {
    TokenizerSpec spec = SmallSpec();
    c.change(spec);
    const auto t = Tokenizer::Create(spec);
    ASSERT_EQ(t.status().code(), absl::StatusCode::kInvalidArgument) << c.expect;
    EXPECT_NE(t.status().ToString().find(c.expect), std::string::npos) << t.status();
  }
  EXPECT_TRUE(Tokenizer::Create(SmallSpec()).ok());
}

TEST(Tokenizer, OutOfRangeIdsHaveNoText) {
  const Tokenizer& t = DemoTokenizer();
  for (TokenId id : {-1, t.vocab_size(), 1 << 30, INT32_MIN}) {
    EXPECT_EQ(t.TokenBytes(id), "");
    EXPECT_FALSE(t.IsSpecial(id));
  }
  EXPECT_EQ(t.FindToken("no such token at all"), -1);
}

// TK-01, TK-02: a MiB of one thing on a thread with a 256 KiB stack. Time is the bench's matter;
// here a quadratic step would run for minutes.
void* EncodeRuns(void*) {
  const Tokenizer& t = DemoTokenizer();
  for (std::string_view unit : {"a", "_", ".", " ", "\n", "7", "\u4e2d", "\U0001f469\u200d",
                                "\u0301", " \n", "'s", "<|im_start|", "\xff", "ab", "\xe4\xb8"}) {
    std::string text;
    while (text.size() < 1 << 20) text += unit;
    EncodeOptions parse;
    parse.parse_special = true;
    EXPECT_EQ(Bytes(t, t.Encode(text, parse)), Known(t, text)) << unit;
  }
  return nullptr;
}
TEST(Tokenizer, LongRunsOnASmallStack) {
  DemoTokenizer();
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 256 << 10), 0);
  pthread_t thread;
  ASSERT_EQ(pthread_create(&thread, &attributes, EncodeRuns, nullptr), 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}

// TK-06: NUL, BOM, overlong forms, lone surrogates, 5-byte forms: encoded as their bytes.
TEST(Tokenizer, InvalidUtf8IsItsBytes) {
  const Tokenizer& t = DemoTokenizer();
  using std::string_literals::operator""s;
  for (const std::string& text :
       {"\0"s, "a\0b"s, "\xef\xbb\xbfx"s, "\xc0\xaf"s, "\xed\xa0\x80"s, "\xf4\x90\x80\x80"s,
        "\xf8\x88\x80\x80\x80"s, "x\xe4\xb8"s, "\x80\x80"s, "\u202e\u200fx"s, "1\xffz 2"s}) {
    EXPECT_EQ(Bytes(t, t.Encode(text, {})), Known(t, text));
  }
}

TEST(Tokenizer, DecodeReplacesWhatIsNoCharacter) {
  const Tokenizer& t = DemoTokenizer();
  const std::vector<TokenId> half = t.Encode("\xe4\xb8", {});
  EXPECT_EQ(Decode(t, half, false), "\ufffd");
  std::vector<TokenId> ids = t.Encode("hi", {});
  ids.insert(ids.begin(), t.FindToken("<|im_start|>"));
  EXPECT_EQ(Decode(t, ids, true), "hi");
  EXPECT_EQ(Decode(t, ids, false), "<|im_start|>hi");
}

}  // namespace
}  // namespace millrace::text
