#pragma once
// Token events of one choice to text: detokenizing, stop strings, scores in text form, and the
// exact count of tokens that the usage reports.

#include <cstdint>
#include <memory>
#include <vector>

#include "messages/token_event.h"
#include "server/output_delta.h"
#include "text/detokenizer.h"
#include "text/stop_matcher.h"
#include "text/tokenizer.h"

namespace millrace::server {

// What the choices of one request share. The pointees outlive the streams.
struct ChoiceOptions {
  const text::Tokenizer* tokenizer = nullptr;
  const text::StopStrings* stops = nullptr;
  const std::vector<TokenId>* stop_token_ids = nullptr;
  bool include_stop = false;
  bool skip_special = true;
  // Stop strings are not looked for in the first tokens.
  int32_t min_tokens = 0;
  // Code points before the first generated token: those of an echoed prompt.
  int64_t offset = 0;
};

// One token in text form. `scored`: with its score.
TokenLogprobText ToText(const text::Tokenizer& tokenizer, TokenId id, const TokenLogprobs* scores);

// Thread: one owner at a time.
class ChoiceStream {
 public:
  ChoiceStream(const ChoiceOptions& options, int32_t index);

  struct Effect {
    int32_t counted = 0;      // tokens that this event added to the usage
    bool stop_found = false;  // a stop string matched: the engine must end the choice with
                              // usage().completion_tokens
  };
  // REQUIRES: `event` is of this choice. Events after the end change nothing.
  Effect Apply(const TokenEvent& event);

  // kStop or kLength when the choice has ended well, another reason when not.
  FinishReason finish() const { return finish_; }
  const Usage& usage() const { return usage_; }
  // There is text to show, or the end to tell.
  bool HasOutput() const;
  // What came since the last call. REQUIRES: HasOutput().
  OutputDelta Take();

 private:
  void AppendToken(TokenId id, const TokenLogprobs* scores, int32_t ordinal);
  void ShowText(std::string_view piece, bool look_for_stops);
  void End(FinishReason reason, TokenId stop_token);

  const ChoiceOptions options_;
  text::Detokenizer detokenizer_;
  text::StopMatcher matcher_;
  OutputDelta pending_;
  Usage usage_;
  int64_t offset_;
  int matched_ = -1;
  FinishReason finish_ = FinishReason::kNone;
};

}  // namespace millrace::server
