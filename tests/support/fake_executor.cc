#include "tests/support/fake_executor.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace millrace::testing {
namespace {

constexpr size_t kViolationsKept = 20;

std::string RowName(const PlanRow& row) {
  return absl::StrCat("sequence ", row.sequence.value(), " in slot ", row.slot.value());
}

}  // namespace

FakeExecutor::FakeExecutor(FakeExecutorOptions options) : options_(std::move(options)) {
  CHECK(options_.max_in_flight >= 1 && options_.vocab_size > 1);
  cells_.resize(static_cast<size_t>(options_.kv.blocks + 1) *
                static_cast<size_t>(options_.kv.block_tokens));
  shadows_.resize(static_cast<size_t>(options_.slots));
  slots_.resize(static_cast<size_t>(options_.slots));
}

executor::ExecutorCapacity FakeExecutor::Capacity() const {
  return {.kv_groups = {options_.kv},
          .slots = options_.slots,
          .tokens_per_step = options_.tokens_per_step,
          .vocab_size = options_.vocab_size};
}

void FakeExecutor::Violate(StepId step, const std::string& what) {
  if (violations_.size() < kViolationsKept) {
    violations_.push_back(absl::StrCat("step ", step.value(), ": ", what));
  }
}

int32_t FakeExecutor::installed() const {
  return static_cast<int32_t>(
      std::count_if(shadows_.begin(), shadows_.end(), [](const Shadow& s) { return s.installed; }));
}

absl::Status FakeExecutor::Submit(StepPlan plan) {
  if (plan.step.value() != submitted_.value() + 1) Violate(plan.step, "step ids have a gap");
  if (work_.size() >= static_cast<size_t>(options_.max_in_flight)) {
    Violate(plan.step, "too many steps in flight");
  }
  if (plan.empty()) Violate(plan.step, "an empty plan was submitted");
  submitted_ = plan.step;
  if (options_.fail_in_submit && options_.fail_at_step.value() != 0 &&
      plan.step >= options_.fail_at_step) {
    return absl::InternalError("scripted device error in Submit");
  }
  Work work;
  if (options_.fast_tokens.empty()) {
    UpdateShadow(plan);
    for (const PlanRow& row : plan.rows) {
      CheckRow(plan, row);
      const bool known = row.slot.value() < shadows_.size();
      work.blocks.push_back(known ? shadows_[row.slot.value()].table : std::vector<BlockId>());
    }
  }
  work.plan = std::move(plan);
  if (options_.fast_tokens.empty()) CheckWrites(work);
  work_.push_back(std::move(work));
  return absl::OkStatus();
}

absl::StatusOr<StepResult> FakeExecutor::Wait(StepId step) {
  if (options_.before_wait) options_.before_wait(step);
  if (options_.fail_at_step.value() != 0 && step >= options_.fail_at_step) {
    return absl::InternalError("scripted device error");
  }
  CHECK(!work_.empty() && work_.front().plan.step == step);
  const Work work = std::move(work_.front());
  work_.pop_front();
  if (options_.clock != nullptr) {
    options_.clock->Advance(options_.step_nanos +
                            static_cast<MonoNanos>(work.plan.tokens.size()) * options_.token_nanos);
  }
  return options_.fast_tokens.empty() ? Execute(work) : ExecuteFast(work.plan);
}

void FakeExecutor::UpdateShadow(const StepPlan& plan) {
  for (const SlotId slot : plan.removes) {
    if (slot.value() >= shadows_.size() || !shadows_[slot.value()].installed) {
      Violate(plan.step, absl::StrCat("slot ", slot.value(), " is removed but not installed"));
      continue;
    }
    shadows_[slot.value()] = Shadow();
  }
  for (const SlotInstall& install : plan.installs) {
    if (install.slot.value() >= shadows_.size()) {
      Violate(plan.step, absl::StrCat("there is no slot ", install.slot.value()));
      continue;
    }
    Shadow& shadow = shadows_[install.slot.value()];
    if (shadow.installed) {
      Violate(plan.step, absl::StrCat("slot ", install.slot.value(), " is installed twice"));
    }
    for (const Shadow& other : shadows_) {
      if (other.installed && other.sequence == install.sequence) {
        Violate(plan.step, absl::StrCat("sequence ", install.sequence.value(), " is in two slots"));
      }
    }
    shadow = Shadow();
    shadow.installed = true;
    shadow.sequence = install.sequence;
    shadow.prompt_tokens = install.prompt_tokens;
  }
  for (const TableDelta& delta : plan.table_deltas) ApplyDelta(plan, delta);
  if (plan.tokens.size() > static_cast<size_t>(options_.tokens_per_step)) {
    Violate(plan.step, absl::StrCat(plan.tokens.size(), " tokens are over the budget (S7)"));
  }
}

void FakeExecutor::ApplyDelta(const StepPlan& plan, const TableDelta& delta) {
  if (delta.slot.value() >= shadows_.size() || !shadows_[delta.slot.value()].installed) {
    return Violate(plan.step, absl::StrCat("a table delta names slot ", delta.slot.value(),
                                           ", which is not installed"));
  }
  std::vector<BlockId>& table = shadows_[delta.slot.value()].table;
  if (delta.first > table.size() || delta.kv_group != 0) {
    return Violate(plan.step, "a table delta leaves a gap");
  }
  table.resize(std::max(table.size(), size_t{delta.first} + delta.blocks.count));
  for (uint32_t i = 0; i < delta.blocks.count; ++i) {
    const BlockId block = plan.blocks[delta.blocks.begin + i];
    if (block.value() > static_cast<uint32_t>(options_.kv.blocks)) {
      return Violate(plan.step, absl::StrCat("there is no block ", block.value()));
    }
    table[delta.first + i] = block;
  }
}

void FakeExecutor::CheckRow(const StepPlan& plan, const PlanRow& row) {
  if (row.slot.value() >= shadows_.size() || !shadows_[row.slot.value()].installed ||
      shadows_[row.slot.value()].sequence != row.sequence) {
    return Violate(plan.step, absl::StrCat(RowName(row), " is not installed there (S8, S9)"));
  }
  Shadow& shadow = shadows_[row.slot.value()];
  const auto count = static_cast<int32_t>(row.tokens.count);
  if (count < 1 || row.tokens.begin + row.tokens.count > plan.tokens.size()) {
    return Violate(plan.step, absl::StrCat(RowName(row), " has no tokens or foreign ones"));
  }
  // Rejected drafts move the next position back; nothing else does.
  if (shadow.next_position >= 0 && row.position != shadow.next_position &&
      row.kind != RowKind::kDraft) {
    Violate(plan.step, absl::StrCat(RowName(row), " jumps from position ", shadow.next_position,
                                    " to ", row.position, " (S8)"));
  }
  shadow.next_position = row.kind == RowKind::kDraft ? -1 : row.position + count;
  const auto slots = static_cast<int32_t>(shadow.table.size()) * options_.kv.block_tokens;
  if (row.position < 0 || row.position + count > slots) {
    Violate(plan.step, absl::StrCat(RowName(row), " writes past its table (S8)"));
  }
  if (row.output == RowOutput::kSample && row.kind != RowKind::kDraft &&
      row.sample_index != row.position + count - shadow.prompt_tokens) {
    Violate(plan.step, absl::StrCat(RowName(row), " samples index ", row.sample_index,
                                    " at position ", row.position + count - 1));
  }
  const uint32_t targets = row.score_targets.count;
  if (targets != 0 && targets != row.tokens.count && targets + 1 != row.tokens.count) {
    Violate(plan.step, absl::StrCat(RowName(row), " has ", targets, " score targets"));
  }
}

// Every block that this plan writes, against all who hold or still use it.
void FakeExecutor::CheckWrites(Work& work) {
  for (size_t i = 0; i < work.plan.rows.size(); ++i) {
    const PlanRow& row = work.plan.rows[i];
    const int32_t end = row.position + static_cast<int32_t>(row.tokens.count);
    for (size_t b = 0; b < work.blocks[i].size(); ++b) {
      const auto begin = static_cast<int32_t>(b) * options_.kv.block_tokens;
      if (begin >= end) break;
      work.named.emplace(work.blocks[i][b], row.sequence);
      const bool written = begin + options_.kv.block_tokens > row.position;
      if (written) CheckWrittenBlock(work, work.blocks[i][b], row.sequence);
    }
  }
  for (const BlockCopy& copy : work.plan.copies) {
    if (copy.source == copy.target || copy.target == kNullBlock) {
      Violate(work.plan.step, "a copy onto itself or the null block");
    }
    work.named.emplace(copy.source, SequenceId(0));
    for (const Shadow& shadow : shadows_) {
      const auto holds = [&](BlockId block) {
        return std::find(shadow.table.begin(), shadow.table.end(), block) != shadow.table.end();
      };
      if (holds(copy.source)) work.named.emplace(copy.source, shadow.sequence);
      if (holds(copy.target)) CheckWrittenBlock(work, copy.target, shadow.sequence);
    }
  }
}

void FakeExecutor::CheckWrittenBlock(const Work& work, BlockId block, SequenceId writer) {
  if (block == kNullBlock) return Violate(work.plan.step, "the null block is written");
  for (const Shadow& shadow : shadows_) {
    if (!shadow.installed || shadow.sequence == writer) continue;
    if (std::find(shadow.table.begin(), shadow.table.end(), block) != shadow.table.end()) {
      Violate(work.plan.step,
              absl::StrCat("sequence ", writer.value(), " writes block ", block.value(),
                           ", which sequence ", shadow.sequence.value(), " holds too (S3)"));
    }
  }
  // Steps run in order, so one who already held the block may go on writing it.
  for (const Work& earlier : work_) {
    const auto range = earlier.named.equal_range(block);
    const bool held =
        std::any_of(range.first, range.second, [&](const auto& n) { return n.second == writer; });
    if (range.first == range.second || held) continue;
    Violate(work.plan.step,
            absl::StrCat("sequence ", writer.value(), " writes block ", block.value(),
                         ", which unfinished step ", earlier.plan.step.value(),
                         " still names for sequence ", range.first->second.value(), " (S4)"));
  }
}

FakeExecutor::Cell* FakeExecutor::CellAt(const std::vector<BlockId>& table, int32_t position) {
  const auto index = static_cast<size_t>(position / options_.kv.block_tokens);
  if (position < 0 || index >= table.size() || table[index] == kNullBlock) return nullptr;
  return &cells_[static_cast<size_t>(table[index].value()) *
                     static_cast<size_t>(options_.kv.block_tokens) +
                 static_cast<size_t>(position % options_.kv.block_tokens)];
}

StepResult FakeExecutor::Execute(const Work& work) {
  ExecuteSlots(work.plan);
  const auto block_tokens = static_cast<size_t>(options_.kv.block_tokens);
  for (const BlockCopy& copy : work.plan.copies) {
    const auto source = cells_.begin() + static_cast<ptrdiff_t>(copy.source.value() * block_tokens);
    std::copy(source, source + static_cast<ptrdiff_t>(block_tokens),
              cells_.begin() + static_cast<ptrdiff_t>(copy.target.value() * block_tokens));
  }
  StepResult result;
  result.step = work.plan.step;
  for (size_t i = 0; i < work.plan.rows.size(); ++i) ExecuteRow(work, i, result);
  return result;
}

void FakeExecutor::ExecuteSlots(const StepPlan& plan) {
  for (const SlotInstall& install : plan.installs) {
    Slot& slot = slots_[install.slot.value()];
    slot = Slot();
    slot.install = install;
    if (options_.domain) slot.domain = options_.domain(install);
    const auto first = plan.history_tokens.begin() + install.history.begin;
    slot.history.assign(first, first + install.history.count);
    if (install.sampling.penalized() != (install.history.count > 0)) {
      Violate(plan.step, absl::StrCat("sequence ", install.sequence.value(),
                                      " has a history without need or none in need"));
    }
  }
}

// All positions before the row, read back through its table.
ContextHash FakeExecutor::ReadPast(const Work& work, size_t index) {
  const PlanRow& row = work.plan.rows[index];
  const uint64_t domain = slots_[row.slot.value()].domain;
  ContextHash context = kEmptyContext;
  for (int32_t position = 0; position < row.position; ++position) {
    const Cell* cell = CellAt(work.blocks[index], position);
    const char* wrong = nullptr;
    if (cell == nullptr) {
      wrong = "no block";
    } else if (!cell->written) {
      wrong = "a cell never written";
    } else if (cell->position != position) {
      wrong = "a cell written for another position";
    } else if (cell->domain != domain) {
      wrong = "a cell of another namespace (S6)";
    }
    if (cell != nullptr) context = Extend(context, cell->token);
    if (wrong == nullptr && cell->context != context) wrong = "a cell of another sequence";
    if (wrong == nullptr) continue;
    Violate(work.plan.step,
            absl::StrCat(RowName(row), " reads at position ", position, " ", wrong, " (S5)"));
    return MixHash(context, work.plan.step.value());  // what follows is garbage, and shows
  }
  return context;
}

void FakeExecutor::Write(const Work& work, size_t index, int32_t position, const Cell& cell) {
  Cell* target = CellAt(work.blocks[index], position);
  if (target != nullptr) *target = cell;
}

void FakeExecutor::ExecuteRow(const Work& work, size_t index, StepResult& result) {
  const StepPlan& plan = work.plan;
  const PlanRow& row = plan.rows[index];
  RowResult& out = result.rows.emplace_back();
  out.sequence = row.sequence;
  out.slot = row.slot;
  out.tokens.begin = static_cast<uint32_t>(result.tokens.size());
  out.logprobs.begin = static_cast<uint32_t>(result.logprobs.size());
  out.scores.begin = static_cast<uint32_t>(result.scores.size());
  Slot& slot = slots_[row.slot.value()];
  if (slot.install.sequence != row.sequence) return;  // said already
  ContextHash context = ReadPast(work, index);
  bool accepting = true;  // drafts are, until the first that differs from its sample
  for (uint32_t i = 0; i < row.tokens.count; ++i) {
    TokenId token = plan.tokens[row.tokens.begin + i];
    if (token == kTokenOnDevice) {
      if (slot.last_sample_step.value() + 1 != plan.step.value()) {
        Violate(plan.step, absl::StrCat(RowName(row), " has no sample of the step before"));
      }
      token = slot.last_sample;
    }
    context = Extend(context, token);
    const int32_t position = row.position + static_cast<int32_t>(i);
    Write(work, index, position, {true, token, position, context, slot.domain});
    if (i < row.score_targets.count) {
      const TokenId target = plan.score_targets[row.score_targets.begin + i];
      result.scores.push_back(ScoreToken(context, target, row.score_top, options_.vocab_size));
    }
    const bool last = i + 1 == row.tokens.count;
    if (row.output != RowOutput::kSample || !accepting) continue;
    if (!last && row.kind != RowKind::kDraft) continue;
    Sample(work, row, context, result);
    if (!last) accepting = plan.tokens[row.tokens.begin + i + 1] == slot.last_sample;
  }
  out.scores.count = static_cast<uint32_t>(result.scores.size()) - out.scores.begin;
}

void FakeExecutor::Sample(const Work& work, const PlanRow& row, ContextHash context,
                          StepResult& result) {
  Slot& slot = slots_[row.slot.value()];
  RowResult& out = result.rows.back();
  const SamplingParams& sampling = slot.install.sampling;
  const int32_t index = row.sample_index + static_cast<int32_t>(out.tokens.count);
  const auto script = options_.scripts.find(sampling.seed);
  if (script != options_.scripts.end() && index == script->second.nan_at) {
    out.failed = true;
    slot.last_sample = 0;  // garbage, for the one step that may already build upon it
    slot.last_sample_step = work.plan.step;
    return;
  }
  SampleArgs args;
  args.sampling = &sampling;
  args.choice = slot.install.choice;
  args.sample_index = index;
  args.min_tokens = slot.install.min_tokens;
  args.banned_until_min = slot.install.banned_until_min;
  args.vocab_size = options_.vocab_size;
  if (sampling.penalized()) args.history = HistoryHash(slot.history);
  TokenId token = SampleToken(context, args);
  if (script != options_.scripts.end() && index == script->second.end_at &&
      index >= slot.install.min_tokens) {
    token = script->second.end_token;
  }
  if (sampling.penalized()) slot.history.push_back(token);
  slot.last_sample = token;
  slot.last_sample_step = work.plan.step;
  result.tokens.push_back(token);
  ++out.tokens.count;
  if (sampling.logprobs >= 0) {
    result.logprobs.push_back(ScoreToken(context, token, sampling.logprobs, options_.vocab_size));
    ++out.logprobs.count;
  }
}

StepResult FakeExecutor::ExecuteFast(const StepPlan& plan) {
  for (const SlotInstall& install : plan.installs) {
    slots_[install.slot.value()].install.sampling.logprobs = install.sampling.logprobs;
  }
  StepResult result;
  result.step = plan.step;
  result.rows.reserve(plan.rows.size());
  result.tokens.reserve(plan.rows.size());
  for (const PlanRow& row : plan.rows) {
    RowResult& out = result.rows.emplace_back();
    out.sequence = row.sequence;
    out.slot = row.slot;
    for (uint32_t i = 0; i < row.score_targets.count; ++i) {
      if (i == 0) out.scores.begin = static_cast<uint32_t>(result.scores.size());
      const TokenId target = plan.score_targets[row.score_targets.begin + i];
      result.scores.push_back(ScoreToken(i, target, row.score_top, options_.vocab_size));
      ++out.scores.count;
    }
    if (row.output != RowOutput::kSample) continue;
    const TokenId token = options_.fast_tokens[next_fast_token_++ % options_.fast_tokens.size()];
    out.tokens = {static_cast<uint32_t>(result.tokens.size()), 1};
    result.tokens.push_back(token);
    const int32_t top = slots_[row.slot.value()].install.sampling.logprobs;
    if (top < 0) continue;
    out.logprobs = {static_cast<uint32_t>(result.logprobs.size()), 1};
    result.logprobs.push_back(ScoreToken(0, token, top, options_.vocab_size));
  }
  return result;
}

}  // namespace millrace::testing
