#include "text/split_patterns.h"

namespace millrace::text {
namespace {

// Written out because \s of PCRE2 also has U+180E, which the engines that the patterns were made
// for do not have (reference: Unicode PropList.txt, White_Space).
#define SPACE                                                                        \
  "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}" \
  "\\x{202f}\\x{205f}\\x{3000}"

// Pieces that most patterns share. The facts are those of the models' tokenizer.json.
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORD "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define REST "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define SYMBOLS " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"

constexpr char kGpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
// Llama 3, Phi-4: up to three digits together.
constexpr char kLlama3[] = CONTRACTION "|" WORD "|\\p{N}{1,3}|" SYMBOLS "|" REST;
// Qwen 2, 2.5 and 3: each digit alone.
constexpr char kQwen2[] = CONTRACTION "|" WORD "|\\p{N}|" SYMBOLS "|" REST;
// cl100k as its authors spell it; the same pieces as kLlama3 but for runs of line ends.
constexpr char kCl100k[] =
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]++[\\r\\n]*"
    "|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+";
// o200k (Phi-4-mini): words end where the case rises; contractions belong to the word.
constexpr char kO200k[] =
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" CONTRACTION "?|[^\\r\\n\\p{L}\\p{N}]?" UPPER
    "+" LOWER "*" CONTRACTION "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" REST;

constexpr std::string_view kPatterns[] = {kGpt2, kLlama3, kQwen2, kCl100k, kO200k};

// Stages run one after the other, each on every piece of the one before, which it sees as a whole
// text: "  7" is cut into "  " and "7" first, so the two spaces stay together.
struct Row {
  const char* name;  // of tokenizer.ggml.pre
  const char* pattern;
  bool each_digit;     // a stage before
  bool nfc;            // the model's own tokenizer normalizes; GGUF files do not say so
  bool ignore_merges;  // neither this
};
// The names that converted files of these families carry: "dbrx" is also Phi-4's, "gpt-4o"
// Phi-4-mini's, "phi-2" has the cut of GPT-2.
constexpr Row kRows[] = {
    {"smollm", kGpt2, true, false, false},
    {"gpt-2", kGpt2, false, false, false},
    {"gpt2", kGpt2, false, false, false},
    {"phi-2", kGpt2, false, false, false},
    {"llama-bpe", kLlama3, false, false, true},
    {"llama3", kLlama3, false, false, true},
    {"llama-v3", kLlama3, false, false, true},
    {"dbrx", kLlama3, false, false, false},
    {"smaug-bpe", kLlama3, false, false, false},
    {"qwen2", kQwen2, false, true, false},
    {"deepseek-r1-qwen", kQwen2, false, true, false},
    {"gpt-4o", kO200k, false, false, false},
};

std::string SpellSpaces(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    const char escaped = c == '\\' && i + 1 < pattern.size() ? pattern[i + 1] : '\0';
    if (escaped == 's') {
      out += in_class ? SPACE : "[" SPACE "]";
    } else if (escaped == 'S') {  // never inside a class in these patterns
      out += "[^" SPACE "]";
    } else {
      out.push_back(c);
      if (escaped != '\0') out.push_back(escaped);
    }
    if (escaped != '\0') ++i;
  }
  return out;
}

}  // namespace

std::string PatternForPcre2(std::string_view published) {
  // Some files have the line ends themselves where others have their escapes.
  std::string spelled;
  for (char c : published) {
    if (c == '\r' || c == '\n') {
      spelled += c == '\r' ? "\\r" : "\\n";
    } else {
      spelled.push_back(c);
    }
  }
  for (std::string_view known : kPatterns) {
    if (spelled == known) return SpellSpaces(known);
  }
  return {};
}

std::string_view Gpt2Pattern() {
  return kGpt2;
}

bool SetPreTokenizer(std::string_view name, TokenizerSpec& spec, std::string& known) {
  for (const Row& row : kRows) {
    known += known.empty() ? "" : ", ";
    known += row.name;
    if (name != row.name) continue;
    spec.splits.clear();
    spec.normalizer.clear();
    if (row.each_digit) spec.splits.emplace_back().kind = SplitStep::Kind::kEachDigit;
    spec.splits.emplace_back().text = row.pattern;
    if (row.nfc) spec.normalizer.emplace_back().kind = NormalizerStep::Kind::kNfc;
    spec.ignore_merges = row.ignore_merges;
    return true;
  }
  return false;
}

}  // namespace millrace::text
