// The fuzzer's bytes are the choices of a storm: configuration, traffic, faults.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "scheduler/storm.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  size_t at = 0;
  const auto choose = [&at, data, size](uint32_t n) -> uint32_t {
    return at < size ? data[at++] % n : 0;
  };
  millrace::scheduler::Storm storm(choose);
  std::string broken;
  for (int acts = 0; at < size && acts < 400 && broken.empty(); ++acts) broken = storm.Act();
  if (broken.empty()) broken = storm.Quiet();
  if (!broken.empty()) {
    std::fprintf(stderr, "%s\n", broken.c_str());
    std::abort();
  }
  return 0;
}
