#pragma once
// One simulated client: it receives the events of its request and judges each of them.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "messages/token_event.h"
#include "tests/sim/simulation.h"
#include "tests/support/fake_executor.h"
#include "tests/support/fake_model.h"

namespace millrace::sim {

// Thread: one, as all of the simulation.
class Client final : public TokenSink {
 public:
  using Report = std::function<void(const std::string& what)>;

  Client(const World& world, const ClientScript& script, const FakeClock& clock, Report report);

  SinkState Push(TokenEvent&& event) override;

  // What the client does; the simulation sets it.
  bool submitted = false;
  bool accepted = false;
  bool cancel_sent = false;
  bool stop_sent = false;
  bool read_due = false;  // it was full and has not read since
  MonoNanos next_read = kNever;
  // What happened around it.
  bool draining = false;
  int64_t* ended_now = nullptr;  // counts choices that end
  const testing::FakeExecutor* device = nullptr;

  const ClientScript& script() const { return script_; }
  bool live() const { return accepted && !done_; }
  bool done() const { return done_; }
  // It got one event only, made by the loop: the scheduler never knew it.
  bool refused() const { return refused_; }
  bool installed() const { return installed_; }
  void NoteInstalled() { installed_ = true; }
  size_t tokens(int32_t choice) const { return choices_[static_cast<size_t>(choice)].tokens; }
  // The last step submitted when this choice ended; rows of later ones break S9.
  StepId ended_at(int32_t choice) const { return choices_[static_cast<size_t>(choice)].ended_at; }
  bool ended(int32_t choice) const { return choices_[static_cast<size_t>(choice)].ended; }
  void Read() {
    unread_ = 0;
    events_when_full_ = 0;
    read_due = false;
    next_read = kNever;
  }

 private:
  struct Choice {
    testing::Expected expected;
    testing::ContextHash context = testing::kEmptyContext;
    size_t tokens = 0;
    bool ended = false;
    StepId ended_at;
  };

  void CheckTokens(Choice& choice, const TokenEvent& event);
  void CheckPromptLogprobs(const TokenEvent& event, bool first);
  void CheckFinish(const Choice& choice, const TokenEvent& event);
  bool FinishIsRight(const Choice& choice, const TokenEvent& event) const;
  void Fail(const TokenEvent& event, const std::string& what);

  const World& world_;
  const ClientScript& script_;
  const FakeClock& clock_;
  Report report_;
  std::vector<Choice> choices_;
  int32_t events_of_choice_0_ = 0;
  int32_t unread_ = 0;
  int32_t events_when_full_ = 0;
  bool was_full_ = false;
  bool done_ = false;
  bool refused_ = false;
  bool installed_ = false;
};

}  // namespace millrace::sim
