#pragma once
// An input of hf_fuzz as a checkpoint: config.json, a line "----", then a safetensors file. The
// header's length is mended when the input asks for it (its first byte is '!'), so that the fuzzer
// need not guess eight bytes.

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/json.h"
#include "model/hf_model.h"
#include "model/safetensors.h"

namespace millrace::model {

// The length that makes the header end at its last '}'.
inline void MendLength(std::string& file) {
  if (file.size() < 10) return;
  const size_t end = file.find("}}", 8);
  if (end == std::string::npos) return;
  const uint64_t length = end + 2 - 8;
  std::memcpy(file.data(), &length, 8);
}

struct HfFuzzInput {
  std::unique_ptr<std::byte[]> bytes;  // of the file: its own allocation, so that over-reads show
  size_t size = 0;
  absl::Status container;          // what the reader of the container said
  std::optional<HfSource> source;  // where config.json is an object
};

inline HfFuzzInput ReadHfFuzzInput(std::string_view input) {
  const bool mend = !input.empty() && input.front() == '!';
  if (mend) input.remove_prefix(1);
  constexpr std::string_view kCut = "\n----\n";
  const size_t cut = input.find(kCut);
  const std::string_view config = input.substr(0, cut);
  std::string file(cut == std::string_view::npos ? input : input.substr(cut + kCut.size()));
  if (mend) MendLength(file);

  HfFuzzInput out;
  out.size = file.size();
  out.bytes.reset(new std::byte[file.size()]);
  if (!file.empty()) std::memcpy(out.bytes.get(), file.data(), file.size());
  HfSource source;
  source.path = "fuzz";
  source.config_file = "fuzz/config.json";
  HfShard shard;
  shard.file = "fuzz/model.safetensors";
  auto tensors = ParseSafetensors({out.bytes.get(), file.size()}, shard.file);
  out.container = tensors.status();
  if (tensors.ok()) {
    shard.tensors = *std::move(tensors);
    source.shards.push_back(std::move(shard));
  }
  auto json = Json::Parse(config);
  if (!json.ok() || !json->is_object()) return out;
  source.config = *json;
  if (const Json* quantization = json->Find("quantization_config"); quantization != nullptr) {
    source.quantization = *quantization;
    source.quantization_file = source.config_file;
  }
  out.source = std::move(source);
  return out;
}

}  // namespace millrace::model
