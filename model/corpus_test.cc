// The corpora are worth something only as long as their good inputs are accepted: else a fuzzer
// starts from texts that the readers leave at the first check. "hostile_*" is refused, the rest is
// a model.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>

#include "model/gguf_model.h"
#include "model/hf_fuzz_input.h"

namespace millrace::model {
namespace {

void ForFiles(const char* folder,
              const std::function<void(const std::string&, const std::string&)>& call) {
  int good = 0, hostile = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string name = entry.path().filename().string();
    call(name, std::string((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>()));
    ++(name.rfind("hostile_", 0) == 0 ? hostile : good);
  }
  EXPECT_GE(good, 6) << folder;
  EXPECT_GE(hostile, 2) << folder;
}

bool Hostile(const std::string& name) {
  return name.rfind("hostile_", 0) == 0;
}

TEST(Corpus, Hf) {
  ForFiles("model/corpus/hf", [](const std::string& name, const std::string& bytes) {
    const HfFuzzInput input = ReadHfFuzzInput(bytes);
    absl::Status status = input.container;
    std::deque<kernels::RawGroups> groups;
    if (status.ok()) {
      ASSERT_TRUE(input.source.has_value()) << name;
      status = DescribeHf(*input.source, &groups).status();
    }
    EXPECT_EQ(status.ok(), !Hostile(name)) << name << ": " << status;
  });
}

TEST(Corpus, Gguf) {
  ForFiles("model/corpus/gguf", [](const std::string& name, const std::string& bytes) {
    const auto contents = ParseGguf(std::as_bytes(std::span(bytes)), name);
    absl::Status status = contents.status();
    if (status.ok()) status = DescribeGguf(*contents).status();
    EXPECT_EQ(status.ok(), !Hostile(name)) << name << ": " << status;
  });
}

}  // namespace
}  // namespace millrace::model
