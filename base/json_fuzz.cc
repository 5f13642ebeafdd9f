// Bytes to JSON: accepts exactly what a second, naive reading of RFC 8259 accepts, and what parses
// round-trips.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/json.h"
#include "base/utf8.h"

namespace {

// The grammar of RFC 8259, one function a rule, as obvious as can be. It knows nothing of duplicate
// keys or limits other than depth; see below. REQUIRES: the text is valid UTF-8.
class Grammar {
 public:
  explicit Grammar(std::string_view text) : text_(text) {}
  bool Accepts() { return Value(0) && at_ == text_.size(); }

 private:
  bool Take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool Word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  void Space() {
    while (Take(' ') || Take('\t') || Take('\n') || Take('\r')) {
    }
  }
  bool Digits() {
    const size_t begin = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    return at_ > begin;
  }
  bool Number() {
    Take('-');
    if (!Take('0') && !Digits()) return false;
    if (Take('.') && !Digits()) return false;
    if (Take('e') || Take('E')) {
      if (!Take('+')) Take('-');
      return Digits();
    }
    return true;
  }
  // Four hex digits, or -1.
  int Hex() {
    int value = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      if (at_ >= text_.size()) return -1;
      const char c = text_[at_];
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return -1;
      value = value * 16 + digit;
    }
    return value;
  }
  bool String() {
    if (!Take('"')) return false;
    while (at_ < text_.size()) {
      const unsigned char c = static_cast<unsigned char>(text_[at_++]);
      if (c == '"') return true;
      if (c < 0x20) return false;
      if (c != '\\') continue;
      if (Take('u')) {
        const int unit = Hex();
        if (unit < 0 || (unit >= 0xDC00 && unit <= 0xDFFF)) return false;
        if (unit >= 0xD800 && unit <= 0xDBFF) {
          if (!Word("\\u")) return false;
          const int low = Hex();
          if (low < 0xDC00 || low > 0xDFFF) return false;
        }
      } else if (at_ >= text_.size() ||
                 std::string_view("\"\\/bfnrt").find(text_[at_++]) == std::string_view::npos) {
        return false;
      }
    }
    return false;
  }
  bool Members(bool object, int depth) {
    const char close = object ? '}' : ']';
    Space();
    if (Take(close)) return true;
    do {
      if (object) {
        Space();
        if (!String()) return false;
        Space();
        if (!Take(':')) return false;
      }
      if (!Value(depth)) return false;
    } while (Take(','));
    return Take(close);
  }
  // A value and the white space around it.
  bool Value(int depth) {
    Space();
    if (at_ >= text_.size()) return false;
    bool ok = false;
    const char c = text_[at_];
    if (c == '[' || c == '{') {
      ++at_;
      ok = depth < 64 && Members(c == '{', depth + 1);
    } else if (c == '"') {
      ok = String();
    } else if (c == '-' || (c >= '0' && c <= '9')) {
      ok = Number();
    } else {
      ok = Word("null") || Word("true") || Word("false");
    }
    Space();
    return ok;
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto json = millrace::Json::Parse(text);
  const bool well_formed = millrace::IsValidUtf8(text) && Grammar(text).Accepts();
  if (json.ok()) {
    CHECK(well_formed);
    const auto again = millrace::Json::Parse(json->Dump());
    CHECK(again.ok());
    CHECK(*again == *json);
    int64_t i;
    uint64_t u;
    double d;
    json->GetInt64(&i), json->GetUint64(&u), json->GetDouble(&d);
  } else if (well_formed && size < 100'000) {  // too small for the other limits
    CHECK(json.status().message().find("duplicate key") != std::string_view::npos);
  }
  return 0;
}
