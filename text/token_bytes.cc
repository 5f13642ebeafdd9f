#include "text/token_bytes.h"

#include "text/unicode.h"

namespace millrace::text {
namespace {

using Kind = DecoderStep::Kind;

// The printable-byte alphabet of GPT-2: bytes that print keep their code point, the other 68 follow
// from U+0100 in order of the byte. byte_of[code point] is the byte, or -1.
struct ByteAlphabet {
  int byte_of[512];
  ByteAlphabet() {
    for (int& byte : byte_of) byte = -1;
    int following = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool prints = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
      byte_of[prints ? byte : following++] = byte;
    }
  }
};

// The bytes that a token of the vocabulary file stands for; a token outside the alphabet (some
// files have such, never produced by merges) is its own text.
std::string FromAlphabet(const ByteAlphabet& alphabet, std::string_view token) {
  std::string bytes;
  for (size_t i = 0; i < token.size();) {
    const Character c = CharacterAt(token, i);
    if (!c.valid || c.code_point >= 512 || alphabet.byte_of[c.code_point] < 0) {
      return std::string(token);
    }
    bytes.push_back(static_cast<char>(alphabet.byte_of[c.code_point]));
    i += c.length;
  }
  return bytes;
}

std::string ReplaceAll(std::string token, std::string_view from, std::string_view to) {
  size_t at = 0;
  while (!from.empty() && (at = token.find(from, at)) != std::string::npos) {
    token.replace(at, from.size(), to);
    at += to.size();
  }
  return token;
}

std::string StripSpaces(std::string token, int start, int stop) {
  for (; start > 0 && !token.empty() && token.front() == ' '; --start) token.erase(0, 1);
  for (; stop > 0 && !token.empty() && token.back() == ' '; --stop) token.pop_back();
  return token;
}

std::string Decoded(std::string token, const std::vector<DecoderStep>& steps) {
  for (const DecoderStep& step : steps) {
    if (step.kind == Kind::kReplace) {
      token = ReplaceAll(std::move(token), step.from, step.to);
    } else if (step.kind == Kind::kMetaspace) {
      token = ReplaceAll(std::move(token), step.from, " ");
    } else if (step.kind == Kind::kStrip) {
      token = StripSpaces(std::move(token), step.start, step.stop);
    } else if (step.kind == Kind::kByteFallback) {
      const int byte = ByteOfToken(token);
      // Steps after this one see text, and a byte alone is none.
      if (byte >= 0) return std::string(1, static_cast<char>(byte));
    }
  }
  return token;
}

}  // namespace

int ByteOfToken(std::string_view spelling) {
  if (spelling.size() != 6 || spelling.substr(0, 3) != "<0x" || spelling[5] != '>') return -1;
  int value = 0;
  for (char c : spelling.substr(3, 2)) {
    if (c >= '0' && c <= '9') {
      value = value * 16 + (c - '0');
    } else if (c >= 'A' && c <= 'F') {
      value = value * 16 + (c - 'A') + 10;
    } else if (c >= 'a' && c <= 'f') {
      value = value * 16 + (c - 'a') + 10;
    } else {
      return -1;
    }
  }
  return value;
}

std::vector<std::string> TokenBytesOf(const TokenizerSpec& spec) {
  static const ByteAlphabet& alphabet = *new ByteAlphabet;
  std::vector<std::string> bytes(spec.tokens.size());
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (spec.model != "bpe") {
      bytes[i] = Decoded(spec.tokens[i], spec.decoder);
    } else if (spec.kinds[i] == TokenKind::kNormal || spec.kinds[i] == TokenKind::kByte) {
      bytes[i] = FromAlphabet(alphabet, spec.tokens[i]);
    } else {
      bytes[i] = spec.tokens[i];
    }
  }
  return bytes;
}

}  // namespace millrace::text
