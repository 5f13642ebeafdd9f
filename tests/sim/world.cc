// Draws a world from a seed. Small numbers throughout: collisions are what finds bugs.

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/sim/simulation.h"

namespace millrace::sim {
namespace {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(testing::MixHash(seed, 0x51)) {}
  uint64_t Next() { return state_ = testing::MixHash(state_, 1); }
  int32_t Between(int32_t low, int32_t high) {  // both inclusive
    return low + static_cast<int32_t>(Next() % static_cast<uint64_t>(high - low + 1));
  }
  bool Chance(int32_t percent) { return Between(0, 99) < percent; }

 private:
  uint64_t state_;
};

// Prompts begin with one of a few shared texts, so that prefixes collide within and across
// namespaces.
std::vector<TokenId> DrawPrompt(Random& random, const World& world) {
  const int32_t longest = world.max_model_len - 2;
  const int32_t shared = random.Chance(60) ? random.Between(1, longest / 2) : 0;
  const int32_t own = random.Between(shared == 0 ? 1 : 0, random.Chance(15) ? longest / 2 : 8);
  const int32_t text = random.Between(0, 2);
  std::vector<TokenId> prompt;
  for (int32_t i = 0; i < shared; ++i) prompt.push_back((text * 17 + i * 7) % world.vocab_size);
  for (int32_t i = 0; i < own; ++i) {
    prompt.push_back(static_cast<TokenId>(random.Next() % static_cast<uint64_t>(world.vocab_size)));
  }
  return prompt;
}

void DrawSampling(Random& random, const World& world, Request& request) {
  SamplingParams& sampling = request.sampling;
  sampling.temperature = random.Chance(40) ? 0.0f : 0.8f;
  if (random.Chance(20)) sampling.presence_penalty = 0.5f;
  if (random.Chance(20)) sampling.logprobs = random.Between(0, 3);
  if (random.Chance(10)) sampling.logit_bias = {{3, 1.5f}};
  StopParams& stop = request.stop;
  const int32_t room = world.max_model_len - static_cast<int32_t>(request.prompt.size());
  stop.max_tokens = random.Between(1, random.Chance(20) ? room : std::min(room, 16));
  if (random.Chance(30)) stop.min_tokens = random.Between(1, stop.max_tokens);
  stop.ignore_eos = random.Chance(40);
  if (random.Chance(20)) stop.stop_token_ids = {random.Between(0, world.vocab_size - 1)};
  if (random.Chance(12)) {
    request.prompt_logprobs = random.Between(0, 3);
    if (random.Chance(30)) stop.max_tokens = stop.min_tokens = 0;
  }
  if (random.Chance(20)) request.n = random.Between(2, 4);
}

ClientScript DrawClient(Random& random, const World& world, uint64_t id, int32_t calm) {
  ClientScript client;
  Request& request = client.request;
  request.id = RequestId(id);
  request.tenant = TenantId(static_cast<uint32_t>(random.Between(0, 1)));
  if (random.Chance(15)) request.cache_salt = "salt";
  request.prompt = DrawPrompt(random, world);
  DrawSampling(random, world, request);
  // Unique in a world: scripts, and the way back from a plan to its request, go by it.
  request.sampling.seed = id;
  if (random.Chance(30)) client.script.end_at = random.Between(0, 12);
  client.script.end_token = 2;
  if (calm) return client;
  if (random.Chance(5)) client.script.nan_at = random.Between(0, 6);
  const MonoNanos unit = 100 * kNanosPerMicro;
  if (random.Chance(20)) client.cancels = random.Between(0, 200) * unit;
  if (random.Chance(20)) {
    client.stop_choice = random.Between(0, request.n - 1);
    client.stop_after = random.Between(1, 10);
  }
  if (random.Chance(15)) {
    client.unread_max = random.Between(1, 4);
    client.reads_every = random.Chance(25) ? kNever : random.Between(1, 300) * unit;
  }
  if (random.Chance(10)) request.deadline = random.Between(1, 400) * unit;
  return client;
}

// Half of the worlds have one group that keeps everything. The others have up to three, with
// windows from one block to more than the longest sequence; their pools are counted in what one
// needs.
void DrawGroups(Random& random, int32_t longest, World& world) {
  const auto starved = [&] { return random.Between(random.Chance(15) ? 50 : 90, 400); };
  world.groups = {{std::max(2, longest * starved() / 100), 0}};
  if (random.Chance(50)) return;
  const int32_t count = random.Between(1, 3);
  world.groups.clear();
  for (int32_t g = 0; g < count; ++g) {
    scheduler::KvGroupConfig group;
    if (random.Chance(70)) {
      group.window = random.Chance(20) ? random.Between(2, 2 * world.max_model_len)
                                       : std::max(2, random.Between(1, 4 * world.block_tokens));
    }
    const int32_t chunk = std::min(world.prefill_chunk_max, world.max_model_len);
    const int32_t seen = (group.window + chunk + world.block_tokens - 2) / world.block_tokens + 1;
    const int32_t needed = group.window == 0 ? longest : std::min(longest, seen);
    group.blocks = std::max(2, needed * starved() / 100);
    world.groups.push_back(group);
  }
}

std::string DescribeGroups(const World& world) {
  std::string text;
  for (const scheduler::KvGroupConfig& group : world.groups) {
    absl::StrAppend(&text, text.empty() ? "" : " + ", group.blocks, " blocks");
    if (group.window > 0) absl::StrAppend(&text, " (window ", group.window, ")");
  }
  return text;
}

}  // namespace

World DrawWorld(uint64_t seed) {
  Random random(seed);
  World world;
  world.seed = seed;
  world.depth = static_cast<int32_t>(seed % 2);
  world.block_tokens = random.Chance(10) ? 1 : random.Between(2, 8);
  world.slots = random.Between(1, 8);
  world.tokens_per_step = random.Between(1, 48);
  world.prefill_chunk_max = random.Between(1, world.tokens_per_step);
  world.mixed_prefill_tokens = random.Between(1, world.tokens_per_step);
  world.max_model_len = random.Between(16, 72);
  // Starved pools are the rule; some hold less than one longest sequence.
  const int32_t longest = (world.max_model_len + world.block_tokens - 1) / world.block_tokens;
  DrawGroups(random, longest, world);
  world.prefix_cache = !random.Chance(15);
  world.pause_max = random.Between(1, 60) * kNanosPerMilli;
  const bool calm = random.Chance(15);  // nothing happens but work
  if (!calm && random.Chance(8)) {
    world.device_fails_at = static_cast<uint64_t>(random.Between(3, 60));
    world.fails_in_submit = random.Chance(40);
  }
  if (!calm && random.Chance(15)) {
    world.drain_at = random.Between(1, 40) * kNanosPerMilli;
    world.drain_deadline = world.drain_at + random.Between(0, 30) * kNanosPerMilli;
  }
  if (!calm && random.Chance(10)) world.requests_max = random.Between(1, 6);
  if (random.Chance(60)) {
    world.guesses_max = random.Between(1, 8);
    world.guesses_right = random.Between(0, 100);
  }
  const int32_t clients = random.Between(1, 24);
  const int32_t rush = random.Between(0, 30);  // mean gap in units of 100 us
  MonoNanos now = 0;
  for (int32_t i = 0; i < clients; ++i) {
    now += random.Between(0, 2 * rush) * 100 * kNanosPerMicro;
    ClientScript client = DrawClient(random, world, static_cast<uint64_t>(i) + 1, calm);
    client.arrives = now;
    if (client.cancels != kNever) client.cancels += now;
    if (client.request.deadline != kNever) client.request.deadline += now;
    client.request.arrival = now + 1;  // 0 would mean unset
    world.clients.push_back(std::move(client));
  }
  return world;
}

std::string Describe(const World& world) {
  return absl::StrCat("seed ", world.seed, ": depth ", world.depth, ", ", DescribeGroups(world),
                      " of ", world.block_tokens, ", ", world.slots, " slots, ",
                      world.tokens_per_step, " tokens a step (chunk ", world.prefill_chunk_max,
                      ", ", world.mixed_prefill_tokens, " beside decodes), max_model_len ",
                      world.max_model_len, ", cache ", world.prefix_cache ? "on" : "off", ", ",
                      world.clients.size(), " clients, ", world.guesses_max,
                      " guesses, device fails at step ", world.device_fails_at, ", drain ",
                      world.drain_at == kNever ? -1 : world.drain_at / kNanosPerMilli, " ms");
}

}  // namespace millrace::sim
