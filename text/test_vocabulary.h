#pragma once
// The demo model's vocabulary for tests, from tests/golden/text/vocab.bin.

#include <memory>
#include <string>

#include "text/tokenizer.h"

namespace millrace::text {

// The whole file, "" if it cannot be read. Tests run in the root of the source tree.
std::string ReadTestFile(const std::string& path);
// REQUIRES: the file is there.
TokenizerSpec DemoSpec();
const Tokenizer& DemoTokenizer();

}  // namespace millrace::text
