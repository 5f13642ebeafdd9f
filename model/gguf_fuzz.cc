// Any bytes: the reader accepts or refuses; whatever it accepts can be read to the last value.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "model/gguf.h"
#include "model/gguf_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace millrace::model;
  // Its own allocation: aligned, and a read past the end is seen.
  std::unique_ptr<std::byte[]> bytes(new std::byte[size]);
  if (size > 0) std::memcpy(bytes.get(), data, size);
  const auto contents = ParseGguf({bytes.get(), size}, "fuzz");
  if (!contents.ok()) {
    CHECK(contents.status().message().find('\n') == absl::string_view::npos);
    return 0;
  }
  const GgufMetadata& metadata = contents->metadata;
  uint64_t sum = 0;
  for (const auto& item : metadata.values()) {
    const std::string_view key = item.first;
    if (const auto value = metadata.Int(key); value.ok()) sum += static_cast<uint64_t>(*value);
    if (const auto value = metadata.Bool(key); value.ok()) sum += *value ? 1 : 0;
    if (const auto value = metadata.Float(key); value.ok()) sum += *value > 0 ? 1 : 0;
    if (const auto value = metadata.String(key); value.ok()) sum += value->size();
    if (const auto value = metadata.Numbers(key); value.ok()) sum += value->size();
    if (const auto value = metadata.Strings(key); value.ok()) {
      for (const std::string_view text : *value) sum += text.empty() ? 0 : uint8_t(text.back());
    }
  }
  for (const GgufTensor& tensor : contents->tensors) {
    // First and last byte of what the table promises.
    const auto* begin = static_cast<const unsigned char*>(tensor.matrix.data);
    if (tensor.matrix.bytes > 0) sum += begin[0] + begin[tensor.matrix.bytes - 1];
    if (tensor.matrix.cols > 4096) continue;
    std::vector<float> row(static_cast<size_t>(tensor.matrix.cols));
    millrace::kernels::DequantizeRawRow(tensor.matrix, tensor.matrix.rows - 1, row.data());
  }
  const auto description = DescribeGguf(*contents);
  volatile uint64_t sink = sum + (description.ok() ? 1 : 0);
  (void)sink;
  return 0;
}
