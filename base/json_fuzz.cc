// Bytes to JSON: parses or refuses, and what parses round-trips.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "base/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto json = millrace::Json::Parse({reinterpret_cast<const char*>(data), size});
  if (json.ok()) {
    const auto again = millrace::Json::Parse(json->Dump());
    CHECK(again.ok());
    CHECK(*again == *json);
    int64_t i;
    uint64_t u;
    double d;
    json->GetInt64(&i), json->GetUint64(&u), json->GetDouble(&d);
  }
  return 0;
}
