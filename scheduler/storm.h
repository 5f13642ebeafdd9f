#pragma once
// For tests only: arbitrary traffic against one scheduler on a checking device. Where the choices
// come from (a seeded generator, a fuzzer's bytes) is the caller's affair. After every call the
// invariants are audited, and every event is held against what the request answers alone.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "scheduler/scheduler.h"
#include "scheduler/test_device.h"

namespace millrace::scheduler {

// A number in [0, n). n >= 1.
using Choose = std::function<uint32_t(uint32_t n)>;

// Thread: one.
class Storm {
 public:
  // Draws a tiny configuration: pools of a few blocks, so that everything collides.
  explicit Storm(Choose choose);

  // One random call. Empty, or what broke.
  std::string Act();
  // No more arrivals, every client reads: all requests must end within a bound (L1).
  std::string Quiet();

  // Of all plans so far, in order.
  uint64_t plans_digest() const { return digest_; }
  EngineStats Stats() const { return scheduler_->Stats(); }
  int64_t copies() const { return device_->copies(); }
  int64_t blocks_let_go() const { return device_->blocks_let_go(); }
  int64_t guesses_right() const { return device_->guesses_right(); }
  int64_t guesses_wrong() const { return device_->guesses_wrong(); }

 private:
  struct Stream {
    Answer answer;
    std::vector<TokenId> tokens;
    bool ended = false;
    int32_t told = -1;  // completion tokens given to Finish
    FinishReason told_reason = FinishReason::kNone;
  };
  struct Client {
    Request request;
    std::vector<Stream> streams;
    bool done = false;
    bool paused = false;
    bool was_paused = false;
    FinishReason forced = FinishReason::kNone;  // how we ended it
  };

  void Configure();
  void DrawGroups();
  std::string Add();
  std::string PlanStep();
  std::string ApplyStep();
  std::string EndSomething();
  std::string PauseSomething();
  Client* Pick();
  Request DrawRequest();
  void Guess(const GuessQuery& query, std::vector<TokenId>& guesses) const;
  std::string AfterCall();
  std::string TakeEvents();
  std::string CheckEvent(Client& client, const TokenEvent& event);
  std::string CheckEnd(const Client& client, const Stream& stream, const TokenEvent& event) const;
  bool SomeoneCouldRun() const;
  bool SomeoneForks() const;
  bool AllLocal() const;

  Choose choose_;
  SchedulerConfig config_;
  SampleFn sample_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<TestDevice> device_;
  std::map<uint64_t, Client> clients_;  // every request ever accepted, by id
  std::vector<uint64_t> live_;
  uint64_t next_id_ = 1;
  MonoNanos now_ = 1;
  int idle_plans_ = 0;
  uint64_t digest_ = 0;
  int64_t ends_ = 0;  // of choices, for whatever reason
  bool poisoned_ = false;
  bool quiet_ = false;
};

}  // namespace millrace::scheduler
