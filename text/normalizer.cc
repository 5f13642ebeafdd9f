#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>

#include "base/utf8.h"
#include "text/unicode.h"

namespace millrace::text {
namespace {

using Kind = NormalizerStep::Kind;

bool IsUnicodeForm(Kind kind) {
  return kind == Kind::kNfc || kind == Kind::kNfd || kind == Kind::kNfkc || kind == Kind::kNfkd;
}

// True when `text` is surely in the form already. No character below U+0300 is composed with
// another (UAX 15), and in UTF-8 those have lead bytes below 0xCC; ASCII is in all forms.
bool IsSurelyNormal(std::string_view text, Kind kind) {
  const unsigned char first_changed = kind == Kind::kNfc ? 0xcc : 0x80;
  for (unsigned char byte : text) {
    if (byte >= first_changed) return false;
  }
  return true;
}

// Marks after a base character go in order of their class. The library's own sort is quadratic in
// the length of a run, which a client chooses.
void OrderMarks(std::vector<utf8proc_int32_t>& code_points) {
  const auto mark_class = [](utf8proc_int32_t c) {
    return utf8proc_get_property(c)->combining_class;
  };
  for (size_t i = 0; i < code_points.size();) {
    size_t end = i;
    while (end < code_points.size() && mark_class(code_points[end]) != 0) ++end;
    std::stable_sort(
        code_points.begin() + static_cast<ptrdiff_t>(i),
        code_points.begin() + static_cast<ptrdiff_t>(end),
        [&](utf8proc_int32_t a, utf8proc_int32_t b) { return mark_class(a) < mark_class(b); });
    i = end == i ? i + 1 : end;
  }
}

// `code_points` hold one run of valid characters, decomposed.
void AppendForm(std::vector<utf8proc_int32_t>& code_points, bool compose, std::string& out) {
  OrderMarks(code_points);
  auto count = static_cast<utf8proc_ssize_t>(code_points.size());
  if (compose) {
    count = utf8proc_normalize_utf32(
        code_points.data(), count,
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  }
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    AppendUtf8(static_cast<uint32_t>(code_points[static_cast<size_t>(i)]), out);
  }
  code_points.clear();
}

std::string UnicodeForm(std::string_view text, Kind kind) {
  const bool compose = kind == Kind::kNfc || kind == Kind::kNfkc;
  const bool compat = kind == Kind::kNfkc || kind == Kind::kNfkd;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                      (compat ? UTF8PROC_COMPAT : 0));
  std::string out;
  out.reserve(text.size());
  std::vector<utf8proc_int32_t> run;
  // No character decomposes into more than 18 (UAX 15, section 7).
  utf8proc_int32_t parts[32];
  for (size_t at = 0; at < text.size();) {
    const Character c = CharacterAt(text, at);
    if (!c.valid) {
      AppendForm(run, compose, out);
      out.push_back(text[at]);
    } else {
      const utf8proc_ssize_t n = utf8proc_decompose_char(
          static_cast<utf8proc_int32_t>(c.code_point), parts, 32, options, nullptr);
      if (n <= 0 || n > 32) {
        run.push_back(static_cast<utf8proc_int32_t>(c.code_point));
      } else {
        run.insert(run.end(), parts, parts + n);
      }
    }
    at += c.length;
  }
  AppendForm(run, compose, out);
  return out;
}

std::string Lowercase(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Character c = CharacterAt(text, at);
    if (!c.valid) {
      out.push_back(text[at]);
    } else if (c.code_point == 0x130) {
      out += "i\u0307";  // the one lower case of two characters (SpecialCasing.txt)
    } else {
      const auto lower = utf8proc_tolower(static_cast<utf8proc_int32_t>(c.code_point));
      AppendUtf8(static_cast<uint32_t>(lower), out);
    }
    at += c.length;
  }
  return out;
}

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  size_t at = 0;
  for (;;) {
    const size_t found = text.find(from, at);
    if (found == std::string_view::npos) break;
    out.append(text.substr(at, found - at)).append(to);
    at = found + from.size();
  }
  out.append(text.substr(at));
  return out;
}

std::string_view Strip(std::string_view text, bool left, bool right) {
  const auto is_space = [](const Character& c) { return c.valid && IsWhiteSpace(c.code_point); };
  while (left && !text.empty()) {
    const Character c = CharacterAt(text, 0);
    if (!is_space(c)) break;
    text.remove_prefix(c.length);
  }
  while (right && !text.empty()) {
    const Character c = CharacterBefore(text, text.size());
    if (!is_space(c)) break;
    text.remove_suffix(c.length);
  }
  return text;
}

}  // namespace

std::string_view Normalizer::Apply(std::string_view text, std::string& storage,
                                   bool at_start) const {
  std::string_view current = text;
  for (const NormalizerStep& step : steps_) {
    std::string next;
    if (IsUnicodeForm(step.kind)) {
      if (IsSurelyNormal(current, step.kind)) continue;
      next = UnicodeForm(current, step.kind);
    } else if (step.kind == Kind::kLowercase) {
      next = Lowercase(current);
    } else if (step.kind == Kind::kPrepend) {
      if (current.empty() || !at_start) continue;
      next.reserve(step.to.size() + current.size());
      next.append(step.to).append(current);
    } else if (step.kind == Kind::kReplace) {
      if (step.from.empty() || current.find(step.from) == std::string_view::npos) continue;
      next = ReplaceAll(current, step.from, step.to);
    } else {
      next = std::string(Strip(current, step.left, step.right));
    }
    storage = std::move(next);
    current = storage;
  }
  return current;
}

}  // namespace millrace::text
