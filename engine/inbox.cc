#include "engine/inbox.h"

#include <chrono>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace millrace::engine {

absl::Status Admission::Enter(int64_t tokens) {
  std::lock_guard lock(mutex_);
  if (!open_ || !closed_reason_.empty()) {
    return absl::UnavailableError(closed_reason_.empty() ? "the engine has not started"
                                                         : closed_reason_);
  }
  if (requests_ >= limits_.requests_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the node is full: ", requests_, " requests are queued or running"));
  }
  // A prompt longer than the limit may still enter an empty queue, or it could never run.
  if (queued_tokens_ > 0 && queued_tokens_ + tokens > limits_.queued_tokens_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", queued_tokens_, " prompt tokens wait"));
  }
  ++requests_;
  queued_tokens_ += tokens;
  return absl::OkStatus();
}

void Admission::LeaveQueue(int64_t tokens) {
  std::lock_guard lock(mutex_);
  CHECK(queued_tokens_ >= tokens);
  queued_tokens_ -= tokens;
}

void Admission::Leave() {
  std::lock_guard lock(mutex_);
  CHECK(requests_ > 0);
  if (--requests_ == 0) empty_.notify_all();
}

void Admission::Open() {
  std::lock_guard lock(mutex_);
  open_ = true;
}

void Admission::Close(const std::string& reason) {
  std::lock_guard lock(mutex_);
  if (closed_reason_.empty()) closed_reason_ = reason;
}

bool Admission::WaitEmpty(MonoNanos timeout) {
  std::unique_lock lock(mutex_);
  return empty_.wait_for(lock, std::chrono::nanoseconds(timeout), [&] { return requests_ == 0; });
}

int32_t Admission::requests() const {
  std::lock_guard lock(mutex_);
  return requests_;
}

absl::Status Inbox::Submit(SubmitLetter letter) {
  CHECK(letter.sink != nullptr);
  const auto tokens = static_cast<int64_t>(letter.request.prompt.size());
  absl::Status status = admission_.Enter(tokens);
  if (!status.ok()) return status;
  if (letters_.TryPush(Letter(std::move(letter)))) return absl::OkStatus();
  admission_.LeaveQueue(tokens);
  admission_.Leave();
  return absl::ResourceExhaustedError("the inbox of the engine is full");
}

}  // namespace millrace::engine
