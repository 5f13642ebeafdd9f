// MB/s of text into tokens with the demo model's vocabulary.
#include <benchmark/benchmark.h>

#include "text/test_vocabulary.h"
#include "text/tokenizer.h"

namespace millrace::text {
namespace {

std::string Repeat(std::string_view unit) {
  std::string text;
  while (text.size() < 1 << 20) text += unit;
  text.resize(1 << 20);
  return text;
}

void Encode(benchmark::State& state, std::string_view unit) {
  const Tokenizer& tokenizer = DemoTokenizer();
  const std::string text = Repeat(unit);
  EncodeOptions options;
  options.parse_special = true;
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.Encode(text, options));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
}

// One MiB each. The runs are the hostile rows of the issue: 300 ms at most.
BENCHMARK_CAPTURE(Encode, prose,
                  std::string_view("The quick brown fox jumps over the lazy dog, and it's 42 times "
                                   "as quick as I'd thought. Unbelievable performance!\n"));
BENCHMARK_CAPTURE(Encode, code,
                  std::string_view("for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n"
                                   "}\n"));
BENCHMARK_CAPTURE(Encode, chinese, std::string_view("你好，世界。今天天气很好。"));
BENCHMARK_CAPTURE(Encode, run_a, std::string_view("a"));
BENCHMARK_CAPTURE(Encode, run_space, std::string_view(" "));
BENCHMARK_CAPTURE(Encode, run_underscore, std::string_view("_"));
BENCHMARK_CAPTURE(Encode, run_dot, std::string_view("."));
BENCHMARK_CAPTURE(Encode, run_cjk, std::string_view("中"));
BENCHMARK_CAPTURE(Encode, run_emoji, std::string_view("\U0001f469\u200d"));
BENCHMARK_CAPTURE(Encode, run_mark, std::string_view("\u0301"));
BENCHMARK_CAPTURE(Encode, run_letters, std::string_view("etaoinshrdluqzxjkwvbpygfmc"));
BENCHMARK_CAPTURE(Encode, half_specials, std::string_view("<|im_start|"));

}  // namespace
}  // namespace millrace::text

BENCHMARK_MAIN();
