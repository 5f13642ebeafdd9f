#include "text/pre_tokenizer.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace millrace::text {
namespace {

// Unicode White_Space. Written out because \s of PCRE2 also has U+180E, which the pattern's
// authors' engines do not have (reference: Unicode PropList.txt).
#define SPACE                                                                        \
  "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}" \
  "\\x{202f}\\x{205f}\\x{3000}"

// The split of GPT-2 (OpenAI's encoder.py gives the pattern): English contractions; letters,
// numbers and the rest, each with one space before; spaces, of which the last stays with the next
// word.
constexpr char kGpt2[] = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^" SPACE
                         "\\p{L}\\p{N}]+|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+";
constexpr char kEachDigit[] = "\\p{N}";

// Stages run one after the other, each on every piece of the one before, which it sees as a whole
// text: "  7" is cut into "  " and "7" first, so the two spaces stay together.
struct Row {
  const char* name;  // of tokenizer.ggml.pre
  const char* stages[2];
};
constexpr Row kRows[] = {
    {"smollm", {kEachDigit, kGpt2}},
    {"gpt-2", {kGpt2, nullptr}},
    {"gpt2", {kGpt2, nullptr}},
};

struct CodeDeleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct MatchDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
using Code = std::unique_ptr<pcre2_code, CodeDeleter>;
using MatchData = std::unique_ptr<pcre2_match_data, MatchDeleter>;

absl::StatusOr<Code> Compile(const char* pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  // MATCH_INVALID_UTF: bytes that are no character never match, and do no harm.
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED,
                          PCRE2_UTF | PCRE2_MATCH_INVALID_UTF | PCRE2_NO_START_OPTIMIZE, &error,
                          &offset, nullptr));
  if (code == nullptr) return absl::InternalError("pre-tokenizer pattern does not compile");
  // Without executable pages this fails and the interpreter, which keeps its frames on the heap, is
  // used: slower, not wrong.
  (void)pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

// Where the next match in `text` at or after `from` lies; false when there is none.
bool Find(const pcre2_code* code, pcre2_match_data* data, std::string_view text, size_t from,
          std::pair<size_t, size_t>& match) {
  auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  int rc = pcre2_match(code, subject, text.size(), from, 0, data, nullptr);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
    rc = pcre2_match(code, subject, text.size(), from, PCRE2_NO_JIT, data, nullptr);
  }
  if (rc < 0) return false;
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data);
  match = {offsets[0], offsets[1]};
  return offsets[1] > offsets[0];
}

void SplitOne(const pcre2_code* code, pcre2_match_data* data, std::string_view text,
              std::vector<std::string_view>& pieces) {
  size_t at = 0;
  std::pair<size_t, size_t> match;
  while (at < text.size()) {
    if (!Find(code, data, text, at, match)) {
      pieces.push_back(text.substr(at));
      return;
    }
    if (match.first > at) pieces.push_back(text.substr(at, match.first - at));
    pieces.push_back(text.substr(match.first, match.second - match.first));
    at = match.second;
  }
}

}  // namespace

struct PreTokenizer::Stages {
  std::vector<Code> codes;
};

PreTokenizer::PreTokenizer(std::unique_ptr<Stages> stages) : stages_(std::move(stages)) {}
PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::Create(std::string_view name) {
  std::string known;
  for (const Row& row : kRows) {
    known += known.empty() ? "" : ", ";
    known += row.name;
    if (name != row.name) continue;
    auto stages = std::make_unique<Stages>();
    for (const char* pattern : row.stages) {
      if (pattern == nullptr) continue;
      absl::StatusOr<Code> code = Compile(pattern);
      if (!code.ok()) return code.status();
      stages->codes.push_back(std::move(*code));
    }
    return std::unique_ptr<PreTokenizer>(new PreTokenizer(std::move(stages)));
  }
  return absl::InvalidArgumentError("unknown pre-tokenizer '" + std::string(name.substr(0, 64)) +
                                    "'; known are " + known);
}

void PreTokenizer::Split(std::string_view text, std::vector<std::string_view>& pieces) const {
  MatchData data(pcre2_match_data_create(1, nullptr));
  std::vector<std::string_view> current = {text};
  std::vector<std::string_view> next;
  for (size_t stage = 0; stage < stages_->codes.size(); ++stage) {
    const bool last = stage + 1 == stages_->codes.size();
    std::vector<std::string_view>& to = last ? pieces : next;
    for (std::string_view piece : current) {
      SplitOne(stages_->codes[stage].get(), data.get(), piece, to);
    }
    if (last) return;
    current.swap(next);
    next.clear();
  }
}

}  // namespace millrace::text
