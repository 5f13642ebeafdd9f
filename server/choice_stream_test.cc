// One choice's events to text and exact counts, without threads.
#include "server/choice_stream.h"

#include <gtest/gtest.h>

#include "server/testing.h"

namespace millrace::server::testing {
namespace {

struct Stream {
  explicit Stream(std::vector<std::string> strings, int32_t min_tokens = 0)
      : stops(std::move(strings)) {
    ChoiceOptions options;
    options.tokenizer = &tokenizer;
    options.stops = &stops;
    options.stop_token_ids = &stop_ids;
    options.min_tokens = min_tokens;
    stream = std::make_unique<ChoiceStream>(options, 0);
  }
  // One event with the bytes of `text` as tokens.
  ChoiceStream::Effect Say(std::string_view text, FinishReason finish = FinishReason::kNone,
                           TokenId stop_token = -1) {
    TokenEvent event;
    for (const char c : text) event.tokens.push_back(static_cast<unsigned char>(c));
    total += static_cast<int32_t>(text.size()) + (stop_token >= 0 ? 1 : 0);
    event.completion_tokens = total;
    event.prompt_tokens = 3;
    event.finish = finish;
    event.stop_token = stop_token;
    return stream->Apply(event);
  }
  TinyTokenizer tokenizer;
  text::StopStrings stops;
  std::vector<TokenId> stop_ids = {'!'};
  std::unique_ptr<ChoiceStream> stream;
  int32_t total = 0;
};

TEST(ChoiceStream, TokensPastTheMatchInOneEventAreNeitherShownNorCounted) {
  Stream s({"END"});
  const ChoiceStream::Effect effect = s.Say("abENDcd");
  EXPECT_TRUE(effect.stop_found);
  EXPECT_EQ(effect.counted, 5);
  EXPECT_EQ(s.stream->usage().completion_tokens, 5);
  const OutputDelta delta = s.stream->Take();
  EXPECT_EQ(delta.text, "ab");
  EXPECT_EQ(delta.tokens.size(), 5u);
  EXPECT_EQ(delta.stop_string, "END");
  EXPECT_EQ(delta.finish, FinishReason::kStop);
  // What still comes changes nothing.
  EXPECT_EQ(s.Say("efg", FinishReason::kLength).counted, 0);
  EXPECT_FALSE(s.stream->HasOutput());
  EXPECT_EQ(s.stream->usage().completion_tokens, 5);
}

TEST(ChoiceStream, AMatchInTheLastEventNeedsNoFinishAndIsAStop) {
  Stream s({"END"});
  const ChoiceStream::Effect effect = s.Say("abENDcd", FinishReason::kLength);
  EXPECT_FALSE(effect.stop_found);
  EXPECT_EQ(s.stream->finish(), FinishReason::kStop);
  EXPECT_EQ(s.stream->usage().completion_tokens, 5);
}

TEST(ChoiceStream, AHeldPrefixIsShownWhenItCannotMatch) {
  Stream s({"END"});
  s.Say("aEN");
  EXPECT_EQ(s.stream->Take().text, "a");
  s.Say("x");
  EXPECT_EQ(s.stream->Take().text, "ENx");
  s.Say("EN", FinishReason::kLength);
  const OutputDelta last = s.stream->Take();
  EXPECT_EQ(last.text, "EN");
  EXPECT_EQ(last.finish, FinishReason::kLength);
}

TEST(ChoiceStream, StopStringsAreNotLookedForInTheFirstTokens) {
  Stream s({"a"}, 3);
  s.Say("aaa");
  EXPECT_EQ(s.stream->finish(), FinishReason::kNone);
  s.Say("ba");
  EXPECT_EQ(s.stream->finish(), FinishReason::kStop);
  EXPECT_EQ(s.stream->Take().text, "aaab");
}

TEST(ChoiceStream, AMatchedStopTokenCountsAndIsNamedOnlyWhenAskedFor) {
  Stream asked({});
  asked.Say("ab", FinishReason::kStop, '!');
  EXPECT_EQ(asked.stream->usage().completion_tokens, 3);
  EXPECT_EQ(asked.stream->Take().stop_token, '!');
  Stream end({});
  end.Say("ab", FinishReason::kStop, end.tokenizer.end());
  EXPECT_EQ(end.stream->Take().stop_token, -1);
}

}  // namespace
}  // namespace millrace::server::testing
