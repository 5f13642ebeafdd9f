// Any bytes as a checkpoint (hf_fuzz_input.h). The readers accept or refuse; of whatever they
// accept, every tensor can be read to the last value.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "model/hf_fuzz_input.h"

namespace {

bool OneLine(const absl::Status& status) {
  return status.message().find('\n') == absl::string_view::npos && status.message().size() < 2048;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace millrace;
  using namespace millrace::model;
  const HfFuzzInput input =
      ReadHfFuzzInput(std::string_view(reinterpret_cast<const char*>(data), size));
  CHECK(input.container.ok() || OneLine(input.container));
  if (!input.source.has_value()) return 0;
  for (const HfShard& shard : input.source->shards) {
    size_t sum = 0;
    for (const SafetensorsTensor& tensor : shard.tensors) {
      CHECK(tensor.data.empty() ||
            (tensor.data.data() >= input.bytes.get() &&
             tensor.data.data() + tensor.data.size() <= input.bytes.get() + input.size));
      sum += tensor.data.size();
    }
    CHECK(sum <= input.size);
  }
  std::deque<kernels::RawGroups> groups;
  const auto description = DescribeHf(*input.source, &groups);
  if (!description.ok()) {
    CHECK(OneLine(description.status()));
    return 0;
  }
  volatile float sink = 0;
  for (const auto& item : description->tensors) {
    const kernels::RawMatrix& matrix = item.second.matrix;
    std::vector<float> row(static_cast<size_t>(matrix.cols));
    kernels::DequantizeRawRow(matrix, 0, row.data());
    kernels::DequantizeRawRow(matrix, matrix.rows - 1, row.data());
    sink = sink + row.back();
  }
  return 0;
}
