// Runs the checker over policies and overlap depths and prints the counts. Without arguments every
// 37th case of each row, which takes seconds; `--full` takes every case; `--stride=N` between.
//
// The rows with a protection removed are the positive controls: a checker that finds nothing there
// would prove nothing elsewhere.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/checker/checker.h"

namespace millrace::checker {
namespace {

enum class Expect { kNoneStuck, kSomeStuck };
// kPlain: blocks of one token, no sharing. The others: blocks of two tokens, equal prompts, prefix
// cache, two slots; one request of two choices, or clients that stop and resume reading. With
// windows: two groups, one of which sees two or three positions. With guesses: of the next one or
// two tokens, some wrong.
enum class Variety { kPlain, kForks, kPauses, kWindows, kWindowForks, kGuesses, kWindowGuesses };

struct Row {
  const char* name;
  int depth;
  bool refuse_never_fit;
  bool count_pending_frees;
  int32_t preemptions_before_reserve;
  Expect expect;
  Variety variety = Variety::kPlain;
  int coarser = 1;  // the larger a row's graphs, the fewer of its cases
};

constexpr int32_t kUnlimited = INT32_MAX;

constexpr Row kRows[] = {
    {"production", 1, true, true, 2, Expect::kNoneStuck},
    {"production", 2, true, true, 2, Expect::kNoneStuck},
    {"production, cache, n = 2", 1, true, true, 2, Expect::kNoneStuck, Variety::kForks, 4},
    {"production, cache, n = 2", 2, true, true, 2, Expect::kNoneStuck, Variety::kForks, 16},
    {"production, cache, pauses", 1, true, true, 2, Expect::kNoneStuck, Variety::kPauses, 16},
    {"production, cache, pauses", 2, true, true, 2, Expect::kNoneStuck, Variety::kPauses, 128},
    {"production, windows", 1, true, true, 2, Expect::kNoneStuck, Variety::kWindows, 2},
    {"production, windows", 2, true, true, 2, Expect::kNoneStuck, Variety::kWindows, 4},
    {"production, windows, cache, n = 2", 1, true, true, 2, Expect::kNoneStuck,
     Variety::kWindowForks, 8},
    {"production, windows, cache, n = 2", 2, true, true, 2, Expect::kNoneStuck,
     Variety::kWindowForks, 32},
    {"production, guesses", 1, true, true, 2, Expect::kNoneStuck, Variety::kGuesses},
    {"production, guesses", 2, true, true, 2, Expect::kNoneStuck, Variety::kGuesses, 2},
    {"production, windows, guesses", 1, true, true, 2, Expect::kNoneStuck, Variety::kWindowGuesses,
     2},
    {"windows, never-fit not refused", 1, false, true, 2, Expect::kSomeStuck, Variety::kWindows, 2},
    {"never-fit not refused", 1, false, true, 2, Expect::kSomeStuck},
    {"never-fit not refused", 2, false, true, 2, Expect::kSomeStuck},
    {"pending frees and preemptions not counted", 2, true, false, kUnlimited, Expect::kSomeStuck},
    {"pending frees not counted", 2, true, false, 2, Expect::kNoneStuck},
    {"preemptions not counted", 2, true, true, kUnlimited, Expect::kNoneStuck},
};

// Every prompt of 1 .. 4 tokens and output of 1 .. 3, for each request, in pools of 3 .. 6 blocks.
constexpr int kCases = 4 * 64 * 27;

Case MakeCase(const Row& row, int code) {
  Case c;
  c.config.blocks = 3 + code % 4;
  code /= 4;
  for (int32_t& prompt : c.prompts) {
    prompt = 1 + code % 4;
    code /= 4;
  }
  for (int32_t& output : c.outputs) {
    output = 1 + code % 3;
    code /= 3;
  }
  const auto is = [&](Variety a, Variety b) { return row.variety == a || row.variety == b; };
  const bool guesses = is(Variety::kGuesses, Variety::kWindowGuesses);
  const bool windows =
      is(Variety::kWindows, Variety::kWindowForks) || row.variety == Variety::kWindowGuesses;
  const bool plain = is(Variety::kPlain, Variety::kWindows) || guesses;
  c.config.block_tokens = plain ? 1 : 2;
  c.config.slots = plain ? 3 : 2;
  c.config.tokens_per_step = 4;
  c.config.prefill_chunk_max = 2;  // a prompt takes more than one step
  c.config.max_model_len = 16;
  c.config.max_in_flight = row.depth;
  c.config.end_tokens = {1};
  c.config.prefix_cache = !plain;
  c.config.refuse_never_fit = row.refuse_never_fit;
  c.config.count_pending_frees = row.count_pending_frees;
  c.config.preemptions_before_reserve = row.preemptions_before_reserve;
  if (windows) {
    // The local group is the tighter one, and too small for the larger window in some.
    const int32_t window = 2 + c.prompts[0] % 2;
    c.config.kv_groups = {{c.config.blocks, 0}, {std::max(2, c.config.blocks - 2), window}};
  }
  if (row.variety == Variety::kForks || row.variety == Variety::kWindowForks) c.choices[1] = 2;
  if (guesses) {
    c.config.speculation.guesses_max = 2;
    c.config.speculation.guess = [](const scheduler::GuessQuery& query, auto& out) {
      // Right but for the last token of an answer, and a spoilt one now and then.
      for (int32_t i = 0; i < query.most; ++i) {
        const bool spoilt = (query.tokens.size() + static_cast<size_t>(i)) % 3 == 0;
        out.push_back(spoilt ? query.tokens[0] + 5 : query.tokens[0]);
      }
    };
  }
  c.pauses = row.variety == Variety::kPauses;
  return c;
}

bool Run(const Row& row, int stride) {
  const auto start = std::chrono::steady_clock::now();
  Verdict sum;
  int cases = 0;
  int cases_stuck = 0;
  for (int code = 0; code < kCases; code += stride * row.coarser) {
    const Verdict verdict = Check(MakeCase(row, code));
    sum.Add(verdict);
    ++cases;
    cases_stuck += verdict.stuck > 0;
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  std::printf(
      "%-42s depth %d  cases %5d  states %9lld  stuck %8lld in %4d cases  "
      "wrong ends %5lld  longest quiet run %3d calls  preemptions <= %d  %.1f s\n",
      row.name, row.depth, cases, static_cast<long long>(sum.states),
      static_cast<long long>(sum.stuck), cases_stuck, static_cast<long long>(sum.wrong_ends),
      sum.worst_quiet, sum.most_preemptions, took.count());
  if (!sum.example.empty()) std::printf("    e.g. %s\n", sum.example.c_str());
  if (!sum.broken.empty()) std::printf("    BROKEN: %s\n", sum.broken.c_str());
  std::fflush(stdout);
  const bool as_expected = (sum.stuck > 0) == (row.expect == Expect::kSomeStuck);
  if (!as_expected) std::printf("    UNEXPECTED number of stuck states\n");
  const bool production = row.refuse_never_fit && row.count_pending_frees;
  return as_expected && sum.broken.empty() && !(production && sum.wrong_ends > 0);
}

}  // namespace
}  // namespace millrace::checker

int main(int argc, char** argv) {
  int stride = 37;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--full") stride = 1;
    if (flag.rfind("--stride=", 0) == 0) stride = std::atoi(flag.c_str() + 9);
  }
  bool good = true;
  for (const auto& row : millrace::checker::kRows) good &= millrace::checker::Run(row, stride);
  std::printf(good ? "as expected\n" : "NOT as expected\n");
  return good ? 0 : 1;
}
