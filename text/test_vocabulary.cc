#include "text/test_vocabulary.h"

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "base/check.h"

namespace millrace::text {

std::string ReadTestFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

TokenizerSpec DemoSpec() {
  const std::string file = ReadTestFile("tests/golden/text/vocab.bin");
  TokenizerSpec spec;
  spec.pre_tokenizer = "smollm";
  size_t at = 0;
  auto line = [&] {
    const size_t end = file.find('\n', at);
    CHECK(end != std::string::npos);
    std::string text = file.substr(at, end - at);
    at = end + 1;
    return text;
  };
  for (std::string text = line(); !text.empty(); text = line()) {
    spec.kinds.push_back(text[0] == '3' ? TokenKind::kControl : TokenKind::kNormal);
    spec.tokens.push_back(text.substr(2));
  }
  int add_bos = 0;
  std::istringstream(line()) >> spec.bos >> spec.eos >> spec.unknown >> add_bos;
  spec.add_bos = add_bos != 0;
  auto id = [&](size_t offset) {
    return static_cast<size_t>(static_cast<unsigned char>(file[offset])) |
           static_cast<size_t>(static_cast<unsigned char>(file[offset + 1])) << 8;
  };
  for (; at + 4 <= file.size(); at += 4) {
    const std::string left = spec.tokens[id(at)];
    const std::string right = spec.tokens[id(at + 2)];
    spec.merges.push_back(left + " " + right);
    spec.tokens.push_back(left + right);
    spec.kinds.push_back(TokenKind::kNormal);
  }
  return spec;
}

const Tokenizer& DemoTokenizer() {
  static const std::unique_ptr<Tokenizer>& tokenizer =
      *new std::unique_ptr<Tokenizer>(std::move(Tokenizer::Create(DemoSpec())).value());
  return *tokenizer;
}

}  // namespace millrace::text
