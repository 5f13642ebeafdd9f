// MB/s of text into tokens: the demo model's vocabulary, Mistral's (SentencePiece pieces), and the
// small one with the split of Llama 3.
#include <benchmark/benchmark.h>

#include "base/check.h"
#include "text/test_strings.h"
#include "text/test_vocabulary.h"
#include "text/tokenizer.h"
#include "text/tokenizer_json.h"

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

using Make = TokenizerSpec (*)();

void EncodeFile(benchmark::State& state, Make make, const char* file) {
  const auto tokenizer = Tokenizer::Create(make()).value();
  const std::string unit = ReadTestFile(file);
  CHECK(!unit.empty());
  const std::string text = Repeat(unit);
  EncodeOptions options;
  options.parse_special = true;
  size_t tokens = 0;
  for (auto _ : state) tokens = tokenizer->Encode(text, options).size();
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
  state.counters["bytes_per_token"] =
      static_cast<double>(text.size()) / static_cast<double>(tokens);
}

TokenizerSpec Llama3Spec() {
  return TokenizerSpecFromJson(FamilyJson("llama3"), "llama3").value();
}
TokenizerSpec QwenSpec() {
  return TokenizerSpecFromJson(FamilyJson("qwen2"), "qwen2").value();
}

constexpr char kEnglish[] = "docs/life_of_a_request.md";
constexpr char kCode[] = "text/jinja_filters.cc";
BENCHMARK_CAPTURE(EncodeFile, demo_english, &DemoSpec, kEnglish);
BENCHMARK_CAPTURE(EncodeFile, demo_code, &DemoSpec, kCode);
BENCHMARK_CAPTURE(EncodeFile, mistral_english, &MistralSpec, kEnglish);
BENCHMARK_CAPTURE(EncodeFile, mistral_code, &MistralSpec, kCode);
BENCHMARK_CAPTURE(EncodeFile, llama3_english, &Llama3Spec, kEnglish);
BENCHMARK_CAPTURE(EncodeFile, llama3_code, &Llama3Spec, kCode);
BENCHMARK_CAPTURE(EncodeFile, qwen2_english, &QwenSpec, kEnglish);
BENCHMARK_CAPTURE(EncodeFile, qwen2_code, &QwenSpec, kCode);

void MistralRun(benchmark::State& state, std::string_view unit) {
  static const Tokenizer& tokenizer = *Tokenizer::Create(MistralSpec()).value().release();
  const std::string text = Repeat(unit);
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.Encode(text, {}));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
}
BENCHMARK_CAPTURE(MistralRun, run_a, std::string_view("a"));
BENCHMARK_CAPTURE(MistralRun, run_space, std::string_view(" "));
BENCHMARK_CAPTURE(MistralRun, run_cjk, std::string_view("中"));
BENCHMARK_CAPTURE(MistralRun, run_letters, std::string_view("etaoinshrdluqzxjkwvbpygfmc"));
BENCHMARK_CAPTURE(MistralRun, run_mark, std::string_view("\u0301"));

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
