// The main of a fuzz target in a build without libFuzzer: runs every file named by the arguments,
// or found under a directory named by them, through the target once. A finding ends the process by
// itself (abort, sanitizer report), so reaching the last line means that every file passed.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

// All regular files at or below `root`. False when it cannot be read.
bool CollectFiles(const std::filesystem::path& root, std::vector<std::filesystem::path>& files) {
  std::error_code error;
  if (std::filesystem::is_regular_file(root, error)) {
    files.push_back(root);
    return true;
  }
  std::filesystem::recursive_directory_iterator it(root, error), end;
  while (!error && it != end) {
    if (it->is_regular_file(error)) files.push_back(it->path());
    it.increment(error);
  }
  return !error;
}

bool Replay(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return false;
  const std::string bytes{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (stream.bad()) return false;
  // A heap copy of the exact size, so that AddressSanitizer sees a read past the end.
  const std::vector<uint8_t> input(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(input.data(), input.size());
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::filesystem::path> files;
  int failed = 0;
  for (int i = 1; i < argc; ++i) {
    if (!CollectFiles(argv[i], files)) {
      std::fprintf(stderr, "cannot read %s\n", argv[i]);
      ++failed;
    }
  }
  std::sort(files.begin(), files.end());
  int passed = 0;
  for (const std::filesystem::path& path : files) {
    if (Replay(path)) {
      ++passed;
    } else {
      std::fprintf(stderr, "cannot read %s\n", path.c_str());
      ++failed;
    }
  }
  // An empty corpus is a mistake in a path, not a pass.
  if (files.empty()) std::fprintf(stderr, "no corpus files\n");
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}
