#include "text/jinja_lexer.h"

#include <cerrno>
#include <cstdlib>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "text/jinja_chars.h"

namespace millrace::text {
namespace {

bool IsDigit(char c) {
  return c >= '0' && c <= '9';
}
bool IsHex(char c) {
  return IsDigit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}
bool IsNameByte(char c) {
  return IsDigit(c) || c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         static_cast<unsigned char>(c) >= 0x80;
}

// All line ends become "\n", and one at the very end goes.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
      continue;
    }
    out.push_back('\n');
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

// Thread: one owner at a time.
class Lexer {
 public:
  explicit Lexer(std::string_view source) : src_(source) {}

  absl::StatusOr<std::vector<JinjaToken>> Run() {
    while (at_ < src_.size()) RETURN_IF_ERROR(LexRoot());
    Push(TokenType::kEnd, {});
    return std::move(tokens_);
  }

 private:
  absl::Status LexRoot();
  absl::Status LexComment();
  absl::Status LexRaw(size_t body);
  absl::Status LexTag(bool block);
  bool LexTagEnd(bool block);
  absl::Status LexTagToken();
  absl::Status LexOperator();
  absl::Status LexString();
  absl::Status LexNumber();
  absl::Status DecodeString(std::string_view raw, std::string& out);
  absl::Status DecodeCodePoint(std::string_view raw, size_t& at, int digits, std::string& out);

  bool At(size_t at, std::string_view what) const { return src_.substr(at, what.size()) == what; }
  size_t SkipSpace(size_t at) const {
    while (at < src_.size()) {
      const size_t length = SpaceLength(src_.substr(at));
      if (length == 0) break;
      at += length;
    }
    return at;
  }
  void MoveTo(size_t to) {
    for (size_t i = at_; i < to; ++i) line_ += src_[i] == '\n';
    line_starting_ = to > at_ && src_[to - 1] == '\n';
    at_ = to;
  }
  void Push(TokenType type, std::string_view text) {
    JinjaToken token;
    token.type = type;
    token.line = line_;
    token.text = text;
    tokens_.push_back(std::move(token));
  }
  // Text before a tag: cut as the tag's sign says ('-', '+' or none).
  void PushData(std::string_view text, char sign, bool variable);
  // Where the tag that begins with `body` after "{%" ends, when it is `word` alone; npos otherwise.
  size_t MatchWordTag(size_t body, std::string_view word, char* end_sign) const;

  std::string_view src_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // the last thing lexed ended a line
  std::string balance_;        // closing brackets that are expected
  std::vector<JinjaToken> tokens_;
};

void Lexer::PushData(std::string_view text, char sign, bool variable) {
  if (sign == '-') {
    text = TrimSpace(text, /*left=*/false, /*right=*/true);
  } else if (sign != '+' && !variable) {
    const size_t newline = text.rfind('\n');
    const size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
    if (line_begin > 0 || line_starting_) {
      const std::string_view last = text.substr(line_begin);
      if (TrimSpace(last, true, true).empty()) text = text.substr(0, line_begin);
    }
  }
  if (!text.empty()) Push(TokenType::kData, text);
}

size_t Lexer::MatchWordTag(size_t body, std::string_view word, char* end_sign) const {
  size_t at = SkipSpace(body);
  if (!At(at, word)) return std::string_view::npos;
  at = SkipSpace(at + word.size());
  *end_sign = 0;
  if (at < src_.size() && (src_[at] == '-' || src_[at] == '+')) *end_sign = src_[at++];
  return At(at, "%}") ? at + 2 : std::string_view::npos;
}

absl::Status Lexer::LexRoot() {
  size_t tag = at_;
  for (;; ++tag) {
    tag = src_.find('{', tag);
    if (tag == std::string_view::npos || tag + 1 >= src_.size()) {
      Push(TokenType::kData, src_.substr(at_));
      MoveTo(src_.size());
      return absl::OkStatus();
    }
    const char next = src_[tag + 1];
    if (next == '{' || next == '%' || next == '#') break;
  }
  const char type = src_[tag + 1];
  size_t body = tag + 2;
  char sign = 0;
  if (body < src_.size() && (src_[body] == '-' || src_[body] == '+')) sign = src_[body++];
  PushData(src_.substr(at_, tag - at_), sign, type == '{');
  char end_sign = 0;
  const size_t raw = type == '%' ? MatchWordTag(body, "raw", &end_sign) : std::string_view::npos;
  if (raw != std::string_view::npos && end_sign != '+') {
    MoveTo(raw);
    return LexRaw(end_sign == '-' ? SkipSpace(raw) : raw);
  }
  MoveTo(body);
  if (type == '#') return LexComment();
  Push(type == '{' ? TokenType::kVariableBegin : TokenType::kBlockBegin, {});
  return LexTag(type == '%');
}

absl::Status Lexer::LexComment() {
  if (at_ == src_.size()) return absl::OkStatus();
  const size_t close = src_.find("#}", at_);
  if (close == std::string_view::npos) return JinjaError(line_, "missing end of comment tag");
  size_t end = close + 2;
  const char sign = close > at_ ? src_[close - 1] : 0;
  if (sign == '-') {
    end = SkipSpace(end);
  } else if (sign != '+' && At(end, "\n")) {
    ++end;
  }
  MoveTo(end);
  return absl::OkStatus();
}

absl::Status Lexer::LexRaw(size_t body) {
  MoveTo(body);
  if (at_ == src_.size()) return absl::OkStatus();
  for (size_t tag = src_.find("{%", at_); tag != std::string_view::npos;
       tag = src_.find("{%", tag + 1)) {
    size_t word = tag + 2;
    char sign = 0;
    if (word < src_.size() && (src_[word] == '-' || src_[word] == '+')) sign = src_[word++];
    char end_sign = 0;
    size_t end = MatchWordTag(word, "endraw", &end_sign);
    if (end == std::string_view::npos) continue;
    if (end_sign == '-') {
      end = SkipSpace(end);
    } else if (end_sign != '+' && At(end, "\n")) {
      ++end;
    }
    PushData(src_.substr(at_, tag - at_), sign, false);
    MoveTo(end);
    return absl::OkStatus();
  }
  return JinjaError(line_, "missing end of raw directive");
}

bool Lexer::LexTagEnd(bool block) {
  if (!balance_.empty()) return false;
  const std::string_view close = block ? "%}" : "}}";
  size_t end = at_;
  if (At(at_, close)) {
    end = at_ + 2;
    if (block && At(end, "\n")) ++end;
  } else if (src_[at_] == '-' && At(at_ + 1, close)) {
    end = SkipSpace(at_ + 3);
  } else if (block && src_[at_] == '+' && At(at_ + 1, close)) {
    end = at_ + 3;
  } else {
    return false;
  }
  Push(block ? TokenType::kBlockEnd : TokenType::kVariableEnd, {});
  MoveTo(end);
  return true;
}

absl::Status Lexer::LexTag(bool block) {
  balance_.clear();
  while (at_ < src_.size()) {
    if (LexTagEnd(block)) return absl::OkStatus();
    const size_t after_space = SkipSpace(at_);
    if (after_space > at_) {
      MoveTo(after_space);
      continue;
    }
    RETURN_IF_ERROR(LexTagToken());
  }
  return absl::OkStatus();  // the parser says what is missing
}

absl::Status Lexer::LexTagToken() {
  const char c = src_[at_];
  if (IsDigit(c)) return LexNumber();
  if (c == '\'' || c == '"') return LexString();
  if (!IsNameByte(c)) return LexOperator();
  size_t end = at_;
  while (end < src_.size() && IsNameByte(src_[end])) ++end;
  Push(TokenType::kName, src_.substr(at_, end - at_));
  MoveTo(end);
  return absl::OkStatus();
}

absl::Status Lexer::LexOperator() {
  size_t length = 0;
  for (std::string_view two : {"//", "**", "==", "!=", ">=", "<="}) {
    if (At(at_, two)) length = 2;
  }
  const char c = src_[at_];
  if (length == 0 && std::string_view("+-/*%~[](){}><=.:|,;").find(c) != std::string_view::npos) {
    length = 1;
  }
  if (length == 0) return JinjaError(line_, "unexpected character");
  if (c == '(') balance_.push_back(')');
  if (c == '[') balance_.push_back(']');
  if (c == '{') balance_.push_back('}');
  if (c == ')' || c == ']' || c == '}') {
    if (balance_.empty() || balance_.back() != c) {
      return JinjaError(line_, std::string("unexpected '") + c + "'");
    }
    balance_.pop_back();
  }
  Push(TokenType::kOperator, src_.substr(at_, length));
  MoveTo(at_ + length);
  return absl::OkStatus();
}

absl::Status Lexer::LexString() {
  const char quote = src_[at_];
  size_t end = at_ + 1;
  while (end < src_.size() && src_[end] != quote) end += src_[end] == '\\' ? 2 : 1;
  if (end >= src_.size()) return JinjaError(line_, "string without end");
  Push(TokenType::kString, {});
  RETURN_IF_ERROR(DecodeString(src_.substr(at_ + 1, end - at_ - 1), tokens_.back().text));
  MoveTo(end + 1);
  return absl::OkStatus();
}

absl::Status Lexer::DecodeCodePoint(std::string_view raw, size_t& at, int digits,
                                    std::string& out) {
  uint32_t code_point = 0;
  for (int i = 0; i < digits; ++i, ++at) {
    if (at >= raw.size() || !IsHex(raw[at])) return JinjaError(line_, "truncated escape");
    const char c = raw[at];
    code_point =
        code_point << 4 | static_cast<uint32_t>(IsDigit(c) ? c - '0' : (c | 32) - 'a' + 10);
  }
  // A lone surrogate has no UTF-8: Python could hold it but not write it either.
  if (code_point > 0x10ffff || (code_point >= 0xd800 && code_point < 0xe000)) {
    return JinjaError(line_, "escape is not a character");
  }
  AppendUtf8(code_point, out);
  return absl::OkStatus();
}

// Python's string escapes; an unknown one stays as it is written.
absl::Status Lexer::DecodeString(std::string_view raw, std::string& out) {
  constexpr std::string_view kNames = "\\'\"abfnrtv";
  constexpr std::string_view kValues = "\\'\"\a\b\f\n\r\t\v";
  for (size_t i = 0; i < raw.size();) {
    if (raw[i] != '\\') {
      out.push_back(raw[i++]);
      continue;
    }
    const char c = raw[i + 1];  // a backslash is never last: it would have escaped the quote
    i += 2;
    const size_t simple = kNames.find(c);
    if (simple != std::string_view::npos) {
      out.push_back(kValues[simple]);
    } else if (c == '\n') {
      continue;
    } else if (c == 'x' || c == 'u' || c == 'U') {
      RETURN_IF_ERROR(DecodeCodePoint(raw, i, c == 'x' ? 2 : c == 'u' ? 4 : 8, out));
    } else if (c >= '0' && c <= '7') {
      uint32_t code_point = static_cast<uint32_t>(c - '0');
      for (int n = 0; n < 2 && i < raw.size() && raw[i] >= '0' && raw[i] <= '7'; ++n, ++i) {
        code_point = code_point * 8 + static_cast<uint32_t>(raw[i] - '0');
      }
      AppendUtf8(code_point, out);
    } else if (c == 'N') {
      return JinjaError(line_, "character names are not supported");
    } else {
      out.push_back('\\');
      out.push_back(c);
    }
  }
  return absl::OkStatus();
}

absl::Status Lexer::LexNumber() {
  // Digits with single underscores between them, appended to `text` without the underscores.
  std::string text;
  auto digits = [&](size_t at, auto is_digit) {
    while (at < src_.size()) {
      const bool underscore = src_[at] == '_' && at + 1 < src_.size() && is_digit(src_[at + 1]);
      if (!underscore && !is_digit(src_[at])) break;
      if (!underscore) text.push_back(src_[at]);
      ++at;
    }
    return at;
  };
  int radix = 10;
  size_t end = at_;
  bool is_float = false;
  const char mark = at_ + 1 < src_.size() ? static_cast<char>(src_[at_ + 1] | 32) : 0;
  if (src_[at_] == '0' && (mark == 'x' || mark == 'o' || mark == 'b')) {
    radix = mark == 'x' ? 16 : mark == 'o' ? 8 : 2;
    end = digits(at_ + 2, [&](char c) { return IsHex(c) && (radix == 16 || c < '0' + radix); });
    if (text.empty()) return JinjaError(line_, "number without digits");
  } else {
    end = digits(at_, IsDigit);
    if (at_ == 0 || src_[at_ - 1] != '.') {  // in x.0.5 the 0 is an index
      if (end + 1 < src_.size() && src_[end] == '.' && IsDigit(src_[end + 1])) {
        text.push_back('.');
        end = digits(end + 1, IsDigit);
        is_float = true;
      }
      size_t exponent = end + 1;
      if (exponent < src_.size() && (src_[exponent] == '+' || src_[exponent] == '-')) ++exponent;
      if (end < src_.size() && (src_[end] | 32) == 'e' && exponent < src_.size() &&
          IsDigit(src_[exponent])) {
        text.append(src_.substr(end, exponent - end));
        end = digits(exponent, IsDigit);
        is_float = true;
      }
    }
    if (!is_float && text.size() > 1 && text[0] == '0' &&
        text.find_first_not_of('0') != std::string::npos) {
      return JinjaError(line_, "number with a leading zero");
    }
  }
  Push(is_float ? TokenType::kFloat : TokenType::kInteger, {});
  errno = 0;
  if (is_float) {
    tokens_.back().real = std::strtod(text.c_str(), nullptr);
  } else {
    tokens_.back().integer = std::strtoll(text.c_str(), nullptr, radix);
    if (errno == ERANGE) return JinjaError(line_, "integer too large");
  }
  MoveTo(end);
  return absl::OkStatus();
}

}  // namespace

absl::Status JinjaError(int line, std::string_view what) {
  return absl::InvalidArgumentError("chat template line " + std::to_string(line) + ": " +
                                    std::string(what));
}

absl::StatusOr<std::vector<JinjaToken>> LexJinja(std::string_view source) {
  const std::string normalized = NormalizeNewlines(source);
  return Lexer(normalized).Run();
}

}  // namespace millrace::text
