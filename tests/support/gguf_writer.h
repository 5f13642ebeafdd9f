#pragma once
// Makes GGUF files in memory: right ones of random llamas, and, because every part can be set by
// hand, wrong ones.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/weights.h"

namespace millrace::testing {

// Appends in the order of the calls. Thread: one caller.
class GgufWriter {
 public:
  // What the header and the tensor table say; -1: the truth.
  int64_t version = 3;
  int64_t tensor_count = -1;
  int64_t key_count = -1;
  uint64_t alignment = 32;  // of the tensors as written; write the key yourself
  bool pad_end = true;

  template <typename T>
  static std::string Bytes(T value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  static std::string Text(std::string_view text) {
    return Bytes<uint64_t>(text.size()) + std::string(text);
  }

  // A key with a value's bytes as they are.
  void Key(std::string_view key, uint32_t type, std::string_view value) {
    keys_ += Text(key) + Bytes(type) + std::string(value);
    ++written_keys_;
  }
  void U32(std::string_view key, uint32_t value) { Key(key, 4, Bytes(value)); }
  void F32(std::string_view key, float value) { Key(key, 6, Bytes(value)); }
  void Bool(std::string_view key, bool value) { Key(key, 7, Bytes<uint8_t>(value)); }
  void String(std::string_view key, std::string_view value) { Key(key, 8, Text(value)); }
  void Strings(std::string_view key, const std::vector<std::string>& values) {
    std::string out = Bytes<uint32_t>(8) + Bytes<uint64_t>(values.size());
    for (const std::string& value : values) out += Text(value);
    Key(key, 9, out);
  }
  void I32s(std::string_view key, const std::vector<int32_t>& values) {
    std::string out = Bytes<uint32_t>(5) + Bytes<uint64_t>(values.size());
    for (int32_t value : values) out += Bytes(value);
    Key(key, 9, out);
  }

  // A table entry as it is, and data that goes to the next free place. `offset` overrides it.
  void Tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
              std::string_view data, int64_t offset = -1) {
    table_ += Text(name) + Bytes<uint32_t>(static_cast<uint32_t>(dims.size()));
    for (uint64_t dim : dims) table_ += Bytes(dim);
    table_ += Bytes(type);
    table_ += Bytes<uint64_t>(offset != -1 ? static_cast<uint64_t>(offset) : data_.size());
    data_ += data;
    last_end_ = data_.size();
    data_.resize((data_.size() + alignment - 1) / alignment * alignment);
    ++written_tensors_;
  }

  std::string Build() const {
    std::string out = "GGUF" + Bytes(static_cast<uint32_t>(version));
    out +=
        Bytes<uint64_t>(tensor_count >= 0 ? static_cast<uint64_t>(tensor_count) : written_tensors_);
    out += Bytes<uint64_t>(key_count >= 0 ? static_cast<uint64_t>(key_count) : written_keys_);
    out += keys_ + table_;
    out.resize((out.size() + alignment - 1) / alignment * alignment);
    return out + (pad_end ? data_ : data_.substr(0, last_end_));
  }

 private:
  std::string keys_;
  std::string table_;
  std::string data_;
  uint64_t written_keys_ = 0;
  uint64_t written_tensors_ = 0;
  size_t last_end_ = 0;
};

// ggml's number of a weight type.
inline uint32_t GgmlType(kernels::WeightType type) {
  switch (type) {
    case kernels::WeightType::kF32:
      return 0;
    case kernels::WeightType::kF16:
      return 1;
    case kernels::WeightType::kBF16:
      return 30;
    case kernels::WeightType::kQ8_0:
      return 8;
    case kernels::WeightType::kQ4_0:
      return 2;
    case kernels::WeightType::kQ4_1:
      return 3;
    case kernels::WeightType::kQ5_0:
      return 6;
    case kernels::WeightType::kQ5_1:
      return 7;
    case kernels::WeightType::kQ3_K:
      return 11;
    case kernels::WeightType::kQ4_K:
      return 12;
    case kernels::WeightType::kQ5_K:
      return 13;
    case kernels::WeightType::kQ6_K:
      return 14;
    case kernels::WeightType::kIQ4_NL:
      return 20;
    case kernels::WeightType::kIQ4_XS:
      return 23;
    default:
      return 99;  // no GGUF type
  }
}

struct LlamaShape {
  int64_t vocab = 100;
  int64_t hidden = 64;
  int64_t layers = 2;
  int64_t heads = 3;
  int64_t kv_heads = 1;
  int64_t head_dim = 32;
  int64_t feed_forward = 96;
  int64_t context = 256;
  bool tied = true;
  kernels::WeightType type = kernels::WeightType::kF32;
};

// Where a block keeps its fp16 scale, its bits (about 0.1 over the size of what it multiplies), and
// what to add to them for a minimum in bytes 2 and 3 that lies in the middle of the codes; 0: none.
struct BlockScale {
  size_t place;
  uint16_t scale;
  uint16_t minimum;
};
inline BlockScale ScaleOf(kernels::WeightType type) {
  constexpr uint16_t kTimes8 = 0x0c00, kTimes16 = 0x1000, kNegative = 0x8000;
  switch (type) {
    case kernels::WeightType::kQ4_1:
      return {0, 0x2400, kNegative + kTimes8};
    case kernels::WeightType::kQ5_0:
      return {0, 0x2000, 0};
    case kernels::WeightType::kQ5_1:
      return {0, 0x2000, kNegative + kTimes16};
    case kernels::WeightType::kQ8_0:
    case kernels::WeightType::kIQ4_NL:
      return {0, 0x1400, 0};
    case kernels::WeightType::kQ3_K:  // codes of 2, scales of 16
      return {108, 0x1800, 0};
    case kernels::WeightType::kQ4_K:  // scales of 32; the minimum is subtracted
      return {0, 0x1000, kTimes8};
    case kernels::WeightType::kQ5_K:
      return {0, 0x0c00, kTimes16};
    case kernels::WeightType::kQ6_K:  // codes of 16, scales of 64
      return {208, 0x0400, 0};
    case kernels::WeightType::kIQ4_XS:
      return {0, 0x0400, 0};
    default:  // kQ4_0
      return {0, 0x2400, 0};
  }
}

// Random raw bytes of a matrix whose values are finite and about 1/sqrt(cols) large.
inline std::string RandomMatrix(kernels::WeightType type, int64_t rows, int64_t cols,
                                std::mt19937_64& random) {
  std::normal_distribution<float> normal(0, 1.5f / std::sqrt(static_cast<float>(cols)));
  std::string out;
  const int values = kernels::BlockValues(type);
  const size_t block_bytes = static_cast<size_t>(kernels::BlockBytes(type));
  for (int64_t i = 0; i < rows * cols / values; ++i) {
    if (values == 1) {
      const float value = normal(random);
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      if (type == kernels::WeightType::kF32) out += GgufWriter::Bytes(value);
      if (type == kernels::WeightType::kBF16) {
        out += GgufWriter::Bytes(static_cast<uint16_t>(bits >> 16));
      }
      if (type == kernels::WeightType::kF16) {
        // Sign, and an exponent around 2^-4 with random mantissa.
        const uint16_t half =
            static_cast<uint16_t>((bits >> 16 & 0x8000) | 0x2800 | (random() & 0x7ff));
        out += GgufWriter::Bytes(half);
      }
      continue;
    }
    std::string block(block_bytes, '\0');
    for (char& byte : block) byte = static_cast<char>(random());
    const BlockScale at = ScaleOf(type);
    const uint16_t scale = static_cast<uint16_t>(at.scale | (random() & 0x3ff));
    std::memcpy(block.data() + at.place, &scale, 2);
    if (at.minimum != 0) {
      const uint16_t minimum = static_cast<uint16_t>(scale + at.minimum);
      std::memcpy(block.data() + 2, &minimum, 2);
    }
    out += block;
  }
  return out;
}

// A whole, right file of a random llama. `with_tokens` adds a vocabulary of made-up tokens.
inline GgufWriter RandomLlama(const LlamaShape& s, uint64_t seed, bool with_tokens = false) {
  std::mt19937_64 random(seed);
  GgufWriter w;
  w.String("general.architecture", "llama");
  w.U32("llama.block_count", static_cast<uint32_t>(s.layers));
  w.U32("llama.context_length", static_cast<uint32_t>(s.context));
  w.U32("llama.embedding_length", static_cast<uint32_t>(s.hidden));
  w.U32("llama.feed_forward_length", static_cast<uint32_t>(s.feed_forward));
  w.U32("llama.attention.head_count", static_cast<uint32_t>(s.heads));
  w.U32("llama.attention.head_count_kv", static_cast<uint32_t>(s.kv_heads));
  w.U32("llama.attention.key_length", static_cast<uint32_t>(s.head_dim));
  w.U32("llama.attention.value_length", static_cast<uint32_t>(s.head_dim));
  w.F32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  w.F32("llama.rope.freq_base", 10000.0f);
  if (with_tokens) {
    std::vector<std::string> tokens;
    for (int64_t i = 0; i < s.vocab; ++i) tokens.push_back("t" + std::to_string(i));
    w.String("tokenizer.ggml.model", "gpt2");
    w.Strings("tokenizer.ggml.tokens", tokens);
    w.I32s("tokenizer.ggml.token_type", std::vector<int32_t>(tokens.size(), 1));
    w.U32("tokenizer.ggml.eos_token_id", 2);
  }
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) {
    w.Tensor(name, {static_cast<uint64_t>(cols), static_cast<uint64_t>(rows)}, GgmlType(s.type),
             RandomMatrix(s.type, rows, cols, random));
  };
  const auto norm = [&](const std::string& name) {
    std::string data;
    std::uniform_real_distribution<float> around(0.5f, 1.5f);
    for (int64_t i = 0; i < s.hidden; ++i) data += GgufWriter::Bytes(around(random));
    w.Tensor(name, {static_cast<uint64_t>(s.hidden)}, 0, data);
  };
  matrix("token_embd.weight", s.vocab, s.hidden);
  for (int64_t i = 0; i < s.layers; ++i) {
    const std::string layer = "blk." + std::to_string(i) + ".";
    norm(layer + "attn_norm.weight");
    matrix(layer + "attn_q.weight", s.heads * s.head_dim, s.hidden);
    matrix(layer + "attn_k.weight", s.kv_heads * s.head_dim, s.hidden);
    matrix(layer + "attn_v.weight", s.kv_heads * s.head_dim, s.hidden);
    matrix(layer + "attn_output.weight", s.hidden, s.heads * s.head_dim);
    norm(layer + "ffn_norm.weight");
    matrix(layer + "ffn_gate.weight", s.feed_forward, s.hidden);
    matrix(layer + "ffn_up.weight", s.feed_forward, s.hidden);
    matrix(layer + "ffn_down.weight", s.hidden, s.feed_forward);
  }
  norm("output_norm.weight");
  if (!s.tied) matrix("output.weight", s.vocab, s.hidden);
  return w;
}

inline void WriteFile(const std::string& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace millrace::testing
