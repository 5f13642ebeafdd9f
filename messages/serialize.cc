#include <bit>
#include <cstring>
#include <string>
#include <type_traits>

#include "messages/step_plan.h"
#include "messages/step_result.h"
#include "messages/token_event.h"

namespace millrace {
namespace {

// Little-endian fixed-width fields, lengths before arrays: two different values never give the same
// bytes.
class ByteWriter {
 public:
  explicit ByteWriter(std::string& out) : out_(out) {}

  template <typename T>
  requires std::is_arithmetic_v<T> || std::is_enum_v<T>
  void Put(T value) {
    static_assert(std::endian::native == std::endian::little);
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    out_.append(bytes, sizeof(T));
  }
  template <typename Tag, typename Rep>
  void Put(StrongId<Tag, Rep> id) {
    Put(id.value());
  }
  void Put(const Span32& span) {
    Put(span.begin);
    Put(span.count);
  }
  void Put(const std::pair<TokenId, float>& bias) {
    Put(bias.first);
    Put(bias.second);
  }
  void Put(const RankedToken& token) {
    Put(token.token);
    Put(token.logprob);
  }
  void Put(const std::string& text) {
    Put(static_cast<uint32_t>(text.size()));
    out_ += text;
  }
  void Put(const SamplingParams& s) {
    Put(s.temperature), Put(s.top_k), Put(s.top_p), Put(s.min_p), Put(s.repetition_penalty);
    Put(s.presence_penalty), Put(s.frequency_penalty), Put(s.seed), Put(s.logprobs);
    Put(s.logit_bias);
  }
  void Put(const SlotInstall& i) {
    Put(i.slot), Put(i.sequence), Put(i.group), Put(i.choice), Put(i.sampling);
    Put(i.banned_until_min), Put(i.min_tokens), Put(i.prompt_tokens), Put(i.history);
    Put(i.adapter), Put(i.constraint);
  }
  void Put(const TableDelta& d) { Put(d.slot), Put(d.kv_group), Put(d.first), Put(d.blocks); }
  void Put(const BlockCopy& c) { Put(c.kv_group), Put(c.source), Put(c.target); }
  void Put(const PlanRow& r) {
    Put(r.slot), Put(r.sequence), Put(r.kind), Put(r.output), Put(r.position);
    Put(r.first_needed), Put(r.tokens), Put(r.score_targets), Put(r.score_top);
    Put(r.sample_index), Put(r.mask);
  }
  void Put(const TokenLogprobs& l) { Put(l.logprob), Put(l.rank), Put(l.top); }
  void Put(const RowResult& r) {
    Put(r.sequence), Put(r.slot), Put(r.tokens), Put(r.logprobs), Put(r.scores), Put(r.failed);
  }
  void Put(const Completion& c) { Put(c.kind), Put(c.id), Put(c.ok); }
  template <typename T>
  void Put(const std::vector<T>& values) {
    Put(static_cast<uint32_t>(values.size()));
    for (const T& value : values) Put(value);
  }

 private:
  std::string& out_;
};

}  // namespace

void Serialize(const StepPlan& plan, std::string& out) {
  ByteWriter w(out);
  w.Put(plan.step), w.Put(plan.removes), w.Put(plan.installs), w.Put(plan.table_deltas);
  w.Put(plan.copies), w.Put(plan.rows), w.Put(plan.tokens), w.Put(plan.score_targets);
  w.Put(plan.history_tokens), w.Put(plan.blocks);
}

void Serialize(const StepResult& result, std::string& out) {
  ByteWriter w(out);
  w.Put(result.step), w.Put(result.rows), w.Put(result.tokens), w.Put(result.logprobs);
  w.Put(result.scores), w.Put(result.completions);
}

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDeadline:
      return "deadline";
    case FinishReason::kSlowConsumer:
      return "slow_consumer";
    case FinishReason::kNeverFits:
      return "never_fits";
    case FinishReason::kShutdown:
      return "shutdown";
    case FinishReason::kError:
      return "error";
  }
  return "unknown";
}

}  // namespace millrace
