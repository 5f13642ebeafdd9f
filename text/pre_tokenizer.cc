#include "text/pre_tokenizer.h"

#include <utility>

#include "absl/status/status.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "text/split_patterns.h"

namespace millrace::text {
namespace {

struct CodeDeleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct MatchDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
using Code = std::unique_ptr<pcre2_code, CodeDeleter>;
using MatchData = std::unique_ptr<pcre2_match_data, MatchDeleter>;

absl::StatusOr<Code> Compile(std::string_view pattern, bool literal) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  // MATCH_INVALID_UTF: bytes that are no character never match, and do no harm.
  Code code(pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
      PCRE2_UTF | PCRE2_MATCH_INVALID_UTF | (literal ? PCRE2_LITERAL : PCRE2_NO_START_OPTIMIZE),
      &error, &offset, nullptr));
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

using Kind = SplitStep::Kind;
using Behavior = SplitStep::Behavior;

// A part of a text, and whether it is a match of the step's pattern.
struct Part {
  size_t begin;
  size_t end;
  bool match;
};

// What a step makes of the matches and the parts between them, which alternate here except that
// matches may touch.
void Arrange(std::vector<Part>& parts, Behavior behavior) {
  if (behavior == Behavior::kIsolated) return;
  std::vector<Part> out;
  if (behavior == Behavior::kRemoved) {
    for (const Part& part : parts) {
      if (!part.match) out.push_back(part);
    }
  } else if (behavior == Behavior::kMergedWithNext) {
    bool next_match = false;
    for (size_t i = parts.size(); i-- > 0;) {
      if (parts[i].match && !next_match && !out.empty()) {
        out.back().begin = parts[i].begin;
      } else {
        out.push_back(parts[i]);
      }
      next_match = parts[i].match;
    }
    parts.assign(out.rbegin(), out.rend());
    return;
  } else {
    bool previous = false;
    for (const Part& part : parts) {
      const bool joins =
          behavior == Behavior::kContiguous ? part.match == previous : part.match && !previous;
      if (joins && !out.empty()) {
        out.back().end = part.end;
      } else {
        out.push_back(part);
      }
      previous = part.match;
    }
  }
  parts.swap(out);
}

// Spaces become `symbol`; one is put before where the step asks for it.
std::string Metaspace(std::string_view piece, const SplitStep& step, bool first) {
  std::string out;
  out.reserve(piece.size() + piece.size() / 2);
  for (char c : piece) {
    if (c == ' ') {
      out += step.text;
    } else {
      out.push_back(c);
    }
  }
  const bool wanted = step.prepend == SplitStep::Prepend::kAlways ||
                      (step.prepend == SplitStep::Prepend::kFirst && first);
  if (wanted && std::string_view(out).substr(0, step.text.size()) != step.text) {
    out.insert(0, step.text);
  }
  return out;
}

}  // namespace

struct PreTokenizer::Stage {
  SplitStep step;
  Code code;  // null: the step cuts nothing

  void Cut(pcre2_match_data* data, std::string_view piece,
           std::vector<std::string_view>& pieces) const;
};

// Most patterns match everywhere and isolate: that way needs no list of parts.
void PreTokenizer::Stage::Cut(pcre2_match_data* data, std::string_view piece,
                              std::vector<std::string_view>& pieces) const {
  const bool plain = step.behavior == Behavior::kIsolated;
  std::vector<Part> parts;
  const auto add = [&](size_t begin, size_t end, bool match) {
    if (begin == end) return;
    if (plain) {
      pieces.push_back(piece.substr(begin, end - begin));
    } else {
      parts.push_back({begin, end, match != step.invert});
    }
  };
  size_t at = 0;
  std::pair<size_t, size_t> match;
  while (at < piece.size() && Find(code.get(), data, piece, at, match)) {
    add(at, match.first, false);
    add(match.first, match.second, true);
    at = match.second;
  }
  add(at, piece.size(), false);
  if (plain) return;
  Arrange(parts, step.behavior);
  for (const Part& part : parts) pieces.push_back(piece.substr(part.begin, part.end - part.begin));
}

PreTokenizer::PreTokenizer(std::vector<Stage> stages) : stages_(std::move(stages)) {}
PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::Create(std::vector<SplitStep> steps) {
  std::vector<Stage> stages;
  for (SplitStep& step : steps) {
    std::string pattern;
    bool literal = false;
    if (step.kind == Kind::kPattern) {
      pattern = PatternForPcre2(step.text);
      if (pattern.empty()) {
        return absl::InvalidArgumentError("the regular expression is none of the known ones");
      }
    } else if (step.kind == Kind::kDigits || step.kind == Kind::kEachDigit) {
      pattern = step.kind == Kind::kDigits ? "\\p{N}+" : "\\p{N}";
    } else if (step.kind == Kind::kText || step.kind == Kind::kMetaspace) {
      if (step.text.empty()) return absl::InvalidArgumentError("the text to split at is empty");
      pattern = step.text;
      literal = true;
    }
    if (step.kind == Kind::kMetaspace) step.behavior = Behavior::kMergedWithNext;
    Stage stage;
    if (!pattern.empty() && (step.kind != Kind::kMetaspace || step.cut)) {
      absl::StatusOr<Code> code = Compile(pattern, literal);
      if (!code.ok()) return code.status();
      stage.code = std::move(*code);
    }
    stage.step = std::move(step);
    stages.push_back(std::move(stage));
  }
  return std::unique_ptr<PreTokenizer>(new PreTokenizer(std::move(stages)));
}

void PreTokenizer::Split(std::string_view text, bool at_start, std::deque<std::string>& storage,
                         std::vector<std::string_view>& pieces) const {
  if (text.empty()) return;
  MatchData data(pcre2_match_data_create(1, nullptr));
  std::vector<std::string_view> current = {text};
  std::vector<std::string_view> next;
  for (const Stage& stage : stages_) {
    for (size_t i = 0; i < current.size(); ++i) {
      std::string_view piece = current[i];
      if (stage.step.kind == Kind::kMetaspace) {
        storage.push_back(Metaspace(piece, stage.step, at_start && i == 0));
        piece = storage.back();
      } else if (stage.step.kind == Kind::kPrefixSpace && piece[0] != ' ') {
        storage.push_back(" " + std::string(piece));
        piece = storage.back();
      }
      if (stage.code == nullptr) {
        next.push_back(piece);
      } else {
        stage.Cut(data.get(), piece, next);
      }
    }
    current.swap(next);
    next.clear();
  }
  pieces.insert(pieces.end(), current.begin(), current.end());
}

}  // namespace millrace::text
