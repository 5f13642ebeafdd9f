#pragma once
// Makes safetensors files and small Hugging Face checkpoints in memory and on disk: right ones of
// random models of each family, and, because every part can be set by hand, wrong ones.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"

namespace millrace::testing {

inline std::string LittleEndian64(uint64_t value) {
  return std::string(reinterpret_cast<const char*>(&value), 8);
}

// Tensors by name; written in the order of the names. Thread: one caller.
class SafetensorsWriter {
 public:
  struct Tensor {
    std::string type;
    std::vector<int64_t> shape;
    std::string data;
  };

  void Add(const std::string& name, const std::string& type, std::vector<int64_t> shape,
           std::string data) {
    tensors_[name] = {type, std::move(shape), std::move(data)};
  }
  std::map<std::string, Tensor>& tensors() { return tensors_; }
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }

  // The header's length modulo 8: current writers pad to 0, old ones did not.
  void set_header_over(size_t bytes) { header_over_ = bytes; }
  size_t header_over() const { return header_over_; }

  std::string Header() const {
    Json header = JsonObject{};
    header.Add("__metadata__", JsonObject{{"format", Json("pt")}});
    uint64_t at = 0;
    for (const auto& [name, tensor] : tensors_) {
      JsonArray shape;
      for (int64_t dim : tensor.shape) shape.emplace_back(dim);
      Json entry = JsonObject{};
      entry.Add("dtype", tensor.type);
      entry.Add("shape", std::move(shape));
      entry.Add("data_offsets", JsonArray{Json(at), Json(at + tensor.data.size())});
      at += tensor.data.size();
      header.Add(name, std::move(entry));
    }
    std::string out = header.Dump();
    out.resize((out.size() + 7) / 8 * 8 + header_over_, ' ');
    return out;
  }
  std::string Data() const {
    std::string out;
    for (const auto& item : tensors_) out += item.second.data;
    return out;
  }
  std::string Build() const { return LittleEndian64(Header().size()) + Header() + Data(); }

 private:
  std::map<std::string, Tensor> tensors_;
  size_t header_over_ = 0;
};

struct HfShape {
  std::string model_type = "llama";
  int64_t vocab = 64;
  int64_t hidden = 64;
  int64_t layers = 2;
  int64_t heads = 4;
  int64_t kv_heads = 2;
  int64_t head_dim = 16;
  int64_t feed_forward = 96;
  bool tied = false;
  std::string type = "F32";  // of plain tensors: F32, F16, BF16
};

// The first bytes again and again: large models need no fresh ones.
inline std::string Tile(std::string some, size_t bytes) {
  const size_t period = some.size();
  some.reserve(bytes);
  while (some.size() < bytes) some.append(some, 0, std::min(period, bytes - some.size()));
  return some;
}

// Random bytes of plain values of about 1/8.
inline std::string RandomPlain(const std::string& type, int64_t count, std::mt19937_64& random) {
  std::normal_distribution<float> normal(0, 0.125f);
  std::string out;
  const int64_t fresh = std::min<int64_t>(count, 65536);
  for (int64_t i = 0; i < fresh; ++i) {
    const float value = normal(random);
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint16_t high = static_cast<uint16_t>(bits >> 16);
    const uint16_t half = static_cast<uint16_t>((high & 0x8000) | 0x2800 | (random() & 0x7ff));
    if (type == "F32") out.append(reinterpret_cast<const char*>(&bits), 4);
    if (type == "BF16") out.append(reinterpret_cast<const char*>(&high), 2);
    if (type == "F16") out.append(reinterpret_cast<const char*>(&half), 2);
  }
  const size_t width = fresh > 0 ? out.size() / static_cast<size_t>(fresh) : 0;
  return Tile(std::move(out), width * static_cast<size_t>(count));
}

inline std::string RandomBytes(int64_t count, std::mt19937_64& random) {
  std::string out(static_cast<size_t>(std::min<int64_t>(count, 1 << 18)), '\0');
  for (char& byte : out) byte = static_cast<char>(random());
  return Tile(std::move(out), static_cast<size_t>(count));
}

inline std::string Int32s(const std::vector<int32_t>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4);
}

// A checkpoint. Thread: one caller.
class HfModel {
 public:
  explicit HfModel(const HfShape& shape, uint64_t seed = 1) : shape_(shape), random_(seed) {
    config_.Add("model_type", shape.model_type);
    config_.Add("hidden_size", shape.hidden);
    config_.Add("num_hidden_layers", shape.layers);
    config_.Add("num_attention_heads", shape.heads);
    config_.Add("num_key_value_heads", shape.kv_heads);
    config_.Add("head_dim", shape.head_dim);
    config_.Add("intermediate_size", shape.feed_forward);
    config_.Add("vocab_size", shape.vocab);
    config_.Add("max_position_embeddings", 512), config_.Add("rms_norm_eps", 1e-5);
    config_.Add("tie_word_embeddings", shape.tied);
    AddTensors();
  }

  Json& config() { return config_; }
  void Set(const std::string& key, Json value) {
    for (JsonMember& member : config_.object()) {
      if (member.first == key) {
        member.second = std::move(value);
        return;
      }
    }
    config_.Add(key, std::move(value));
  }
  SafetensorsWriter& weights() { return weights_; }

  void Plain(const std::string& name, std::vector<int64_t> shape) {
    int64_t count = 1;
    for (int64_t dim : shape) count *= dim;
    weights_.Add(name, shape_.type, std::move(shape), RandomPlain(shape_.type, count, random_));
  }

  // Replaces a module's weight by random packed ones.
  void Gptq(const std::string& module, int64_t bits, int64_t group, bool order) {
    const auto [rows, cols] = Take(module);
    const int64_t groups = group > 0 ? (cols + group - 1) / group : 1;
    weights_.Add(module + ".qweight", "I32", {cols * bits / 32, rows},
                 RandomBytes(cols * bits / 8 * rows, random_));
    weights_.Add(module + ".qzeros", "I32", {groups, rows * bits / 32},
                 RandomBytes(groups * rows * bits / 8, random_));
    weights_.Add(module + ".scales", "F16", {groups, rows},
                 RandomPlain("F16", groups * rows, random_));
    std::vector<int32_t> index;
    for (int64_t k = 0; k < cols; ++k) {
      index.push_back(static_cast<int32_t>(group > 0 ? k / group : 0));
    }
    if (order) std::shuffle(index.begin(), index.end(), random_);
    weights_.Add(module + ".g_idx", "I32", {cols}, Int32s(index));
  }
  void Awq(const std::string& module, int64_t group) {
    const auto [rows, cols] = Take(module);
    const int64_t groups = cols / group;
    weights_.Add(module + ".qweight", "I32", {cols, rows / 8},
                 RandomBytes(cols * rows / 2, random_));
    weights_.Add(module + ".qzeros", "I32", {groups, rows / 8},
                 RandomBytes(groups * rows / 2, random_));
    weights_.Add(module + ".scales", "F16", {groups, rows},
                 RandomPlain("F16", groups * rows, random_));
  }
  void PackQuantized(const std::string& module, int64_t bits, int64_t group, bool symmetric) {
    const auto [rows, cols] = Take(module);
    const int64_t groups = group > 0 ? (cols + group - 1) / group : 1;
    const int64_t per_word = 32 / bits;
    weights_.Add(module + ".weight_packed", "I32", {rows, cols / per_word},
                 RandomBytes(rows * cols / per_word * 4, random_));
    weights_.Add(module + ".weight_scale", "BF16", {rows, groups},
                 RandomPlain("BF16", rows * groups, random_));
    const int64_t shape[] = {rows, cols};
    weights_.Add(module + ".weight_shape", "I64", {2},
                 std::string(reinterpret_cast<const char*>(shape), sizeof(shape)));
    if (symmetric) return;
    const int64_t words = (rows + per_word - 1) / per_word;
    weights_.Add(module + ".weight_zero_point", "I32", {words, groups},
                 RandomBytes(words * groups * 4, random_));
  }
  void Int8(const std::string& module) {
    const auto [rows, cols] = Take(module);
    weights_.Add(module + ".weight", "I8", {rows, cols}, RandomBytes(rows * cols, random_));
    weights_.Add(module + ".weight_scale", "BF16", {rows, 1}, RandomPlain("BF16", rows, random_));
  }
  // All matrices of the layers.
  std::vector<std::string> Linears() const {
    std::vector<std::string> out;
    for (const auto& [name, tensor] : weights_original_) {
      if (tensor.size() == 2 && name.rfind("model.layers.", 0) == 0) {
        out.push_back(name.substr(0, name.size() - std::string(".weight").size()));
      }
    }
    return out;
  }

  // Writes the directory, split over `shards` files when more than one.
  void Write(const std::string& directory, int shards = 1) const {
    std::filesystem::create_directories(directory);
    WriteText(directory + "/config.json", config_.Dump());
    if (shards == 1) {
      WriteText(directory + "/model.safetensors", weights_.Build());
      return;
    }
    std::vector<SafetensorsWriter> files(static_cast<size_t>(shards));
    Json map = JsonObject{};
    size_t next = 0;
    for (const auto& [name, tensor] : weights_.tensors()) {
      const size_t shard = next++ % files.size();
      files[shard].tensors()[name] = tensor;
      files[shard].set_header_over(weights_.header_over());
      map.Add(name, ShardName(shard, files.size()));
    }
    for (size_t i = 0; i < files.size(); ++i) {
      WriteText(directory + "/" + ShardName(i, files.size()), files[i].Build());
    }
    Json index = JsonObject{};
    index.Add("weight_map", std::move(map));
    WriteText(directory + "/model.safetensors.index.json", index.Dump());
  }
  static std::string ShardName(size_t index, size_t count) {
    char name[64];
    std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", index + 1, count);
    return name;
  }
  static void WriteText(const std::string& path, std::string_view text) {
    std::ofstream(path, std::ios::binary) << text;
  }

 private:
  std::pair<int64_t, int64_t> Take(const std::string& module) {
    const std::vector<int64_t> shape = weights_original_.at(module + ".weight");
    weights_.tensors().erase(module + ".weight");
    return {shape[0], shape[1]};
  }
  void AddTensors() {
    const HfShape& s = shape_;
    const bool gemma = s.model_type.rfind("gemma", 0) == 0;
    Plain("model.embed_tokens.weight", {s.vocab, s.hidden});
    Plain("model.norm.weight", {s.hidden});
    if (!s.tied) Plain("lm_head.weight", {s.vocab, s.hidden});
    for (int64_t i = 0; i < s.layers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      const int64_t q = s.heads * s.head_dim;
      const int64_t kv = s.kv_heads * s.head_dim;
      Plain(layer + "input_layernorm.weight", {s.hidden});
      Plain(layer + "post_attention_layernorm.weight", {s.hidden});
      if (gemma) {
        Plain(layer + "pre_feedforward_layernorm.weight", {s.hidden});
        Plain(layer + "post_feedforward_layernorm.weight", {s.hidden});
      }
      if (s.model_type == "phi3") {
        Plain(layer + "self_attn.qkv_proj.weight", {q + 2 * kv, s.hidden});
        Plain(layer + "mlp.gate_up_proj.weight", {2 * s.feed_forward, s.hidden});
      } else {
        Plain(layer + "self_attn.q_proj.weight", {q, s.hidden});
        Plain(layer + "self_attn.k_proj.weight", {kv, s.hidden});
        Plain(layer + "self_attn.v_proj.weight", {kv, s.hidden});
        Plain(layer + "mlp.gate_proj.weight", {s.feed_forward, s.hidden});
        Plain(layer + "mlp.up_proj.weight", {s.feed_forward, s.hidden});
      }
      for (const char* part : {"q", "k", "v"}) {
        if (s.model_type != "qwen2") break;
        Plain(layer + "self_attn." + part + "_proj.bias", {*part == 'q' ? q : kv});
      }
      if (s.model_type == "qwen3" || s.model_type == "gemma3_text") {
        Plain(layer + "self_attn.q_norm.weight", {s.head_dim});
        Plain(layer + "self_attn.k_norm.weight", {s.head_dim});
      }
      Plain(layer + "self_attn.o_proj.weight", {s.hidden, q});
      Plain(layer + "mlp.down_proj.weight", {s.hidden, s.feed_forward});
    }
    for (const auto& [name, tensor] : weights_.tensors()) weights_original_[name] = tensor.shape;
  }

  HfShape shape_;
  std::mt19937_64 random_;
  Json config_ = JsonObject{};
  SafetensorsWriter weights_;
  std::map<std::string, std::vector<int64_t>> weights_original_;
};

}  // namespace millrace::testing
