// Any bytes as a checkpoint: config.json, a line "----", then a safetensors file. The readers
// accept or refuse; of whatever they accept, every tensor can be read to the last value.
//
// The header's length is mended when the input asks for it (its first byte is '!'), so that the
// fuzzer need not guess eight bytes.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "model/hf_model.h"
#include "model/safetensors.h"

namespace {

// The length that makes the header end at its last '}'.
void MendLength(std::string& file) {
  if (file.size() < 10) return;
  const size_t end = file.find("}}", 8);
  if (end == std::string::npos) return;
  const uint64_t length = end + 2 - 8;
  std::memcpy(file.data(), &length, 8);
}

bool OneLine(const absl::Status& status) {
  return status.message().find('\n') == absl::string_view::npos && status.message().size() < 2048;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace millrace;
  using namespace millrace::model;
  std::string_view input(reinterpret_cast<const char*>(data), size);
  const bool mend = !input.empty() && input.front() == '!';
  if (mend) input.remove_prefix(1);
  constexpr std::string_view kCut = "\n----\n";
  const size_t cut = input.find(kCut);
  const std::string_view config = input.substr(0, cut);
  std::string file(cut == std::string_view::npos ? input : input.substr(cut + kCut.size()));
  if (mend) MendLength(file);

  // Its own allocation: aligned, and a read past the end is seen.
  std::unique_ptr<std::byte[]> bytes(new std::byte[file.size()]);
  if (!file.empty()) std::memcpy(bytes.get(), file.data(), file.size());
  HfSource source;
  source.path = "fuzz";
  source.config_file = "fuzz/config.json";
  HfShard shard;
  shard.file = "fuzz/model.safetensors";
  auto tensors = ParseSafetensors({bytes.get(), file.size()}, shard.file);
  if (tensors.ok()) {
    size_t sum = 0;
    for (const SafetensorsTensor& tensor : *tensors) {
      CHECK(tensor.data.empty() ||
            (tensor.data.data() >= bytes.get() &&
             tensor.data.data() + tensor.data.size() <= bytes.get() + file.size()));
      sum += tensor.data.size();
    }
    CHECK(sum <= file.size());
    shard.tensors = *std::move(tensors);
    source.shards.push_back(std::move(shard));
  } else {
    CHECK(OneLine(tensors.status()));
  }
  auto json = Json::Parse(config);
  if (!json.ok() || !json->is_object()) return 0;
  source.config = *json;
  if (const Json* quantization = json->Find("quantization_config"); quantization != nullptr) {
    source.quantization = *quantization;
    source.quantization_file = source.config_file;
  }
  std::deque<kernels::RawGroups> groups;
  const auto description = DescribeHf(source, &groups);
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
