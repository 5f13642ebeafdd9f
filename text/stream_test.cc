// Detokenizer and stop matcher: what arrives in pieces equals what the whole text gives.

#include <gtest/gtest.h>

#include <random>

#include "base/utf8.h"
#include "text/detokenizer.h"
#include "text/stop_matcher.h"
#include "text/test_vocabulary.h"

namespace millrace::text {
namespace {

TEST(Detokenizer, PiecesJoinToTheWholeAndAreWholeCharacters) {
  const Tokenizer& t = DemoTokenizer();
  std::mt19937 rng(3);
  // Tokens that hold parts of characters occur often: byte tokens are the first after the specials.
  for (int round = 0; round < 3000; ++round) {
    std::vector<TokenId> ids;
    for (size_t n = rng() % 20; n > 0; --n) {
      ids.push_back(static_cast<TokenId>(rng() % (rng() % 2 ? 260 : t.vocab_size())));
    }
    for (bool skip : {false, true}) {
      Detokenizer detokenizer(t, skip);
      std::string joined;
      for (TokenId id : ids) {
        const std::string piece = detokenizer.Append(id);
        EXPECT_TRUE(IsValidUtf8(piece));
        EXPECT_LT(detokenizer.pending(), 4u);
        joined += piece;
      }
      joined += detokenizer.Flush();
      EXPECT_EQ(detokenizer.pending(), 0u);
      EXPECT_EQ(joined, Decode(t, ids, skip));
    }
  }
}

// TK-07: half a character is held back, completed by the next token or replaced at the end.
TEST(Detokenizer, HoldsBackHalfACharacter) {
  const Tokenizer& t = DemoTokenizer();
  auto byte = [&](char c) { return t.FindToken({&c, 1}); };
  Detokenizer detokenizer(t, true);
  EXPECT_EQ(detokenizer.Append(byte('\xe4')), "");
  EXPECT_EQ(detokenizer.Append(t.FindToken("<|im_end|>")), "");  // hidden, and between the halves
  EXPECT_EQ(detokenizer.Append(byte('\xb8')), "");
  EXPECT_EQ(detokenizer.pending(), 2u);
  EXPECT_EQ(detokenizer.Append(byte('\xad')), "\u4e2d");
  EXPECT_EQ(detokenizer.Append(byte('\xe4')), "");
  EXPECT_EQ(detokenizer.Append(byte('a')),
            "\ufffd"
            "a");
  EXPECT_EQ(detokenizer.Append(byte('\x80')), "\ufffd");
  EXPECT_EQ(detokenizer.Append(byte('\xe4')), "");
  EXPECT_EQ(detokenizer.Flush(), "\ufffd");
}

// The match that ends first, of those the longest; by looking everywhere.
struct Naive {
  size_t end = std::string::npos;
  int index = -1;
};
Naive Search(const std::string& text, const std::vector<std::string>& stops) {
  Naive best;
  for (size_t end = 1; end <= text.size(); ++end) {
    for (size_t i = 0; i < stops.size(); ++i) {
      const std::string& s = stops[i];
      if (s.size() > end || text.compare(end - s.size(), s.size(), s) != 0) continue;
      if (best.index >= 0 && s.size() <= stops[best.index].size()) continue;
      best = {end, static_cast<int>(i)};
    }
    if (best.index >= 0) return best;
  }
  return best;
}

// The longest end of `text` that is a proper beginning of a stop string.
size_t MustHold(const std::string& text, const std::vector<std::string>& stops) {
  size_t held = 0;
  for (const std::string& s : stops) {
    for (size_t n = 1; n < s.size() && n <= text.size(); ++n) {
      if (text.compare(text.size() - n, n, s, 0, n) == 0) held = std::max(held, n);
    }
  }
  return held;
}

TEST(StopMatcher, EqualsSearchingTheWholeTextHoweverItIsCut) {
  std::mt19937 rng(4);
  int matches = 0;
  for (int round = 0; round < 20'000; ++round) {
    auto word = [&](size_t n) {
      std::string s;
      while (n-- > 0) s.push_back("ab\xc3"[rng() % (2 + round % 2)]);
      return s;
    };
    std::vector<std::string> stops;
    for (size_t n = 1 + rng() % 4; n > 0; --n) stops.push_back(word(1 + rng() % 6));
    const std::string text = word(rng() % 40);
    const bool include = rng() % 2 == 0;
    const Naive expected = Search(text, stops);
    const StopStrings compiled(stops);
    StopMatcher matcher(compiled);
    std::string shown;
    int matched = -1;
    for (size_t at = 0; at < text.size();) {
      const size_t n = std::min<size_t>(text.size() - at, rng() % 5);
      const StopMatcher::Output out = matcher.Append(text.substr(at, n), include);
      shown += out.text;
      at += n;
      if (matched < 0) matched = out.matched;
      if (matched < 0) {
        ASSERT_EQ(matcher.pending(), MustHold(text.substr(0, at), stops));
        ASSERT_EQ(shown + std::string(matcher.pending(), '?'),
                  text.substr(0, at - matcher.pending()) + std::string(matcher.pending(), '?'));
      } else {
        ASSERT_EQ(matcher.pending(), 0u);
      }
    }
    shown += matcher.Flush();
    if (expected.index < 0) {
      ASSERT_EQ(matched, -1);
      ASSERT_EQ(shown, text);
      continue;
    }
    ++matches;
    ASSERT_GE(matched, 0);
    ASSERT_EQ(compiled.string(matched), stops[expected.index]);
    const size_t cut = expected.end - (include ? 0 : stops[expected.index].size());
    ASSERT_EQ(shown, text.substr(0, cut));
  }
  EXPECT_GT(matches, 5000);
}

TEST(StopMatcher, LongStringsWithSelfOverlap) {
  std::string stop(255, 'a');
  stop += 'b';
  const StopStrings compiled({stop});
  StopMatcher matcher(compiled);
  std::string shown;
  for (int i = 0; i < 5000; ++i) shown += matcher.Append("a", false).text;
  EXPECT_EQ(matcher.pending(), 255u);
  const StopMatcher::Output out = matcher.Append("b", false);
  EXPECT_EQ(out.matched, 0);
  EXPECT_EQ((shown + out.text).size(), 5000u - 255u);
  EXPECT_EQ(matcher.Append("more", true).text, "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcher, NoStringsHoldNothing) {
  const StopStrings none({});
  EXPECT_TRUE(none.empty());
  StopMatcher matcher(none);
  EXPECT_EQ(matcher.Append("text", false).text, "text");
  EXPECT_EQ(matcher.pending(), 0u);
}

}  // namespace
}  // namespace millrace::text
