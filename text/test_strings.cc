#include "text/test_strings.h"

#include <functional>

#include "base/check.h"
#include "base/json.h"
#include "base/utf8.h"
#include "text/test_vocabulary.h"
#include "text/unicode.h"

namespace millrace::text {
namespace {

constexpr size_t kCount = 14'000;

struct SplitMix {
  uint64_t state;
  uint64_t Next() {
    state += 0x9e3779b97f4a7c15u;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint64_t Below(uint64_t n) { return Next() % n; }
  const std::string& Pick(const std::vector<std::string>& items) {
    return items[Below(items.size())];
  }
};

std::string Scalar(uint64_t value) {
  value %= 0x110000 - 0x800;
  std::string out;
  AppendUtf8(static_cast<uint32_t>(value < 0xd800 ? value : value + 0x800), out);
  return out;
}

std::string Upper(std::string text, size_t count) {
  for (size_t i = 0; i < text.size() && i < count; ++i) {
    if (text[i] >= 'a' && text[i] <= 'z') text[i] = static_cast<char>(text[i] - 32);
  }
  return text;
}

std::vector<std::string> Strings(const Json& json) {
  std::vector<std::string> out;
  for (const Json& item : json.array()) out.push_back(item.string_value());
  return out;
}

// Named as in the Python script, in whose order the random numbers are drawn.
struct Maker {
  std::vector<std::string> prose, words, spaces, marks, added;
  std::vector<std::vector<std::string>> pools;
  std::vector<std::pair<uint64_t, uint64_t>> ranges;

  std::string FromRanges(SplitMix& rng) const {
    const auto range = ranges[rng.Below(ranges.size())];
    std::string out;
    for (uint64_t n = 1 + rng.Below(6); n > 0; --n) {
      out += Scalar(range.first + rng.Below(range.second - range.first));
    }
    return out;
  }

  std::string Sentence(SplitMix& rng) const {
    std::string out;
    for (uint64_t n = 1 + rng.Below(30); n > 0; --n) {
      std::string word = rng.Pick(words);
      const uint64_t what = rng.Below(20);
      if (what == 0) word = Upper(word, 1);
      if (what == 1) word = Upper(word, word.size());
      if (what == 2) word += rng.Pick(marks);
      if (what == 3) word = rng.Pick(marks) + word;
      if (what == 4) {
        uint64_t power = 1;
        for (uint64_t k = 1 + rng.Below(7); k > 0; --k) power *= 10;
        word = std::to_string(rng.Below(power));
      }
      out += word + (rng.Below(8) != 0 ? " " : rng.Pick(spaces));
    }
    return out;
  }

  std::string Prose(SplitMix& rng, size_t number) const {
    const std::string& p = prose[number % prose.size()];
    const std::string variants[] = {p, " " + p, p + "\n", p + p, "\r\n" + p, Upper(p, p.size())};
    return variants[rng.Below(6)];
  }

  static std::string Sweep(SplitMix& rng, size_t number) {
    const std::string c = Scalar(number * 797 + rng.Below(797));
    const std::string d = Scalar(rng.Below(0x3000));
    const std::string variants[] = {"a" + c + "b 1" + c + " " + c, c + d, "x " + d + c + c};
    return variants[rng.Below(3)];
  }

  std::string Mixed(SplitMix& rng, int kind) const {
    static const std::vector<std::string> digits = {"0", "1", "2", "3", "4",
                                                    "5", "6", "7", "8", "9"};
    std::string out;
    if (kind == 5) {
      for (uint64_t n = 1 + rng.Below(24); n > 0; --n) {
        out += rng.Below(5) < 3 ? rng.Pick(spaces) : rng.Pick(marks);
      }
    } else if (kind == 6) {
      for (uint64_t n = 1 + rng.Below(40); n > 0; --n) {
        out += rng.Below(4) != 0 ? rng.Pick(digits) : rng.Pick(marks);
      }
    } else {
      for (uint64_t n = 1 + rng.Below(5); n > 0; --n) {
        out += rng.Below(6) != 0 ? FromRanges(rng) : rng.Pick(spaces);
      }
    }
    return out;
  }

  std::string Added(SplitMix& rng) const {
    std::string out;
    for (uint64_t n = 1 + rng.Below(8); n > 0; --n) {
      const std::string& token = rng.Pick(added);
      const uint64_t what = rng.Below(12);
      if (what < 4) out += token;
      if (what == 4) {
        out += token.substr(0, token.size() - CharacterBefore(token, token.size()).length);
      }
      if (what == 5) out += token.substr(CharacterAt(token, 0).length);
      if (what == 6) out += token + token;
      if (what == 7) out += " " + token + " ";
      if (what == 8) out += "\n" + token + "\n";
      if (what == 9) out += rng.Pick(words) + token;
      if (what == 10) {
        out += rng.Pick(words);
        out += rng.Pick(spaces);
      }
      if (what == 11) out += FromRanges(rng);
    }
    return out;
  }

  std::pair<std::string, bool> Make(size_t i) const {
    SplitMix rng{i};
    const int kind = static_cast<int>(i % 10);
    std::string out;
    if (i < pools.size() * 10 && kind == 9) {
      while (out.size() < 10'000) out += rng.Pick(pools[i / 10]);
      return {out, false};
    }
    out = kind == 0   ? Prose(rng, i / 10)
          : kind == 1 ? Sweep(rng, i / 10)
          : kind <= 4 ? Sentence(rng)
          : kind <= 7 ? Mixed(rng, kind)
                      : Added(rng);
    return {out, rng.Below(4) < (kind >= 8 ? 3u : 1u)};
  }
};

}  // namespace

std::vector<std::pair<std::string, bool>> GoldenStrings(const std::vector<std::string>& added) {
  const absl::StatusOr<Json> parts =
      Json::Parse(ReadTestFile("tests/golden/text/tokenizer_strings.json"));
  CHECK(parts.ok());
  Maker maker;
  maker.prose = Strings(*parts->Find("prose"));
  maker.words = Strings(*parts->Find("words"));
  maker.spaces = Strings(*parts->Find("spaces"));
  maker.marks = Strings(*parts->Find("marks"));
  maker.added = added;
  for (const Json& pool : parts->Find("pools")->array()) maker.pools.push_back(Strings(pool));
  for (const Json& range : parts->Find("ranges")->array()) {
    uint64_t low = 0;
    uint64_t high = 0;
    CHECK(range.array()[0].GetUint64(&low) && range.array()[1].GetUint64(&high));
    maker.ranges.emplace_back(low, high);
  }
  std::vector<std::pair<std::string, bool>> out;
  for (size_t i = 0; i < kCount; ++i) out.push_back(maker.Make(i));
  return out;
}

std::string FamilyJson(const std::string& family) {
  return ReadTestFile("tests/golden/text/tokenizer_" + family + ".json");
}

TokenizerSpec MistralSpec() {
  TokenizerSpec spec;
  spec.model = "spm";
  spec.tokens = {"<unk>", "<s>", "</s>"};
  spec.kinds = {TokenKind::kUnknown, TokenKind::kControl, TokenKind::kControl};
  spec.scores = {0, 0, 0};
  spec.unknown = 0;
  spec.bos = 1;
  for (int byte = 0; byte < 256; ++byte) {
    constexpr char kHex[] = "0123456789ABCDEF";
    spec.tokens.push_back(std::string("<0x") + kHex[byte / 16] + kHex[byte % 16] + ">");
    spec.kinds.push_back(TokenKind::kByte);
    spec.scores.push_back(0);
  }
  const std::string file = ReadTestFile("tests/golden/text/tokenizer_mistral.vocab");
  for (size_t at = 0; at < file.size();) {
    const size_t end = file.find('\n', at);
    const bool low = file[at] == '\t';
    spec.scores.push_back(low ? -1e9f : 259.0f - static_cast<float>(spec.tokens.size()));
    spec.tokens.push_back(file.substr(at + low, end - at - low));
    spec.kinds.push_back(TokenKind::kNormal);
    at = end + 1;
  }
  SetSentencePieceSteps(true, spec);
  return spec;
}

std::vector<std::string> AddedTexts(const TokenizerSpec& spec) {
  std::vector<std::string> out;
  for (const AddedToken& token : spec.added) {
    out.push_back(spec.tokens[static_cast<size_t>(token.id)]);
  }
  return out;
}

uint32_t HashOfIds(const std::vector<TokenId>& ids) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (TokenId id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      hash = (hash ^ (static_cast<uint32_t>(id) >> shift & 0xff)) * 0x100000001b3u;
    }
  }
  const uint32_t low = static_cast<uint32_t>(hash);
  return low == 0 ? 1 : low;
}

}  // namespace millrace::text
