#include "scheduler/test_device.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace millrace::scheduler {

uint64_t Chain(uint64_t before, TokenId token) {
  uint64_t x = before * 0xff51afd7ed558ccdULL + static_cast<uint32_t>(token) + 1;
  x ^= x >> 31;
  return x * 0xc4ceb9fe1a85ec53ULL;
}

SampleFn HashSampler(int32_t vocabulary) {
  return [vocabulary](uint64_t chain, uint64_t seed, int32_t choice, int32_t index) {
    uint64_t x = Chain(Chain(chain ^ seed, choice), index);
    x ^= x >> 33;
    return static_cast<TokenId>(x % static_cast<uint64_t>(vocabulary));
  };
}

TokenLogprobs ScoreOf(uint64_t chain, TokenId target) {
  TokenLogprobs score;
  score.logprob = -static_cast<float>(Chain(chain, target) % 4096) / 256.0f;
  score.rank = 1 + static_cast<int32_t>(Chain(chain, target) % 97);
  return score;
}

namespace {

// The device honours the ban of end tokens before min_tokens: the next token that is allowed.
TokenId Allowed(TokenId token, int32_t index, int32_t min_tokens,
                const std::vector<TokenId>& banned) {
  if (index >= min_tokens) return token;
  while (std::find(banned.begin(), banned.end(), token) != banned.end()) ++token;
  return token;
}

}  // namespace

Answer Reference(const Request& request, int32_t choice, const SchedulerConfig& config,
                 const SampleFn& sample) {
  Answer answer;
  std::vector<TokenId> stops = request.stop.stop_token_ids;
  if (!request.stop.ignore_eos) {
    stops.insert(stops.end(), config.end_tokens.begin(), config.end_tokens.end());
  }
  uint64_t chain = 0;
  for (const TokenId token : request.prompt) chain = Chain(chain, token);
  auto known = static_cast<int32_t>(request.prompt.size());
  for (int32_t index = 0; index < request.stop.max_tokens; ++index) {
    TokenId token = sample(chain, request.sampling.seed, choice, index);
    token = Allowed(token, index, request.stop.min_tokens, stops);
    if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
      answer.finish = FinishReason::kStop;
      answer.stop_token = token;
      return answer;
    }
    answer.tokens.push_back(token);
    chain = Chain(chain, token);
    if (++known >= config.max_model_len) break;
  }
  answer.finish = FinishReason::kLength;
  return answer;
}

TestDevice::TestDevice(const SchedulerConfig& config, SampleFn sample)
    : config_(config),
      sample_(std::move(sample)),
      groups_(KvGroupsOf(config)),
      slots_(static_cast<size_t>(config.slots)) {
  for (const KvGroupConfig& group : groups_) {
    cells_.emplace_back(static_cast<size_t>(group.blocks + 1) *
                        static_cast<size_t>(config.block_tokens));
  }
}

int32_t TestDevice::slots_in_use() const {
  return static_cast<int32_t>(
      std::count_if(slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.used; }));
}

// Null where the table has no block.
const TestDevice::Cell* TestDevice::At(const Slot& slot, uint32_t group, int32_t position) const {
  const auto tokens = static_cast<size_t>(config_.block_tokens);
  const auto at = static_cast<size_t>(position);
  const std::vector<uint32_t>& table = slot.tables[group];
  if (at / tokens >= table.size() || table[at / tokens] == 0) return nullptr;
  return &cells_[group][table[at / tokens] * tokens + at % tokens];
}

int32_t TestDevice::FirstSeen(uint32_t group, int32_t position) const {
  const int32_t window = groups_[group].window;
  return window == 0 ? 0 : std::max(0, position - window + 1);
}

std::string TestDevice::Submit(const StepPlan& plan) {
  if (plan.step.value() != last_step_ + 1) return "step ids are not consecutive";
  if (steps_.size() >= static_cast<size_t>(config_.max_in_flight)) return "too many in flight";
  last_step_ = plan.step.value();
  std::string broken = ApplySlots(plan);
  if (broken.empty()) broken = ApplyTables(plan);
  if (!broken.empty()) return broken;
  Step step;
  step.result.step = plan.step;
  // A copy names its source: nobody but a holder of it (who only appends) may write there.
  for (const BlockCopy& copy : plan.copies) {
    uint64_t holder = 0;
    for (const Slot& slot : slots_) {
      if (!slot.used) continue;
      const auto& table = slot.tables.at(copy.kv_group);
      const bool holds = std::find(table.begin(), table.end(), copy.source.value()) != table.end();
      if (holds) holder = slot.install.sequence.value();
    }
    step.named.emplace_back(holder, BlockName(copy.kv_group, copy.source.value()));
  }
  int32_t tokens = 0;
  std::set<uint32_t> slots;
  for (const PlanRow& row : plan.rows) {
    tokens += static_cast<int32_t>(row.tokens.count);
    if (!slots.insert(row.slot.value()).second) return "two rows of one sequence";
    broken = RunRow(plan, row, step);
    if (!broken.empty()) return broken;
  }
  if (tokens > config_.tokens_per_step) return "over the token budget (S7)";
  tokens_run_ += tokens;
  steps_.push_back(std::move(step));
  return "";
}

StepResult TestDevice::Take() {
  CHECK(!steps_.empty());
  StepResult result = std::move(steps_.front().result);
  steps_.pop_front();
  return result;
}

std::string TestDevice::ApplySlots(const StepPlan& plan) {
  for (const SlotId id : plan.removes) {
    Slot& slot = slots_.at(id.value());
    if (!slot.used) return "removes an empty slot";
    slot = Slot();
  }
  for (const SlotInstall& install : plan.installs) {
    Slot& slot = slots_.at(install.slot.value());
    if (slot.used) return "installs into a used slot";
    slot.used = true;
    slot.install = install;
    slot.tables.resize(groups_.size());
  }
  return "";
}

std::string TestDevice::ApplyTables(const StepPlan& plan) {
  for (const TableDelta& delta : plan.table_deltas) {
    Slot& slot = slots_.at(delta.slot.value());
    if (!slot.used) return "a table without a sequence";
    if (delta.kv_group >= groups_.size()) return "no such KV group";
    std::vector<uint32_t>& table = slot.tables[delta.kv_group];
    const auto most = static_cast<uint32_t>(groups_[delta.kv_group].blocks);
    for (uint32_t i = 0; i < delta.blocks.count; ++i) {
      const uint32_t block = plan.blocks.at(delta.blocks.begin + i).value();
      const size_t at = size_t{delta.first} + i;
      if (block > most) return "no such block";
      if (at > table.size()) return "a table with a gap";
      if (at < table.size() && block != 0) return "a table that changes where it had grown";
      if (at == table.size()) table.push_back(block);
      blocks_let_go_ += block == 0 && table[at] != 0;
      table[at] = block;
    }
  }
  const auto tokens = static_cast<ptrdiff_t>(config_.block_tokens);
  for (const BlockCopy& copy : plan.copies) {
    if (copy.source == copy.target || copy.target.value() == 0) return "a copy onto itself";
    std::vector<Cell>& cells = cells_.at(copy.kv_group);
    const auto from = cells.begin() + static_cast<ptrdiff_t>(copy.source.value()) * tokens;
    std::copy(from, from + tokens,
              cells.begin() + static_cast<ptrdiff_t>(copy.target.value()) * tokens);
    ++copies_;
  }
  return "";
}

// What the token at `position` sees in each group must be one unbroken chain, the same in all;
// where a group sees everything, from position 0.
std::string TestDevice::CheckHistory(const Slot& slot, int32_t position, uint64_t& chain) const {
  bool known = position == 0;
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    uint64_t mine = 0;
    for (int32_t p = FirstSeen(g, position); p < position; ++p) {
      const Cell* cell = At(slot, g, p);
      if (cell == nullptr) return "reads a null block inside its window";
      const bool first = p > 0 && p == FirstSeen(g, position);
      mine = first ? cell->chain : Chain(mine, cell->token);
      if (!cell->written || cell->chain != mine) return "reads KV that is not its own";
    }
    if (FirstSeen(g, position) >= position) continue;
    if (known && mine != chain) return "groups that disagree";
    chain = mine;
    known = true;
  }
  return known ? "" : "no group sees the token before: a world that cannot be checked";
}

// S3 and S4: nobody else may see the block, now or in a step that has not come back.
std::string TestDevice::CheckWrite(const PlanRow& row, BlockName block) const {
  for (const Slot& slot : slots_) {
    if (!slot.used || slot.install.sequence == row.sequence) continue;
    const std::vector<uint32_t>& table = slot.tables[block.first];
    if (std::find(table.begin(), table.end(), block.second) != table.end()) {
      return "writes to a block of another (S3)";
    }
  }
  for (const Step& step : steps_) {
    for (const auto& [sequence, named] : step.named) {
      if (named == block && sequence != row.sequence.value()) {
        return "writes to a block that a submitted step names (S4)";
      }
    }
  }
  return "";
}

std::string TestDevice::Write(const Slot& slot, const PlanRow& row, int32_t position,
                              const Cell& cell) {
  const auto at = static_cast<size_t>(position / config_.block_tokens);
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    Cell* target = const_cast<Cell*>(At(slot, g, position));
    if (target == nullptr) return "writes to a null block";
    std::string broken = CheckWrite(row, {g, slot.tables[g][at]});
    if (!broken.empty()) return broken;
    *target = cell;
  }
  return "";
}

std::string TestDevice::RunRow(const StepPlan& plan, const PlanRow& row, Step& step) {
  Slot& slot = slots_.at(row.slot.value());
  if (!slot.used || slot.install.sequence != row.sequence) return "a row of nobody (S9)";
  const auto count = static_cast<int32_t>(row.tokens.count);
  if (count <= 0) return "a row without tokens";
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    const auto blocks = static_cast<int32_t>(slot.tables[g].size());
    if (row.position + count > blocks * config_.block_tokens) {
      return "a row beyond its table (S8)";
    }
    for (int32_t b = FirstSeen(g, row.position) / config_.block_tokens; b < blocks; ++b) {
      const BlockName name(g, slot.tables[g][static_cast<size_t>(b)]);
      step.named.emplace_back(row.sequence.value(), name);
    }
  }
  uint64_t chain = 0;
  std::string broken = CheckHistory(slot, row.position, chain);
  if (!broken.empty()) return broken;
  RowResult& result = step.result.rows.emplace_back();
  result.sequence = row.sequence;
  result.slot = row.slot;
  result.scores.begin = static_cast<uint32_t>(step.result.scores.size());
  result.tokens.begin = static_cast<uint32_t>(step.result.tokens.size());
  result.logprobs.begin = static_cast<uint32_t>(step.result.logprobs.size());
  if (row.score_targets.count > row.tokens.count) return "more scores than tokens";
  const bool drafts = row.kind == RowKind::kDraft;
  if (drafts && (row.output != RowOutput::kSample || row.score_targets.count > 0 || count < 2)) {
    return "a draft row without guesses, or with more than guesses";
  }
  bool poisoned = poisoned_.count(row.sequence.value()) > 0;
  // Of a draft row a later part may fail alone.
  const uint64_t fine = drafts ? Chain(last_step_, row.position) % static_cast<uint64_t>(count) : 0;
  bool counts = true;  // all guesses so far were right
  for (int32_t i = 0; i < count; ++i) {
    TokenId token = plan.tokens.at(row.tokens.begin + static_cast<uint32_t>(i));
    if (token == kTokenOnDevice) {
      if (i > 0) return "a guess on the device";
      if (slot.sample_step + 1 != last_step_) return "no sample of the step before is there";
      token = slot.sample;
      ++rows_on_device_;
    }
    chain = Chain(chain, token);
    broken = Write(slot, row, row.position + i, {true, token, chain});
    if (!broken.empty()) return broken;
    if (static_cast<uint32_t>(i) < row.score_targets.count) {
      const TokenId target =
          plan.score_targets.at(row.score_targets.begin + static_cast<uint32_t>(i));
      step.result.scores.push_back(ScoreOf(chain, target));
      ++result.scores.count;
    }
    if (row.output != RowOutput::kSample || !counts || (i + 1 < count && !drafts)) continue;
    if (poisoned && static_cast<uint64_t>(i) >= fine) {
      result.failed = true;
      counts = false;
      slot.sample_step = last_step_;  // of no use, but there
      continue;
    }
    Sample(slot, row, chain, step);
    if (i + 1 < count) {
      counts = plan.tokens.at(row.tokens.begin + static_cast<uint32_t>(i) + 1) == slot.sample;
      guesses_right_ += counts;
      guesses_wrong_ += !counts;
    }
  }
  if (row.output != RowOutput::kSample) result.failed = poisoned;
  return "";
}

void TestDevice::Sample(Slot& slot, const PlanRow& row, uint64_t chain, Step& step) {
  RowResult& result = step.result.rows.back();
  const int32_t index = row.sample_index + static_cast<int32_t>(result.tokens.count);
  TokenId token = sample_(chain, slot.install.sampling.seed, slot.install.choice, index);
  token = Allowed(token, index, slot.install.min_tokens, slot.install.banned_until_min);
  slot.sample = token;
  slot.sample_step = last_step_;
  ++result.tokens.count;
  step.result.tokens.push_back(token);
  if (slot.install.sampling.logprobs >= 0) {
    ++result.logprobs.count;
    step.result.logprobs.push_back(ScoreOf(chain, token));
  }
}

}  // namespace millrace::scheduler
