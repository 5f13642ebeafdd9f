#pragma once
// Reads what make_arch_golden.py writes and makes the weights again that it names: the checkpoint
// exists in memory only, and goes through the reader of Hugging Face checkpoints.

#include <cstdint>
#include <cstring>
#include <deque>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "model/hf_model.h"

namespace millrace::golden {

struct ArchPrompt {
  std::vector<int32_t> ids;
  std::vector<int32_t> positions;
  int32_t max_model_len = 0;
  std::vector<float> logits;  // [positions, vocab]
};

// Thread: one caller.
class ArchGolden {
 public:
  static absl::StatusOr<std::unique_ptr<ArchGolden>> Read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    std::unique_ptr<ArchGolden> out(new ArchGolden());
    if (bytes.size() < 8 || bytes.substr(0, 4) != "MRLA") {
      return absl::InvalidArgumentError(path + ": not a golden file");
    }
    uint32_t size = 0;
    std::memcpy(&size, bytes.data() + 4, 4);
    ASSIGN_OR_RETURN(const Json header, Json::Parse(std::string_view(bytes).substr(8, size)));
    out->source_.path = out->source_.config_file = path;
    out->source_.config = *header.Find("config");
    out->vocab_ = static_cast<size_t>(Int(*out->source_.config.Find("vocab_size")));
    out->MakeTensors(header);
    out->ReadPrompts(header, bytes.substr(8 + size));
    ASSIGN_OR_RETURN(out->description_, model::DescribeHf(out->source_, &out->groups_));
    return out;
  }

  const model::ModelDescription& description() const { return description_; }
  const std::vector<ArchPrompt>& prompts() const { return prompts_; }
  size_t vocab() const { return vocab_; }

 private:
  static int64_t Int(const Json& json) {
    int64_t value = 0;
    json.GetInt64(&value);
    return value;
  }
  static float Float(const Json& json) {
    double value = 0;
    json.GetDouble(&value);
    return static_cast<float>(value);
  }
  static std::vector<int32_t> Ints(const Json& json) {
    std::vector<int32_t> out;
    for (const Json& item : json.array()) out.push_back(static_cast<int32_t>(Int(item)));
    return out;
  }
  static uint64_t Fnv1a64(std::string_view text) {
    uint64_t value = 0xCBF29CE484222325u;
    for (char c : text) value = (value ^ static_cast<uint8_t>(c)) * 0x100000001B3u;
    return value;
  }
  // fp32 in [-1, 1), exact.
  static float Uniform(uint64_t seed) {
    uint64_t z = seed + 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return static_cast<float>(z >> 40) * 0x1p-23f - 1.0f;
  }

  void MakeTensors(const Json& header) {
    const uint64_t seed = std::stoull(header.Find("seed")->string_value(), nullptr, 16);
    model::HfShard& shard = source_.shards.emplace_back();
    shard.file = source_.path;
    for (const Json& row : header.Find("tensors")->array()) {
      model::SafetensorsTensor& tensor = shard.tensors.emplace_back();
      tensor.name = row.array()[0].string_value();
      size_t count = 1;
      for (const Json& dim : row.array()[1].array()) {
        tensor.shape.push_back(Int(dim));
        count *= static_cast<size_t>(tensor.shape.back());
      }
      const float mean = Float(row.array()[2]), scale = Float(row.array()[3]);
      std::vector<float>& values = storage_.emplace_back(count);
      const uint64_t own = seed ^ Fnv1a64(tensor.name);
      for (size_t i = 0; i < count; ++i) {
        const float scaled = scale * Uniform(own + i);
        values[i] = mean + scaled;
      }
      tensor.data = std::as_bytes(std::span(values));
    }
  }
  void ReadPrompts(const Json& header, const std::string& logits) {
    size_t at = 0;
    for (const Json& item : header.Find("prompts")->array()) {
      ArchPrompt& prompt = prompts_.emplace_back();
      prompt.ids = Ints(*item.Find("ids"));
      prompt.positions = Ints(*item.Find("positions"));
      prompt.max_model_len = static_cast<int32_t>(Int(*item.Find("max_model_len")));
      prompt.logits.resize(prompt.positions.size() * vocab_);
      const size_t size = prompt.logits.size() * sizeof(float);
      if (at + size <= logits.size()) std::memcpy(prompt.logits.data(), &logits[at], size);
      at += size;
    }
  }

  size_t vocab_ = 0;
  std::deque<std::vector<float>> storage_;
  std::deque<kernels::RawGroups> groups_;
  model::HfSource source_;
  model::ModelDescription description_;
  std::vector<ArchPrompt> prompts_;
};

}  // namespace millrace::golden
