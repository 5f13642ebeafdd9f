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

FakeExecutor::FakeExecutor(FakeExecutorOptions options)
    : options_(std::move(options)),
      block_tokens_(options_.kv_groups.empty() ? options_.kv.block_tokens
                                               : options_.kv_groups[0].block_tokens),
      groups_(options_.kv_groups) {
  CHECK(options_.max_in_flight >= 1 && options_.vocab_size > 1);
  if (groups_.empty()) groups_.push_back(options_.kv);
  for (const executor::KvGroupCapacity& group : groups_) {
    CHECK(group.block_tokens == block_tokens_);
    cells_.emplace_back(static_cast<size_t>(group.blocks + 1) * static_cast<size_t>(block_tokens_));
  }
  shadows_.resize(static_cast<size_t>(options_.slots));
  slots_.resize(static_cast<size_t>(options_.slots));
}

executor::ExecutorCapacity FakeExecutor::Capacity() const {
  return {.kv_groups = groups_,
          .slots = options_.slots,
          .tokens_per_step = options_.tokens_per_step,
          .vocab_size = options_.vocab_size};
}

// The first position that the token at `position` sees.
int32_t FakeExecutor::FirstSeen(uint32_t group, int32_t position) const {
  const int32_t window = groups_[group].window;
  return window == 0 ? 0 : std::max(0, position - window + 1);
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
      work.tables.push_back(known ? shadows_[row.slot.value()].tables : std::vector<Table>());
      work.tables.back().resize(groups_.size());
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
    shadow.tables.resize(groups_.size());
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
  if (delta.kv_group >= groups_.size()) return Violate(plan.step, "there is no such KV group");
  Table& table = shadows_[delta.slot.value()].tables[delta.kv_group];
  if (delta.first > table.size()) return Violate(plan.step, "a table delta leaves a gap");
  table.resize(std::max(table.size(), size_t{delta.first} + delta.blocks.count));
  for (uint32_t i = 0; i < delta.blocks.count; ++i) {
    const BlockId block = plan.blocks[delta.blocks.begin + i];
    if (block.value() > static_cast<uint32_t>(groups_[delta.kv_group].blocks)) {
      return Violate(plan.step, absl::StrCat("there is no block ", block.value()));
    }
    blocks_let_go_ += block == kNullBlock && table[delta.first + i] != kNullBlock;
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
  // Wrong guesses move the next position back; nothing else does.
  if (shadow.next_position >= 0 &&
      (row.position > shadow.next_position || row.position < shadow.first_position)) {
    Violate(plan.step, absl::StrCat(RowName(row), " jumps from position ", shadow.next_position,
                                    " to ", row.position, " (S8)"));
  }
  const bool drafts = row.kind == RowKind::kDraft;
  shadow.next_position = row.position + count;
  shadow.first_position = drafts ? row.position + 1 : shadow.next_position;
  if (drafts && (row.output != RowOutput::kSample || row.score_targets.count != 0 || count < 2)) {
    Violate(plan.step, absl::StrCat(RowName(row), " is no draft row"));
  }
  for (const Table& table : shadow.tables) {
    const auto slots = static_cast<int32_t>(table.size()) * block_tokens_;
    if (row.position < 0 || row.position + count > slots) {
      Violate(plan.step, absl::StrCat(RowName(row), " writes past its table (S8)"));
    }
  }
  if (row.output == RowOutput::kSample &&
      row.sample_index != row.position + (drafts ? 1 : count) - shadow.prompt_tokens) {
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
    for (uint32_t g = 0; g < groups_.size(); ++g) {
      const Table& table = work.tables[i][g];
      const int32_t first = FirstSeen(g, std::max(row.position, 0)) / block_tokens_;
      for (int32_t b = first; b < static_cast<int32_t>(table.size()); ++b) {
        const int32_t begin = b * block_tokens_;
        if (begin >= end) break;
        const BlockName name(g, table[static_cast<size_t>(b)]);
        work.named.emplace(name, row.sequence);
        if (begin + block_tokens_ > row.position) CheckWrittenBlock(work, name, row.sequence);
      }
    }
  }
  for (const BlockCopy& copy : work.plan.copies) {
    if (copy.source == copy.target || copy.target == kNullBlock ||
        copy.kv_group >= groups_.size()) {
      Violate(work.plan.step, "a copy onto itself or the null block, or in no group");
      continue;
    }
    const BlockName source(copy.kv_group, copy.source);
    work.named.emplace(source, SequenceId(0));
    for (const Shadow& shadow : shadows_) {
      if (!shadow.installed) continue;
      const Table& table = shadow.tables[copy.kv_group];
      const auto holds = [&](BlockId block) {
        return std::find(table.begin(), table.end(), block) != table.end();
      };
      if (holds(copy.source)) work.named.emplace(source, shadow.sequence);
      if (holds(copy.target)) {
        CheckWrittenBlock(work, {copy.kv_group, copy.target}, shadow.sequence);
      }
    }
  }
}

void FakeExecutor::CheckWrittenBlock(const Work& work, BlockName block, SequenceId writer) {
  if (block.second == kNullBlock) return Violate(work.plan.step, "the null block is written");
  for (const Shadow& shadow : shadows_) {
    if (!shadow.installed || shadow.sequence == writer) continue;
    const Table& table = shadow.tables[block.first];
    if (std::find(table.begin(), table.end(), block.second) != table.end()) {
      Violate(work.plan.step,
              absl::StrCat("sequence ", writer.value(), " writes block ", block.second.value(),
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
            absl::StrCat("sequence ", writer.value(), " writes block ", block.second.value(),
                         ", which unfinished step ", earlier.plan.step.value(),
                         " still names for sequence ", range.first->second.value(), " (S4)"));
  }
}

FakeExecutor::Cell* FakeExecutor::CellAt(const std::vector<Table>& tables, uint32_t group,
                                         int32_t position) {
  const Table& table = tables[group];
  const auto index = static_cast<size_t>(position / block_tokens_);
  if (position < 0 || index >= table.size() || table[index] == kNullBlock) return nullptr;
  return &cells_[group]
                [static_cast<size_t>(table[index].value()) * static_cast<size_t>(block_tokens_) +
                 static_cast<size_t>(position % block_tokens_)];
}

StepResult FakeExecutor::Execute(const Work& work) {
  ExecuteSlots(work.plan);
  const auto block_tokens = static_cast<size_t>(block_tokens_);
  for (const BlockCopy& copy : work.plan.copies) {
    if (copy.kv_group >= groups_.size()) continue;  // said already
    std::vector<Cell>& cells = cells_[copy.kv_group];
    const auto source = cells.begin() + static_cast<ptrdiff_t>(copy.source.value() * block_tokens);
    std::copy(source, source + static_cast<ptrdiff_t>(block_tokens),
              cells.begin() + static_cast<ptrdiff_t>(copy.target.value() * block_tokens));
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

// All that the row's first token sees before itself, read back through its tables. What a window
// hides is part of the hashes that it shows.
ContextHash FakeExecutor::ReadPast(const Work& work, size_t index) {
  const PlanRow& row = work.plan.rows[index];
  ContextHash context = kEmptyContext;
  bool known = row.position == 0;
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    if (FirstSeen(g, row.position) >= row.position) continue;
    ContextHash mine = kEmptyContext;
    const char* wrong = WrongPast(work, index, g, mine);
    if (wrong == nullptr && known && mine != context) wrong = "cells on which its groups differ";
    if (wrong != nullptr) {
      Violate(work.plan.step, absl::StrCat(RowName(row), " reads before position ", row.position,
                                           " in group ", g, " ", wrong, " (S5)"));
      return MixHash(mine, work.plan.step.value());  // what follows is garbage, and shows
    }
    context = mine;
    known = true;
  }
  if (!known) Violate(work.plan.step, "no group sees the token before: nothing can be checked");
  return context;
}

// What is wrong with the past in one group, or null; `context` becomes the hash of it.
const char* FakeExecutor::WrongPast(const Work& work, size_t index, uint32_t group,
                                    ContextHash& context) {
  const PlanRow& row = work.plan.rows[index];
  const uint64_t domain = slots_[row.slot.value()].domain;
  const int32_t first = FirstSeen(group, row.position);
  for (int32_t position = first; position < row.position; ++position) {
    const Cell* cell = CellAt(work.tables[index], group, position);
    if (cell == nullptr) return "no block";
    const bool hidden = position == first && first > 0;  // what lies before
    context = hidden ? cell->context : Extend(context, cell->token);
    if (!cell->written) return "a cell never written";
    if (cell->position != position) return "a cell written for another position";
    if (cell->domain != domain) return "a cell of another namespace (S6)";
    if (cell->context != context) return "a cell of another sequence";
  }
  return nullptr;
}

void FakeExecutor::Write(const Work& work, size_t index, int32_t position, const Cell& cell) {
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    Cell* target = CellAt(work.tables[index], g, position);
    if (target != nullptr) *target = cell;
  }
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
    if (last) continue;
    accepting = !out.failed && plan.tokens[row.tokens.begin + i + 1] == slot.last_sample;
    guesses_right_ += accepting;
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
    const int32_t top = slots_[row.slot.value()].install.sampling.logprobs;
    out.tokens.begin = static_cast<uint32_t>(result.tokens.size());
    out.logprobs.begin = static_cast<uint32_t>(result.logprobs.size());
    bool right = true;  // the guess that comes next
    while (right) {
      const TokenId token = options_.fast_tokens[next_fast_token_++ % options_.fast_tokens.size()];
      result.tokens.push_back(token);
      ++out.tokens.count;
      right = row.kind == RowKind::kDraft && out.tokens.count < row.tokens.count &&
              plan.tokens[row.tokens.begin + out.tokens.count] == token;
      if (top < 0) continue;
      ++out.logprobs.count;
      result.logprobs.push_back(ScoreToken(0, token, top, options_.vocab_size));
    }
  }
  return result;
}

}  // namespace millrace::testing
