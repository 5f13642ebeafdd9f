// The fuzzer's bytes are operations on a pool beside its naive twin. The first byte says whether
// all hashes collide.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "paged_kv/pool_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  size_t at = 1;
  const auto choose = [&at, data, size](uint32_t n) -> uint32_t {
    return at < size ? data[at++] % n : 0;
  };
  millrace::paged_kv::PoolModel model(choose, size > 0 && data[0] % 2 == 1);
  std::string broken;
  for (int acts = 0; at < size && acts < 500 && broken.empty(); ++acts) broken = model.Act();
  if (broken.empty()) broken = model.Finish();
  if (!broken.empty()) {
    std::fprintf(stderr, "%s\n", broken.c_str());
    std::abort();
  }
  return 0;
}
